"""The official TensorFlow model, built and run as its authors built it.

Source: ``official/projects/movinet/modeling`` of tf-models-official. Everything that goes in and
comes out is numpy in this package's layout and names: clips (B, 3, T, H, W), activations
(B, C, T, H, W), states as in ``ReferenceState``, variables by canonical TF path.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from movinet_convert.errors import CheckpointError, StateError
from movinet_convert.parity.tf import import_tensorflow, without_collection
from movinet_convert.variants import KINETICS_600_CLASSES, Settings, Variant

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ReferenceState:
    """The state of a stream, named and laid out as ``StreamState``, in numpy.

    ``frame_count`` (B,) int64; ``buffers`` block -> (B, C, k-1, H, W); ``pools`` block -> (B, C)
    and ``head`` (B, C), both running sums over frames of spatial means.
    """

    frame_count: NDArray[np.int64]
    buffers: Mapping[str, Array]
    pools: Mapping[str, Array]
    head: Array

    def tensors(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """Every array with the name that ``StreamState.tensors`` gives it."""
        yield "frame_count", self.frame_count
        for name, pool in self.pools.items():
            if name in self.buffers:
                yield f"{name}.buffer", self.buffers[name]
            yield f"{name}.pool", pool
        yield "head", self.head


@functools.lru_cache(maxsize=1)
def official_model(variant: Variant, settings: Settings, num_classes: int) -> Reference:
    """The official model, kept for the next who asks: building it is slow.

    Its weights are those that whoever asked before has left in it: ``load`` others first.
    """
    return Reference(variant, settings, num_classes)


class Reference:
    """The official ``Movinet`` + ``MovinetClassifier`` of one variant, in inference mode.

    Stream variants take and give their states from outside. ``model-garden`` gating is what the
    installed code means by ``hard_sigmoid``; ``keras`` gating is the callable of that name in
    Keras, which the released checkpoints were trained with (tensorflow/models issue 13559).

    The official model is float32. Built in float64 it computes the same formulas all but free of
    rounding; only its fused normalisations give way to unfused ones, for want of such a kernel.
    The official positional encoding does not run in float64, hence no stream model from A3 on.
    """

    def __init__(
        self,
        variant: Variant,
        settings: Settings | None = None,
        num_classes: int = KINETICS_600_CLASSES,
        *,
        use_sync_bn: bool = False,
        dtype: Literal["float32", "float64"] = "float32",
    ) -> None:
        self._use_sync_bn = use_sync_bn  # matters in training alone
        self.dtype = np.dtype(dtype)
        self.variant = variant
        self.settings = settings if settings is not None else variant.settings()
        self.num_classes = num_classes
        self._modules = import_tensorflow("Comparing with the official model")
        with without_collection():
            self._backbone, self._model = self._build()
        self._variables = dict(self._named_variables())
        # A traced graph costs as much as about twenty eager calls of a stream model, and a check
        # makes fewer. In base models Keras compiles each depthwise Conv3D on its own, which eager
        # execution pays anew in every call.
        call = self._call_model if self.settings.causal else self._graph(self._call_model)
        self._run = call

    @property
    def backbone(self) -> Any:
        """The official ``Movinet``, a Keras model."""
        return self._backbone

    @property
    def model(self) -> Any:
        """The official ``MovinetClassifier`` around it, a Keras model."""
        return self._model

    @property
    def tf(self) -> Any:
        """The module ``tensorflow``."""
        return self._modules.tf

    @property
    def tf_variables(self) -> Mapping[str, Any]:
        """The ``tf.Variable`` objects, by canonical TF path."""
        return self._variables

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every variable, by canonical TF path."""
        return {name: tuple(v.shape) for name, v in self._variables.items()}

    def variables(self) -> dict[str, Array]:
        """The value of every variable, by canonical TF path."""
        return {name: v.numpy() for name, v in self._variables.items()}

    @property
    def classifier_bias(self) -> Array:
        """(num_classes,), what the last layer adds to the logits."""
        (bias,) = (
            variable
            for name, variable in self._variables.items()
            if name.startswith("classifier_head/_classifier/") and name.endswith("/bias")
        )
        value: Array = bias.numpy()
        return value

    def load(self, variables: Mapping[str, NDArray[Any]]) -> None:
        """Assign every variable once; CheckpointError unless names and shapes match exactly."""
        missing = sorted(self._variables.keys() - variables.keys())
        unknown = sorted(variables.keys() - self._variables.keys())
        if missing or unknown:
            raise CheckpointError(
                f"The variables do not fit the official {self.variant.name}: "
                f"{len(missing)} missing {missing[:3]}, {len(unknown)} unknown {unknown[:3]}."
            )
        for name, variable in self._variables.items():
            array = variables[name]
            if array.shape != tuple(variable.shape):
                raise CheckpointError(
                    f"{name} has the shape {array.shape}; "
                    f"the official {self.variant.name} expects {tuple(variable.shape)}."
                )
            variable.assign(array.astype(self.dtype, copy=False))

    def restore(self, prefix: Path) -> None:
        """Read a checkpoint with TensorFlow itself; CheckpointError unless all variables match."""
        tf = self._modules.tf
        try:
            status = tf.train.Checkpoint(model=self._model).restore(str(prefix))
            status.assert_existing_objects_matched().expect_partial()
        except (AssertionError, ValueError, tf.errors.OpError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"TensorFlow cannot restore {prefix} into {self.variant.name}: {reason}"
            ) from error

    def save(self, folder: Path) -> Path:
        """Write a checkpoint as the releases were saved; returns the prefix ``folder/ckpt-1``."""
        checkpoint = self._modules.tf.train.Checkpoint(model=self._model)
        return Path(checkpoint.save(str(folder / "ckpt")))

    def logits(self, clip: Array) -> Array:
        """Run one clip (B, 3, T, H, W) from its beginning; (B, num_classes)."""
        logits, _ = self._run(self._inputs(clip, None))
        return self._to_logits(logits, clip)

    def stream(
        self, frames: Array, state: ReferenceState | None = None
    ) -> tuple[Array, ReferenceState]:
        """Run the next frames (B, 3, t, H, W) of a video; logits and the state after them."""
        logits, states = self._run(self._inputs(frames, state))
        return self._to_logits(logits, frames), _from_tf_states(states, frames.shape[0])

    def endpoints(self, clip: Array) -> dict[str, Array]:
        """Activations (B, C, T, H, W) after the stem, every block and the head, in order."""
        endpoints, _ = self._backbone(self._inputs(clip, None), training=False)
        blocks = (block.name for block in self.variant.spec.blocks)
        return {n: _channels_first(endpoints[n].numpy()) for n in ("stem", *blocks, "head")}

    def _build(self) -> tuple[Any, Any]:
        keras = self._modules.keras
        default = keras.backend.floatx()
        keras.backend.set_floatx(self.dtype.name)
        try:
            backbone, model = self._build_in_default_dtype()
        finally:
            keras.backend.set_floatx(default)
        if self.dtype != np.float32:
            self._clear_way_for_dtype(backbone, model)
        return backbone, model

    def _clear_way_for_dtype(self, backbone: Any, model: Any) -> None:
        tf, keras = self._modules.tf, self._modules.keras
        # The classifier returns float32 whatever it computes in.
        (classifier,) = (layer for layer in model.layers if hasattr(layer, "_cast"))
        classifier._cast = keras.layers.Activation("linear", dtype=self.dtype.name)
        # TensorFlow has 3D pooling in float64 under its compiler alone.
        for layer in backbone.submodules:
            if isinstance(layer, keras.layers.AveragePooling3D):
                layer.call = tf.function(layer.call, jit_compile=True)

    def _build_in_default_dtype(self) -> tuple[Any, Any]:
        keras, settings = self._modules.keras, self.settings
        # Keras numbers the layers of a process, and a checkpoint records their names.
        keras.backend.reset_uids()
        gating = {
            "sigmoid": "sigmoid",
            "keras": keras.activations.hard_sigmoid,
            "model-garden": "hard_sigmoid",
        }[settings.gating]
        backbone = self._modules.movinet.Movinet(
            model_id=self.variant.arch,
            causal=settings.causal,
            use_positional_encoding=settings.positional_encoding,
            conv_type=settings.conv_type,
            se_type=settings.se_type,
            activation=settings.activation,
            gating_activation=gating,
            use_sync_bn=self._use_sync_bn,
            use_external_states=settings.causal,
        )
        model = self._modules.movinet_model.MovinetClassifier(
            backbone,
            num_classes=self.num_classes,
            activation=settings.head_activation,
            output_states=True,
        )
        return backbone, model

    def _call_model(self, inputs: Mapping[str, Any]) -> Any:
        return self._model(inputs, training=False)

    def _graph(self, function: Any) -> Any:
        spec = {"image": self._modules.tf.TensorSpec([None, None, None, None, 3])}
        return self._modules.tf.function(function, input_signature=[spec])

    def _named_variables(self) -> Iterator[tuple[str, Any]]:
        tops = {layer.name: layer for layer in self._backbone.layers if layer.weights}
        (classifier,) = (
            layer for layer in self._model.layers if layer.weights and layer is not self._backbone
        )
        for name, layer in (*tops.items(), ("classifier_head", classifier)):
            yield from _object_paths(self._modules.tf, name, layer)

    def tf_inputs(self, clip: Array, states: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """What the official model is called with: the clip and, in streams, its own states."""
        tf = self._modules.tf
        image = tf.constant(np.ascontiguousarray(clip.transpose(0, 2, 3, 4, 1), self.dtype))
        if not self.settings.causal:
            return {"image": image}
        if states is None:
            states = self._backbone.init_states(tuple(image.shape))
        return {**states, "image": image}

    def _inputs(self, clip: Array, state: ReferenceState | None) -> dict[str, Any]:
        inputs = self.tf_inputs(clip)
        if state is not None:
            for name in inputs.keys() - {"image"}:
                inputs[name] = self._modules.tf.constant(_to_tf_state(name, state))
        return inputs

    def _to_logits(self, logits: Any, clip: Array) -> Array:
        # float32 whatever the clip: the reference is the model as it was released.
        return np.asarray(logits.numpy(), np.float32).reshape(clip.shape[0], self.num_classes)


def _object_paths(tf: Any, name: str, layer: Any) -> Iterator[tuple[str, Any]]:
    """Each variable below ``layer`` once, at the path a checkpoint stores it under.

    A variable that several attributes reach is stored under the first path of a breadth-first walk
    (``tensorflow/python/checkpoint/graph_view.py``).
    """
    view = tf.train.TrackableView(layer)
    queue, seen = deque([(name, layer)]), {id(layer)}
    while queue:
        path, node = queue.popleft()
        for attribute, child in view.children(node).items():
            if id(child) in seen:
                continue
            seen.add(id(child))
            below = f"{path}/{attribute}"
            if isinstance(child, tf.Variable):
                yield below, child
            queue.append((below, child))


def _channels_first(array: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(array, -1, 1))


def _from_tf_states(states: Mapping[str, Any], batch: int) -> ReferenceState:
    """TensorFlow keeps one frame count per layer for the whole batch; they always agree."""
    buffers, pools, counts = {}, {}, set()
    for name, tensor in states.items():
        block, kind = _split_state_name(name)
        if kind == "stream_buffer":
            buffers[block] = _channels_first(tensor.numpy())
        elif kind == "pool_buffer":
            pools[block] = tensor.numpy()[:, 0, 0, 0, :]
        else:
            counts.add(int(tensor.numpy()[0]))
    if len(counts) != 1:
        raise StateError(f"The official model returned frame counts that differ: {sorted(counts)}.")
    head = pools.pop("head")
    return ReferenceState(np.full(batch, counts.pop(), np.int64), buffers, pools, head)


def _to_tf_state(name: str, state: ReferenceState) -> NDArray[Any]:
    block, kind = _split_state_name(name)
    if kind == "stream_buffer":
        return np.moveaxis(state.buffers[block], 1, -1)
    if kind == "pool_buffer":
        pool = state.head if block == "head" else state.pools[block]
        return pool[:, None, None, None, :]
    if (state.frame_count != state.frame_count[0]).any():
        raise StateError("The official model keeps one frame count for all videos of a batch.")
    return state.frame_count[:1].astype(np.int32)


def _split_state_name(name: str) -> tuple[str, str]:
    """``state_block0_layer1_pool_frame_count`` -> (``block0_layer1``, ``pool_frame_count``)."""
    for kind in ("stream_buffer", "pool_buffer", "pool_frame_count", "pos_enc_frame_count"):
        if name.endswith(f"_{kind}"):
            return name.removeprefix("state_").removesuffix(f"_{kind}"), kind
    raise StateError(f"The official model has a state this tool does not know: {name}.")
