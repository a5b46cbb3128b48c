"""Networks with random weights, initialized like the official model, or with given ones."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from movinet_convert.errors import WeightsError
from movinet_convert.model.layers import BatchNorm
from movinet_convert.model.network import MoViNet
from movinet_convert.model.settings import get_variant, released_settings
from movinet_convert.variants import (
    KINETICS_600_CLASSES,
    Activation,
    Gating,
    Origins,
    Settings,
    Variant,
)

# Std of a unit normal truncated at two std, for which Keras' HeNormal compensates.
TRUNCATED_NORMAL_STD = 0.87962566103423978
ALIGNMENT = 64  # bytes, of every tensor that PyTorch allocates
CLASSIFIER_STD = 0.01  # of the last layer's weights, as in the official ClassifierHead


@torch.inference_mode(False)  # tensors made in inference mode could not be trained
def create_model(
    name: str,
    *,
    num_classes: int = KINETICS_600_CLASSES,
    gating: Gating | None = None,
    head_activation: Activation | None = None,
) -> MoViNet:
    """A network with random weights, in training mode: ``create_model("a2-base", num_classes=51)``.

    ``gating`` and ``head_activation`` (of the classifier's hidden layer) are those of the released
    models unless given: ``keras`` in stream variants, and ``swish``. ``model.origins`` records
    which were given.

    Raises UsageError for an unknown variant, a setting that the variant does not have, or less
    than one class.
    """
    variant = get_variant(name)
    settings = released_settings(variant, gating)
    if head_activation is not None:
        settings = replace(settings, head_activation=head_activation)
    model = MoViNet(variant, settings, num_classes)
    model.origins = Origins(
        gating="default" if gating is None else "user",
        head_activation="default" if head_activation is None else "user",
        legacy="default",
    )
    initialize(model)
    return model


def empty_model(variant: Variant, settings: Settings, num_classes: int) -> MoViNet:
    """A network with tensors on the meta device, for ``fill``."""
    with torch.device("meta"):
        return MoViNet(variant, settings, num_classes)


@torch.inference_mode(False)
def fill(model: MoViNet, tensors: Mapping[str, Tensor], what: str) -> MoViNet:
    """Assign the tensors to an empty network, without a copy where their alignment allows it.

    ``what`` names their source. Raises WeightsError unless names, shapes and dtypes match.
    """
    expected = model.state_dict()
    name = model.variant.name
    for path in {**expected, **tensors}:
        if path not in tensors:
            raise WeightsError(f"{what} lacks tensor {path} of {name}; convert again.")
        if path not in expected:
            raise WeightsError(
                f"{what} holds tensor {path}, which {name} does not have; convert again."
            )
        found, wanted = tensors[path], expected[path].shape
        if found.shape != wanted or not found.is_floating_point():
            raise WeightsError(
                f"{what}: tensor {path} is {found.dtype} of shape {tuple(found.shape)} where "
                f"{name} has floats of shape {tuple(wanted)}; convert again."
            )
    # What load_state_dict(assign=True) does, in a fifth of its time.
    modules = dict(model.named_modules())
    for path, tensor in tensors.items():
        owner, _, leaf = path.rpartition(".")
        module = modules[owner]
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(tensor)
        else:
            module._buffers[leaf] = tensor
    align_matrices(model)
    return model


def align_matrices(model: nn.Module) -> None:
    """Copy the matrices that are not aligned in memory, as those mapped from a file.

    They are the weights of linear layers and pointwise convolutions. Their alignment decides how
    products are rounded: the last bits of the logits would depend on where a file has the tensors.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
        ):
            weight = module.weight
            if weight.data_ptr() % ALIGNMENT:
                weight.data = weight.detach().clone()


def tensor_shapes(
    variant: Variant, settings: Settings, num_classes: int
) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in the state dict of a network."""
    state = empty_model(variant, settings, num_classes).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


@torch.no_grad()
def initialize(model: MoViNet) -> None:
    """Initialize all weights: HeNormal kernels, zero biases and ReZero scales, identity norms.

    As ``kernel_initializer='HeNormal'`` and the classifier's normal with a standard deviation of
    0.01 in official/projects/movinet/modeling.
    """
    for module in model.modules():
        initialize_module(module)
    initialize_classifier(model)


@torch.no_grad()
def initialize_module(module: nn.Module) -> None:
    """Initialize one module of a network as ``initialize`` does, without its submodules."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.Linear):
        _he_normal(module.weight)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, BatchNorm):
        module.reset_parameters()
    for name, parameter in module.named_parameters(recurse=False):
        if name.endswith("scale"):
            parameter.zero_()


@torch.no_grad()
def initialize_classifier(model: MoViNet) -> None:
    """Initialize the last linear layer, as for a new set of classes."""
    nn.init.normal_(model.classifier.output.weight, std=CLASSIFIER_STD)
    nn.init.zeros_(model.classifier.output.bias)


def _he_normal(weight: Tensor) -> None:
    # Keras takes a kernel's fan-in from its TensorFlow shape: for depthwise kernels
    # (h, w, channels, 1) that is h * w * channels; here it is the usual h * w.
    std = math.sqrt(2.0 / weight[0].numel()) / TRUNCATED_NORMAL_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
