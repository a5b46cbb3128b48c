"""Checkpoints written by the official TensorFlow code, with seeded weights."""

from __future__ import annotations

import dataclasses
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from movinet_convert.model.settings import get_variant
from movinet_convert.parity.official import build_official, import_tensorflow


def build(variant: str, classes: int = 7, **settings: Any) -> Any:
    """The official model of ``variant`` with seeded weights that depend only on variable names."""
    modules = import_tensorflow("Writing a checkpoint with the official code")
    modules.keras.backend.clear_session()
    chosen = dataclasses.replace(get_variant(variant).settings(), **settings)
    model = build_official(modules, variant.split("-")[0], chosen, classes)
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
    """A copy of the checkpoint at ``prefix``, split into ``shards`` data files."""
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
