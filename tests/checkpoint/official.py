"""Checkpoints written by the official TensorFlow code, with seeded weights."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np

STREAM = {
    "causal": True,
    "conv_type": "2plus1d",
    "se_type": "2plus3d",
    "activation": "hard_swish",
    "gating_activation": "hard_sigmoid",
}


def build(variant: str, classes: int = 7, **settings: Any) -> Any:
    """The official model of ``variant`` with weights that depend on variable names alone."""
    import tf_keras
    from official.projects.movinet.modeling import movinet, movinet_model

    arch, mode = variant.split("-")
    options: dict[str, Any] = dict(STREAM) if mode == "stream" else {}
    if mode == "stream":
        options["use_positional_encoding"] = arch in ("a3", "a4", "a5")
    tf_keras.backend.clear_session()
    backbone = movinet.Movinet(model_id=arch, **{**options, **settings})
    model = movinet_model.MovinetClassifier(backbone, num_classes=classes)
    model.build([1, 1, 1, 1, 3])
    randomise(model.variables)
    return model


def randomise(variables: list[Any]) -> None:
    """Different values in every variable, the same for the same names and order."""
    for position, variable in enumerate(variables):
        seed = zlib.crc32(f"{position} {variable.name}".encode())
        values = np.random.default_rng(seed).uniform(0.5, 2.0, variable.shape)
        variable.assign(values.astype(variable.dtype.as_numpy_dtype))


def save_model_garden(model: Any, folder: Path) -> Path:
    """As released: ``tf.train.Checkpoint(model=model)``; returns the prefix."""
    import tensorflow as tf

    return Path(tf.train.Checkpoint(model=model).save(str(folder / "ckpt")))


def save_training_run(
    model: Any, folder: Path, optimizer: dict[str, Any], learning_rate: float = 0.01
) -> Path:
    """As ``official.core.base_trainer`` saves it, after one step of the optimizer."""
    import tensorflow as tf
    from official.modeling import optimization

    rate = {"type": "constant", "constant": {"learning_rate": learning_rate}}
    factory = optimization.OptimizerFactory(
        optimization.OptimizationConfig({**optimizer, "learning_rate": rate})
    )
    stepper = factory.build_optimizer(factory.build_learning_rate())
    if hasattr(stepper, "shadow_copy"):
        stepper.shadow_copy(model)
    stepper.apply_gradients([(tf.ones_like(v), v) for v in model.trainable_variables])
    checkpoint = tf.train.Checkpoint(
        global_step=tf.Variable(1, dtype=tf.int64),
        model=model,
        optimizer=stepper,
        **model.checkpoint_items,
    )
    return Path(checkpoint.save(str(folder / "ckpt")))


def save_in_shards(prefix: Path, folder: Path, shards: int) -> Path:
    """The checkpoint at ``prefix`` again, its tensors dealt out over ``shards`` data files."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    names = sorted(reader.get_variable_to_shape_map())
    parts = []
    for shard in range(shards):
        mine = names[shard::shards]
        part = str(folder / f"part-{shard}")
        tensors = [tf.constant(reader.get_tensor(name)) for name in mine]
        tf.raw_ops.SaveV2(
            prefix=part, tensor_names=mine, shape_and_slices=[""] * len(mine), tensors=tensors
        )
        parts.append(part)
    target = folder / "sharded"
    tf.raw_ops.MergeV2Checkpoints(
        checkpoint_prefixes=parts, destination_prefix=str(target), delete_old_dirs=False
    )
    return target
