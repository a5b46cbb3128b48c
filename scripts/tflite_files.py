"""TFLite files written by TensorFlow's converter from the official model, and the interpreter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from movinet_convert.model.settings import get_variant
from movinet_convert.parity.official import build_official, import_tensorflow
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.synthetic import synthetic_variables
from movinet_convert.variants import KINETICS_600_CLASSES

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from movinet_convert.variants import Gating

CLIP_FRAMES = 3


@dataclass(frozen=True)
class Written:
    """The official model of a variant as a SavedModel, and the variables that it has."""

    model: Any
    saved: Path
    shape: tuple[int, ...]
    variables: dict[str, NDArray[Any]]

    def file(self, kind: str) -> Path:
        """``float32``, ``float16``, ``dynamic`` or ``int8``, as TensorFlow's guide writes them."""
        import tensorflow as tf

        path = self.saved / f"{kind}.tflite"
        if path.exists():
            return path
        converter = tf.lite.TFLiteConverter.from_saved_model(str(self.saved))
        builtins = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        converter.target_spec.supported_ops = builtins
        if kind != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if kind == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if kind == "int8":
            converter.representative_dataset = self._samples
        path.write_bytes(converter.convert())
        return path

    def _samples(self) -> Iterator[dict[str, NDArray[Any]]]:
        states = self.model.init_states(self.shape)
        for seed in range(2):
            image = np.random.default_rng(seed).uniform(0, 1, self.shape).astype(np.float32)
            yield {"image": image, **{name: value.numpy() for name, value in states.items()}}


def write(
    folder: Path,
    name: str,
    gating: Gating,
    *,
    size: int | None = None,
    classes: int = KINETICS_600_CLASSES,
    variables: Mapping[str, NDArray[Any]] | None = None,
    exporter: bool = False,
    **settings: Any,
) -> Written:
    """Save the official model, with ``variables`` or seeded ones, for TensorFlow's converter.

    ``exporter``: with the official exporter. Otherwise the function that it saves is saved without
    the Keras model around it, which gives the same file in a tenth of the time.
    """
    modules = import_tensorflow("Writing TFLite files")
    variant = get_variant(name)
    chosen = replace(variant.settings(), gating=gating, **settings)
    side = size or variant.input.size
    shape = (1, 1 if variant.causal else CLIP_FRAMES, side, side, 3)
    official = build_official(
        modules, variant.arch, chosen, classes, clip_shape=shape, simple_swish=True
    )
    official.build(shape)
    reference = Reference(variant, chosen, classes, model=official)
    values = dict(variables or synthetic_variables(variant, reference.shapes))
    reference.load(values)
    if exporter:
        from official.projects.movinet.tools.export_saved_model import export_saved_model

        export_saved_model(
            official, shape, str(folder), variant.causal, bundle_input_init_states_fn=False
        )
    else:
        _save(modules.tf, official, shape, variant.causal, folder)
    return Written(official, folder, shape, values)


def _save(tf: Any, official: Any, shape: tuple[int, ...], causal: bool, folder: Path) -> None:
    def predict(inputs: dict[str, Any]) -> dict[str, Any]:
        logits, states = official(inputs) if causal else (official(inputs), {})
        return {**states, "logits": logits}

    specs = official.initial_state_specs(shape) if causal else {}
    specs = {key: tf.TensorSpec(spec.shape, spec.dtype, key) for key, spec in specs.items()}
    specs["image"] = tf.TensorSpec(shape, tf.float32, "image")
    module = tf.Module()
    module.weights = official.variables
    signature = tf.function(predict, jit_compile=causal).get_concrete_function(specs)
    tf.saved_model.save(module, str(folder), signatures=signature)


def interpreted(path: Path, video: NDArray[np.float32]) -> NDArray[np.float32]:
    """The interpreter's logits (T, classes) after each frame of a video (1, 3, T, H, W)."""
    import tensorflow as tf

    call = tf.lite.Interpreter(str(path)).get_signature_runner()
    states = {
        name: np.zeros(tensor["shape"], tensor["dtype"])
        for name, tensor in call.get_input_details().items()
        if name != "image"
    }
    rows = []
    for at in range(video.shape[2]):
        frame = np.ascontiguousarray(video[:, :, at : at + 1].transpose(0, 2, 3, 4, 1))
        outputs = call(image=frame, **states)
        rows.append(outputs["logits"].reshape(-1))
        states = {name: outputs[name] for name in states}
    return np.stack(rows)
