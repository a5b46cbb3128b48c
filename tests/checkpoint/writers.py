"""The same weights in every layout, each written by the library that defines it."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.checkpoint import official

Writer = Callable[[Any, str, Path], Path]


def keras_tf_format(model: Any, variant: str, folder: Path) -> Path:
    model.save_weights(str(folder / "weights"))
    return folder / "weights"


def keras_h5(model: Any, variant: str, folder: Path) -> Path:
    model.save_weights(str(folder / "weights.of.a.model.h5"))
    return folder / "weights.of.a.model.h5"


def keras_weights_h5(model: Any, variant: str, folder: Path) -> Path:
    model.save_weights(str(folder / "x.weights.h5"))
    return folder / "x.weights.h5"


def untraced_saved_model(model: Any, variant: str, folder: Path) -> Path:
    """Without its traced functions a SavedModel has the keys of ``save_weights``."""
    model.save(str(folder / "saved_model"), save_traces=False)
    return folder / "saved_model"


def listed_variables(model: Any, variant: str, folder: Path) -> Path:
    """Keys ``variables/N``, as in the SavedModel of Keras, without minutes of tracing."""
    return save_listed(folder, variables=list(model.variables))


def training_run(model: Any, variant: str, folder: Path) -> Path:
    """After a step with a learning rate of 0, which creates slots but keeps the weights."""
    optimizer = {"optimizer": {"type": "sgd", "sgd": {"momentum": 0.9}}}
    averaged = {**optimizer, "ema": {"average_decay": 0.9}}
    return official.save_training_run(model, folder, averaged, learning_rate=0.0)


def training_in_3d(model: Any, variant: str, folder: Path) -> Path:
    """``3d_2plus1d``, in which the stream models were trained: the same values, 3D shapes."""
    mixed = official.build(variant, conv_type="3d_2plus1d")
    weights = zip(model.get_weights(), mixed.get_weights(), strict=True)
    mixed.set_weights([ours.reshape(theirs.shape) for ours, theirs in weights])
    return official.save_model_garden(mixed, folder)


def tfhub(model: Any, variant: str, folder: Path) -> Path:
    """As published on TF-Hub: other names, other order, trainable variables in their own list."""
    import tensorflow as tf

    trainable = {id(variable) for variable in model.trainable_variables}
    listed = sorted(
        enumerate(model.variables), key=lambda item: hub_position(item, id(item[1]) in trainable)
    )
    variables = [
        tf.Variable(v, name=hub_name(v.name), trainable=id(v) in trainable) for _, v in listed
    ]
    return save_listed(
        folder,
        trainable_variables=[v for v in variables if v.trainable],
        variables=variables,
        keras_api=tf.train.Checkpoint(metrics=[tf.train.Checkpoint(total=tf.Variable(0.0))]),
    )


def save_listed(folder: Path, **lists: Any) -> Path:
    """A SavedModel of lists of variables, without functions."""
    import tensorflow as tf

    tf.saved_model.save(tf.train.Checkpoint(**lists), str(folder / "saved_model"))
    return folder / "saved_model"


def kaggle_archive(model: Any, variant: str, folder: Path) -> Path:
    """As Kaggle sends it: a gzipped tar of the SavedModel, without a top folder."""
    saved, archive = tfhub(model, variant, folder), folder / f"{variant}.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as tar:
        for path in sorted(saved.rglob("*")):
            tar.add(path, path.relative_to(saved).as_posix(), recursive=False)
    return archive


def hub_name(name: str) -> str:
    """``block1_layer2/bneck/feature/conv2d/bn/gamma:0`` as it was called in 2021."""
    name = re.sub(r"block(\d+)_layer(\d+)", r"b\1/l\2", name.removesuffix(":0"))
    return re.sub(r"conv2d(?:_temporal)?/(bn(?:_temporal)?/)", r"\1", name)


PARTS = ("expansion", "feature", "projection", "pos", "se_reduce", "se_expand", "skip", "rezero")
LEAVES = ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


def hub_position(item: tuple[int, Any], trainable: bool) -> tuple[Any, ...]:
    """Layer by layer, trainable first, kernel before gamma and beta, the ReZero scalar last."""
    _position, variable = item
    name = variable.name.removesuffix(":0")
    block = re.match(r"block(\d+)_layer(\d+)/", name)
    layer: tuple[int, int, int] = (1, int(block[1]), int(block[2])) if block else (0, 0, 0)
    if name.startswith("head/"):
        layer = (2, 0, 0)
    elif name.startswith("classifier_head/"):
        layer = (3, 0, 0) if "/head/" in name else (4, 0, 0)
    elif name == "scale":
        return (hub_position.block, not trainable, PARTS.index("pos"), 0, 0)  # type: ignore[attr-defined]
    hub_position.block = layer  # type: ignore[attr-defined]
    part = next((p for p in PARTS if f"/{p}" in name), "rezero")
    temporal = "temporal" in name
    leaf = next(n for n, word in enumerate((*LEAVES, "scale")) if name.endswith(word))
    return (layer, not trainable, PARTS.index(part), temporal, leaf)


def pytorch_port(model: Any, variant: str, folder: Path) -> Path:
    """The state dict of the port, named as its notebook of 2021 names what it read from TF-Hub."""
    import torch

    state = {
        port_name(variable.name, variant): torch.from_numpy(port_array(variable))
        for variable in model.variables
    }
    torch.save(state, folder / "statedict_v3")
    return folder / "statedict_v3"


PORT_WORDS = {
    "kernel": "weight",
    "depthwise_kernel": "weight",
    "bias": "bias",
    "gamma": "norm.weight",
    "beta": "norm.bias",
    "moving_mean": "norm.running_mean",
    "moving_variance": "norm.running_var",
}
PORT_PARTS = {
    "expansion": "expand",
    "feature": "deep",
    "projection": "project",
    "se_reduce": "se.fc1",
    "se_expand": "se.fc2",
    "skip_project": "res.1",
}


def port_name(name: str, variant: str) -> str:
    *path, leaf = name.removesuffix(":0").split("/")
    conv = "conv2d." if variant.endswith("stream") else "conv3d."
    tail = ("" if "norm" in PORT_WORDS.get(leaf, "") else conv) + PORT_WORDS.get(leaf, "")
    tail = f"conv_{2 if 'temporal' in name else 1}.{tail}"
    block = re.fullmatch(r"block(\d+)_layer(\d+)", path[0])
    if block and leaf == "scale":
        return f"blocks.b{block[1]}_l{block[2]}.alpha"
    if block:
        part = next(PORT_PARTS[word] for word in path if word in PORT_PARTS)
        if variant.startswith("a3") and (block[1], block[2]) == ("3", "0"):
            part = part.replace("res.1", "res.0")
        return f"blocks.b{block[1]}_l{block[2]}.{part}.{tail}"
    if path[0] == "classifier_head":
        return f"classifier.{0 if path[1] == 'head' else 3}.{tail}"
    return f"{'conv1' if path[0] == 'stem' else 'conv7'}.{tail}"


def port_array(variable: Any) -> np.ndarray:
    array = variable.numpy()
    if array.ndim == 5:
        array = np.einsum("dhwio->oidhw", array)
    elif array.ndim == 4:
        depthwise = "depthwise" in variable.name
        array = np.einsum("hwoi->oihw" if depthwise else "hwio->oihw", array)
    return np.array(array)
