"""Seeded checkpoints in the released layout, valid or not, written without TensorFlow."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from movinet_convert.checkpoint import mapping
from movinet_convert.checkpoint.canonical import containers
from movinet_convert.model.create import tensor_shapes
from movinet_convert.model.settings import get_variant
from tests.checkpoint.bundle_writer import write_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from movinet_convert.variants import Gating

Arrays = dict[str, "NDArray[Any]"]
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def choices(name: str, gating: Gating = "keras") -> dict[str, Any]:
    """The arguments that ``convert`` needs for a checkpoint that is not a release."""
    stream = get_variant(name).causal
    return {"gating": gating, "head_activation": "swish"} if stream else {}


def variables(name: str, num_classes: int = 7, seed: int = 0) -> Arrays:
    """Seeded weights of a variant by canonical path; the arrays are shared, do not change them."""
    return dict(_variables(name, num_classes, seed))


@cache
def _variables(name: str, num_classes: int, seed: int) -> Arrays:
    variant = get_variant(name)
    settings = variant.settings()
    shapes = tensor_shapes(variant, settings, num_classes)
    links = mapping.links(variant, settings.conv_type, shapes)
    return {link.tf: _values(link.tf, link.tf_shape, seed) for link in links}


def _values(path: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng([seed, *path.encode()])
    values = random.normal(size=shape) * 0.1
    return (1 + abs(values) if path.endswith(("variance", "gamma")) else values).astype(np.float32)


def stored_name(arch: str, canonical: str) -> str:
    """The name of a variable in a released checkpoint."""
    container, rest = canonical.split("/", 1)
    if container == "classifier_head":
        return f"model/layer_with_weights-1/{rest}{SUFFIX}"
    position = containers(arch).index(container)
    return f"model/layer_with_weights-0/layer_with_weights-{position}/{rest}{SUFFIX}"


def write_checkpoint(folder: Path, name: str, arrays: Arrays | None = None) -> Path:
    """Write variables, the variant's own by default, as ``folder/ckpt-1``; returns the folder."""
    arch = name.split("-")[0]
    arrays = variables(name) if arrays is None else arrays
    folder.mkdir(parents=True, exist_ok=True)
    stored = {stored_name(arch, path): array for path, array in arrays.items()}
    stored[f"save_counter{SUFFIX}"] = np.array(1, dtype=np.int64)
    write_bundle(folder / "ckpt-1", stored)
    (folder / "checkpoint").write_text('model_checkpoint_path: "ckpt-1"\n')
    return folder
