"""The check of a file of weights before transformers reads it.

transformers initializes what a file lacks and ignores what it has too much, with a warning only,
and knows nothing of gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from movinet_convert.errors import WeightsError
from movinet_convert.model.create import tensor_shapes
from movinet_convert.model.settings import get_variant
from movinet_convert.weights.file import check_content, read_header, read_tensors
from movinet_convert.weights.header import Header
from movinet_convert.weights.naming import SUFFIX
from movinet_convert.weights.transformers_files import CONFIG_NAME


def check_files(files: Sequence[str], expected: Header) -> None:
    """Raise WeightsError unless ``files`` are one converted file of the network of a config.

    The number of classes may differ: transformers compares it, and initializes a new last layer
    where its caller wants one.
    """
    path = Path(files[0])
    if len(files) != 1 or path.suffix != SUFFIX:
        raise WeightsError(
            f"The weights of a MoViNet are one file of safetensors; {path.parent} has {path.name}: "
            "save the network again."
        )
    header = read_header(path)
    _compare(header, expected, path)
    check_content(path)
    found = {name: tuple(tensor.shape) for name, tensor in read_tensors(path).items()}
    variant = get_variant(header.variant)
    wanted = tensor_shapes(variant, header.settings, header.num_classes)
    for name in {**wanted, **found}:
        if found.get(name) != wanted.get(name):
            raise WeightsError(
                f"{path}: tensor {name} is of shape {found.get(name)} where {variant.name} has "
                f"{wanted.get(name)}; save the network again."
            )


def _compare(header: Header, expected: Header, path: Path) -> None:
    if header.variant != expected.variant:
        found, wanted = {"variant": header.variant}, {"variant": expected.variant}
    else:
        found, wanted = asdict(header.settings), asdict(expected.settings)
    for name, value in found.items():
        if wanted[name] != value:
            raise WeightsError(
                f"{CONFIG_NAME} has the {name.replace('_', ' ')} {wanted[name]!r}, but {path} is "
                f"of a network with {value!r}, and would give wrong results; restore {CONFIG_NAME}."
            )
