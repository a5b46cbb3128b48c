"""TFLite files written by TensorFlow's converter from the official model, and the interpreter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from movinet_convert.model.settings import get_variant
from movinet_convert.parity.official import build_official, import_tensorflow
from movinet_convert.parity.reference import Reference
from movinet_convert.parity.synthetic import synthetic_variables

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from movinet_convert.variants import Gating

SIZE, CLASSES, CLIP_FRAMES = 45, 7, 3


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


def write(folder: Path, name: str, gating: Gating, **settings: Any) -> Written:
    """Save the function that the official exporter saves for TFLite, with seeded weights."""
    modules = import_tensorflow("Writing TFLite files")
    tf, variant = modules.tf, get_variant(name)
    chosen = replace(variant.settings(), gating=gating, **settings)
    shape = (1, 1 if variant.causal else CLIP_FRAMES, SIZE, SIZE, 3)
    official = build_official(
        modules, variant.arch, chosen, CLASSES, clip_shape=shape, simple_swish=True
    )
    official.build(shape)
    reference = Reference(variant, chosen, CLASSES, model=official)
    variables = _variables(reference)
    reference.load(variables)

    def predict(inputs: dict[str, Any]) -> dict[str, Any]:
        logits, states = official(inputs) if variant.causal else (official(inputs), {})
        return {**states, "logits": logits}

    specs = official.initial_state_specs(shape) if variant.causal else {}
    specs = {key: tf.TensorSpec(spec.shape, spec.dtype, key) for key, spec in specs.items()}
    specs["image"] = tf.TensorSpec(shape, tf.float32, "image")
    module = tf.Module()
    module.weights = official.variables
    signature = tf.function(predict, jit_compile=variant.causal).get_concrete_function(specs)
    tf.saved_model.save(module, str(folder), signatures=signature)
    return Written(official, folder, shape, variables)


def _variables(reference: Reference) -> dict[str, NDArray[Any]]:
    if any("/_attention/" in name for name in reference.shapes):
        return synthetic_variables(reference.variant, reference.shapes)
    generator = np.random.default_rng(0)  # weights that need not behave
    return {
        name: generator.uniform(0.5, 1.0, shape).astype(np.float32)
        for name, shape in reference.shapes.items()
    }


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


def folded(variables: dict[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
    """Kernels and biases with normalisation folded in, and scales: what a network computes with."""
    found = {}
    for name, value in variables.items():
        exact, (layer, _, leaf) = value.astype(np.float64), name.partition("/_conv")
        if leaf.endswith("kernel"):
            norm = f"{layer}/_batch_norm{'_temporal' if leaf.startswith('_temporal') else ''}"
            scale = _fold(found, name, norm, variables)
            depthwise = leaf.endswith("depthwise_kernel")
            exact = exact * (scale.reshape(-1, 1) if depthwise else scale)
        elif "_batch_norm" in name:
            continue
        found[name] = exact
    return found


def _fold(
    found: dict[str, NDArray[np.float64]], name: str, norm: str, variables: dict[str, NDArray[Any]]
) -> NDArray[np.float64]:
    """The scale of the normalisation behind a kernel; its bias goes into ``found``."""
    if f"{norm}/gamma" not in variables:
        return np.ones(1)
    gamma, beta, mean, variance = (
        variables[f"{norm}/{leaf}"].astype(np.float64)
        for leaf in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    scale: NDArray[np.float64] = gamma / np.sqrt(variance + 1e-3)
    found[f"{name} (bias)"] = beta - mean * scale
    return scale
