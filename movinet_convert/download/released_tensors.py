"""The tensors of a release, from its checkpoint in any layout."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from movinet_convert.checkpoint import Checkpoint, mapping
from movinet_convert.checkpoint.structure import Structure
from movinet_convert.errors import CheckpointError
from movinet_convert.model.create import tensor_shapes
from movinet_convert.model.settings import legacy_settings
from movinet_convert.variants import KINETICS_600_CLASSES, Variant


def released_tensors(
    checkpoint: Checkpoint, structure: Structure, variant: Variant, *, legacy: bool
) -> dict[str, NDArray[np.float32]]:
    """By PyTorch name; CheckpointError unless the variables are exactly those of the release."""
    if structure.classes != KINETICS_600_CLASSES:
        raise CheckpointError(
            f"it has {structure.classes or 'no'} classes, but every release has "
            f"{KINETICS_600_CLASSES}."
        )
    settings = variant.settings()
    if legacy:
        settings = legacy_settings(structure.se_type, structure.positional_encoding)
    shapes = tensor_shapes(variant, settings, KINETICS_600_CLASSES)
    links = mapping.links(variant, settings.conv_type, shapes)
    return mapping.map_variables(checkpoint.variables, links, variant.name)
