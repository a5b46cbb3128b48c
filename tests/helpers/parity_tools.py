"""Networks with synthetic weights, for tests of the comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from movinet_convert.checkpoint import mapping
from movinet_convert.conversion.sources import given
from movinet_convert.conversion.tensors import convert_checkpoint
from movinet_convert.model.create import create_model, tensor_shapes
from movinet_convert.model.settings import get_variant
from movinet_convert.parity.cases import random_clips
from movinet_convert.parity.synthetic import synthetic_variables
from tests.helpers.seeded import choices

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from movinet_convert.model import MoViNet
    from movinet_convert.parity.reference import Reference
    from movinet_convert.variants import Gating


def variable_shapes(name: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every TensorFlow variable of a variant, by canonical path."""
    return {link.tf: link.tf_shape for link in _links(name, num_classes)}


def synthetic_model(
    name: str, *, num_classes: int = 600, seed: int = 0, gating: Gating | None = None
) -> tuple[MoViNet, dict[str, NDArray[np.float32]]]:
    """A network with converted synthetic weights, and the variables they come from."""
    variant = get_variant(name)
    variables = synthetic_variables(variant, variable_shapes(name, num_classes), seed=seed)
    model = create_model(name, num_classes=num_classes, gating=gating).eval()
    tensors = mapping.map_variables(variables, _links(name, num_classes), name)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in tensors.items()})
    return model, variables


@torch.inference_mode()
def assert_logits_vary(model: MoViNet) -> None:
    """Synthetic weights behave like trained ones: no clip has the same logits as all others."""
    clips = random_clips(6, 4, 48, 48, seed=0)
    logits = torch.cat([model(torch.from_numpy(clip[None])) for clip in clips])
    assert 1 <= logits.std().item() <= 10
    assert len(set(logits.argmax(dim=1).tolist())) >= 3


def converted(name: str, prefix: Path) -> MoViNet:
    """The network of a checkpoint, as ``convert`` builds it."""
    return convert_checkpoint(given(prefix), name=name, **choices(name)).to_model()


def forget(reference: Reference) -> None:
    """Overwrite every weight, so that only a restore can recover it."""
    reference.load({name: np.full(shape, 0.5) for name, shape in reference.shapes.items()})


def restore(reference: Reference, prefix: Path) -> None:
    """Read a checkpoint with TensorFlow; AssertionError or ValueError unless everything fits."""
    status = reference.tf.train.Checkpoint(model=reference.model).restore(str(prefix))
    status.assert_existing_objects_matched().expect_partial()


def stored_tensors(prefix: Path) -> dict[str, Any]:
    """Every tensor of a checkpoint, read by TensorFlow."""
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def _links(name: str, num_classes: int) -> Any:
    variant = get_variant(name)
    settings = variant.settings()
    shapes = tensor_shapes(variant, settings, num_classes)
    return mapping.links(variant, settings.conv_type, shapes)
