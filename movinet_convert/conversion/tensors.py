"""Convert the variables of a TensorFlow checkpoint to PyTorch tensors."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from movinet_convert.checkpoint import Checkpoint, mapping, open_checkpoint
from movinet_convert.checkpoint.structure import read_structure
from movinet_convert.conversion.recognition import check_name, confirm, recognised
from movinet_convert.conversion.settings import determine_settings
from movinet_convert.conversion.sources import Source
from movinet_convert.errors import CheckpointError, UsageError
from movinet_convert.model import MoViNet
from movinet_convert.model.create import CLASSIFIER_STD, empty_model, fill, tensor_shapes
from movinet_convert.variants import Activation, Gating, Origins, Settings, Variant
from movinet_convert.weights.file import tensors_digest


@dataclass(frozen=True)
class Converted:
    """A checkpoint as float32 tensors for PyTorch, not yet written.

    ``variables`` are those of the checkpoint and of a new classifier, whose names are ``drawn``.
    """

    source: Source
    checkpoint: Checkpoint
    variant: Variant
    settings: Settings
    origins: Origins
    num_classes: int
    tensors: Mapping[str, NDArray[np.float32]]
    variables: Mapping[str, NDArray[np.generic]]
    drawn: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """sha256 of names, shapes and float32 values, the same for every checkpoint layout."""
        return tensors_digest(self.tensors)

    def to_model(self) -> MoViNet:
        """The network with these weights, in eval mode; the tensors are shared, not copied."""
        tensors = {name: torch.from_numpy(array) for name, array in self.tensors.items()}
        empty = empty_model(self.variant, self.settings, self.num_classes)
        model = fill(empty, tensors, str(self.source.path)).eval()
        model.origins = self.origins
        return model


def convert_checkpoint(
    source: Source,
    *,
    name: str | None = None,
    gating: Gating | None = None,
    legacy: bool = False,
    head_activation: Activation | None = None,
    num_classes: int | None = None,
) -> Converted:
    """Convert all variables of a checkpoint; see ``convert`` for the arguments.

    Raises CheckpointError unless they are exactly those of a MoViNet, UsageError if a choice is
    missing or invalid.
    """
    checkpoint = open_checkpoint(source.path)
    structure = read_structure(checkpoint)
    if source.fetched is not None:
        known = confirm(source.fetched, checkpoint, structure, source.pinned_tensors)
    else:
        known = recognised(checkpoint, structure)
    source = dataclasses.replace(source, known=known)
    check_name(source.path, structure.classes, known)
    variant, settings, origins = determine_settings(
        structure, source, name=name, gating=gating, legacy=legacy, head_activation=head_activation
    )
    classes = _class_count(source, variant, structure.classes, num_classes)
    shapes = tensor_shapes(variant, settings, classes)
    links = mapping.links(variant, settings.conv_type, shapes)
    head = new_classifier(links) if structure.classes is None else {}
    variables = {**checkpoint.variables, **head} if head else checkpoint.variables
    tensors = mapping.map_variables(variables, links, f"{variant.name} with {classes} classes")
    return Converted(
        source, checkpoint, variant, settings, origins, classes, tensors, variables, tuple(head)
    )


def _class_count(source: Source, variant: Variant, found: int | None, requested: int | None) -> int:
    if found is None and requested is None:
        raise CheckpointError(
            f"{source.path} is a backbone of {variant.name} without classifier; pass --num-classes "
            "to add an untrained one, or a checkpoint of the whole model."
        )
    if found is not None and requested not in (None, found):
        raise UsageError(
            f"{source.path} has a classifier of {found} classes, not {requested}; omit "
            "--num-classes, and replace the classifier with load_converted(..., num_classes=...)."
        )
    return found or requested or 0


def new_classifier(links: tuple[mapping.Link, ...]) -> dict[str, NDArray[np.float32]]:
    """Variables of an untrained classifier: random kernels, zero biases.

    They are seeded by name, so that the same backbone always converts to the same bytes.
    """
    classifier = [link for link in links if link.tf.startswith("classifier_head/")]
    return {link.tf: _random_variable(link.tf, link.tf_shape) for link in classifier}


def _random_variable(path: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if path.endswith("/bias"):
        return np.zeros(shape, np.float32)
    std = math.sqrt(2.0 / math.prod(shape[:-1])) if "/_head/" in path else CLASSIFIER_STD
    bits = np.random.PCG64(int.from_bytes(hashlib.sha256(path.encode()).digest(), "big"))
    # A uniform distribution of this width has the same std and, unlike a normal one, needs no
    # logarithm, whose rounding differs between machines.
    unit = bits.random_raw(math.prod(shape)).astype(np.float64) / 2.0**64
    values = (2.0 * unit - 1.0) * (math.sqrt(3.0) * std)
    return values.reshape(shape).astype(np.float32)
