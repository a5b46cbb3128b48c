"""The official TensorFlow model with this package's names and layouts.

Variables are named by canonical TF path. Clips (B, 3, T, H, W), activations (B, C, T, H, W) and
logits are NumPy arrays, the state of a stream is a ``StreamState``.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from movinet_convert.errors import CheckpointError
from movinet_convert.model import StreamState
from movinet_convert.parity.official import build_official, import_tensorflow
from movinet_convert.parity.states import official_state, stream_state
from movinet_convert.variants import KINETICS_600_CLASSES, Settings, Variant

Array = NDArray[Any]


@functools.lru_cache(maxsize=1)
def shared_reference(variant: Variant, settings: Settings, num_classes: int) -> Reference:
    """A cached reference, since building one is slow.

    It still has the weights of its last use: ``load`` yours first.
    """
    return Reference(variant, settings, num_classes)


class Reference:
    """The official model of one variant, in inference mode; ``model`` is one already built."""

    def __init__(
        self,
        variant: Variant,
        settings: Settings | None = None,
        num_classes: int = KINETICS_600_CLASSES,
        *,
        model: Any = None,
    ) -> None:
        self.variant = variant
        self.settings = settings if settings is not None else variant.settings()
        self.num_classes = num_classes
        modules = import_tensorflow("Comparing with the official model")
        self.tf = modules.tf
        self.model = model or build_official(modules, variant.arch, self.settings, num_classes)
        self.tf_variables: Mapping[str, Any] = dict(_named_variables(self.tf, self.model))
        self.dtype = np.dtype(self.model.variables[0].dtype.as_numpy_dtype)
        # Traced once for clips of any size. Tracing a stream model costs as much as some eight
        # eager calls; those of a base model would compile every depthwise Conv3D again.
        specs = {
            name: self.tf.TensorSpec(_any_size(tensor.shape), tensor.dtype)
            for name, tensor in self.inputs(np.zeros((1, 3, 1, 32, 32))).items()
        }
        self._traced: Any = self.tf.function(self.call, input_signature=[specs], autograph=False)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every variable."""
        return {name: tuple(v.shape) for name, v in self.tf_variables.items()}

    @property
    def classifier_bias(self) -> Array:
        """(num_classes,), the bias of the last layer."""
        prefix, suffix = "classifier_head/_classifier/", "/bias"
        (bias,) = (
            variable
            for name, variable in self.tf_variables.items()
            if name.startswith(prefix) and name.endswith(suffix)
        )
        value: Array = bias.numpy()
        return value

    def variables(self) -> dict[str, Array]:
        """The value of every variable."""
        return {name: v.numpy() for name, v in self.tf_variables.items()}

    def load(self, variables: Mapping[str, Array]) -> None:
        """Assign every variable; CheckpointError unless names and shapes match exactly."""
        missing = sorted(self.tf_variables.keys() - variables.keys())
        unknown = sorted(variables.keys() - self.tf_variables.keys())
        if missing or unknown:
            raise CheckpointError(
                f"The variables do not fit the official {self.variant.name}: "
                f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}."
            )
        for name, variable in self.tf_variables.items():
            array = variables[name]
            if array.shape != tuple(variable.shape):
                raise CheckpointError(
                    f"{name} has the shape {array.shape}; "
                    f"the official {self.variant.name} expects {tuple(variable.shape)}."
                )
            variable.assign(array.astype(self.dtype, copy=False))

    def save(self, folder: Path) -> Path:
        """Write a checkpoint as the releases were saved; returns the prefix ``folder/ckpt-1``."""
        return Path(self.tf.train.Checkpoint(model=self.model).save(str(folder / "ckpt")))

    def logits(self, clip: Array) -> Array:
        """Logits (B, num_classes) of whole clips."""
        logits, _ = self._run(self.inputs(clip))
        return self._to_logits(logits, clip)

    def stream(self, frames: Array, state: StreamState | None = None) -> tuple[Array, StreamState]:
        """Logits after the next frames of a video, and the state to continue with."""
        inputs = self.inputs(frames)
        if state is not None:
            names = inputs.keys() - {"image"}
            inputs |= {name: self.tf.constant(official_state(name, state)) for name in names}
        logits, states = self._run(inputs)
        arrays = {name: np.array(tensor) for name, tensor in states.items()}
        return self._to_logits(logits, frames), stream_state(arrays, frames.shape[0])

    def endpoints(self, clip: Array) -> dict[str, Array]:
        """Activations after the stem, every block and the head, in order."""
        endpoints, _ = self.model.backbone(self.inputs(clip), training=False)
        blocks = (block.name for block in self.variant.spec.blocks)
        return {
            name: np.ascontiguousarray(np.moveaxis(endpoints[name].numpy(), -1, 1))
            for name in ("stem", *blocks, "head")
        }

    def inputs(self, clip: Array, states: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The inputs of the official model: the clip and, for streams, TensorFlow states."""
        image = self.tf.constant(np.ascontiguousarray(clip.transpose(0, 2, 3, 4, 1), self.dtype))
        if not self.settings.causal:
            return {"image": image}
        if states is None:
            states = self.model.backbone.init_states(tuple(image.shape))
        return {**states, "image": image}

    def call(self, inputs: Mapping[str, Any], training: bool = False) -> tuple[Any, Any]:
        """Logits and states as TensorFlow tensors; a base model has no states."""
        outputs = self.model(inputs, training=training)
        return outputs if self.settings.causal else (outputs, {})

    def _run(self, inputs: Mapping[str, Any]) -> tuple[Any, Any]:
        """``call`` as a graph; that of a stream model gives the bits of eager execution.

        For that, TensorFlow must not rewrite it, which also takes longer than it saves here.
        """
        optimizer = self.tf.config.optimizer
        options = optimizer.get_experimental_options()
        optimizer.set_experimental_options({"disable_meta_optimizer": self.settings.causal})
        try:
            outputs: tuple[Any, Any] = self._traced(inputs)
        finally:
            optimizer.set_experimental_options({"disable_meta_optimizer": False, **options})
        return outputs

    def _to_logits(self, logits: Any, clip: Array) -> Array:
        # Always float32, since the reference is the model as released.
        return np.asarray(logits.numpy(), np.float32).reshape(clip.shape[0], self.num_classes)


def _any_size(shape: tuple[int, ...]) -> list[int | None]:
    """Any batch, frames, height and width of (B, T, H, W, C); frame counts stay as they are."""
    return [None, None, None, None, shape[4]] if len(shape) == 5 else list(shape)


def _named_variables(tf: Any, model: Any) -> Iterator[tuple[str, Any]]:
    """Each variable once, at the canonical path.

    A checkpoint stores a variable under the first path of a breadth-first walk over attributes
    (``tensorflow/python/checkpoint/graph_view.py``).
    """
    tops = {layer.name: layer for layer in model.backbone.layers if layer.weights}
    (classifier,) = (
        layer for layer in model.layers if layer.weights and layer is not model.backbone
    )
    for top, layer in (*tops.items(), ("classifier_head", classifier)):
        view = tf.train.TrackableView(layer)
        queue, seen = deque([(top, layer)]), {id(layer)}
        while queue:
            path, node = queue.popleft()
            for attribute, child in view.children(node).items():
                if id(child) in seen:
                    continue
                seen.add(id(child))
                if isinstance(child, tf.Variable):
                    yield f"{path}/{attribute}", child
                queue.append((f"{path}/{attribute}", child))
