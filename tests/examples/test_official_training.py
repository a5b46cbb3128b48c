"""Training computes what TensorFlow computes: normalisation, optimizer, average, augmentation."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from examples.finetune.augmentation import random_crop
from examples.finetune.ema import WeightAverage
from examples.finetune.optimizer import EPSILON, MOMENTUM, RHO, OptimizerConfig, Updates
from movinet_convert.model.layers import BatchNorm

tf_keras = pytest.importorskip("tf_keras")
tf = pytest.importorskip("tensorflow")


@pytest.mark.parametrize(
    ("unbiased", "options"),
    [(False, {"synchronized": True}), (True, {})],
    ids=["as the unfused layer", "as the fused layer"],
)
def test_batch_norm_updates_its_statistics_like_keras(
    unbiased: bool, options: dict[str, Any]
) -> None:
    tf_keras = pytest.importorskip("tf_keras")
    theirs = tf_keras.layers.BatchNormalization(momentum=0.99, epsilon=1e-3, **options)
    ours = BatchNorm(5, unbiased=unbiased)
    ours.reset_parameters()
    random = np.random.default_rng(0)
    for _ in range(3):  # six values a channel: n and n - 1 are far apart
        x = random.normal(1.0, 2.0, (1, 2, 3, 5)).astype(np.float32)
        expected = theirs(x, training=True).numpy()
        y = ours(torch.from_numpy(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(ours.running_mean, theirs.moving_mean.numpy(), rtol=1e-5)
    np.testing.assert_allclose(ours.running_var, theirs.moving_variance.numpy(), rtol=1e-5)


class Layer(nn.Module):
    """A kernel and a bias of random values."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.kernel = nn.Parameter(torch.randn(4, 3, generator=random))
        self.bias = nn.Parameter(torch.randn(3, generator=random))

    def variables(self) -> list[Any]:
        return [tf.Variable(parameter.detach().numpy()) for parameter in self.parameters()]


@pytest.mark.parametrize("name", ["rmsprop", "sgd"])
def test_an_optimizer_updates_like_the_official_one(name: str) -> None:
    """With an L2 loss of the kernel, and gradients so large that some are clipped."""
    decay, layer = 0.1, Layer()
    kernel, bias = variables = layer.variables()
    if name == "rmsprop":
        theirs = tf_keras.optimizers.legacy.RMSprop(
            0.1, rho=RHO, momentum=MOMENTUM, epsilon=EPSILON, clipnorm=1.0
        )
    else:
        theirs = tf_keras.optimizers.legacy.SGD(0.1, momentum=MOMENTUM, nesterov=True, clipnorm=1.0)
    config = OptimizerConfig(name, weight_decay=decay, clip_tensor_norm=1.0)
    ours = Updates(layer, config)
    random = np.random.default_rng(0)
    for step in range(12):
        rate = 0.5 if name == "sgd" else 0.5 / (step + 1)  # PyTorch's momentum is without it
        gradients = [random.normal(0, 0.4, v.shape).astype(np.float32) for v in variables]
        theirs.learning_rate = rate
        theirs.apply_gradients([(gradients[0] + decay * kernel, kernel), (gradients[1], bias)])
        for parameter, gradient in zip(layer.parameters(), gradients, strict=True):
            parameter.grad = torch.from_numpy(gradient)
        ours.step(rate)
    for parameter, variable in zip(layer.parameters(), variables, strict=True):
        np.testing.assert_allclose(parameter.detach(), variable.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_the_average_of_the_weights_is_the_official_one(decay: float) -> None:
    from official.modeling.optimization.ema_optimizer import ExponentialMovingAverage

    layer = Layer()
    variables = layer.variables()
    sgd = tf_keras.optimizers.legacy.SGD(0.1)
    theirs = ExponentialMovingAverage(sgd, average_decay=decay)
    theirs.shadow_copy(SimpleNamespace(trainable_variables=variables))
    average = WeightAverage(layer, decay)
    random = np.random.default_rng(0)
    for _ in range(30):  # the official average starts from zeros, which by then have no share
        gradients = [random.normal(0, 1, v.shape).astype(np.float32) for v in variables]
        theirs.apply_gradients(list(zip(gradients, variables, strict=True)))
        with torch.no_grad():
            for parameter, variable in zip(layer.parameters(), variables, strict=True):
                parameter.copy_(torch.from_numpy(variable.numpy()))
        average.update()
    with average.swapped():
        for parameter, variable in zip(layer.parameters(), variables, strict=True):
            expected = theirs.get_slot(variable, "average").numpy()
            np.testing.assert_allclose(parameter.detach(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(120, 160), (90, 60)], ids=["wide", "narrow"])
def test_crops_are_drawn_like_the_official_ones(shape: tuple[int, int]) -> None:
    """The deciles of their areas, aspect ratios and places, over 3000 crops."""
    height, width = shape
    count, area, aspect = 3000, (0.08, 1.0), (0.5, 2.0)
    theirs = []
    for i in range(count):
        begin, size, _ = tf.image.stateless_sample_distorted_bounding_box(
            [height, width, 3],
            [[[0.0, 0.0, 1.0, 1.0]]],
            (i, 7),
            min_object_covered=0.1,
            aspect_ratio_range=aspect,
            area_range=area,
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        theirs.append([*begin.numpy()[:2], *size.numpy()[:2]])
    random = np.random.default_rng(0)
    ours = [random_crop(height, width, area, aspect, random) for _ in range(count)]

    def deciles(crops: list[Any]) -> np.ndarray:
        top, left, below, right = np.array(crops, float).T
        figures = [below * right / (height * width), right / below / 2, top / height, left / width]
        return np.quantile(figures, np.arange(0.1, 1, 0.1), axis=1)

    np.testing.assert_allclose(deciles(ours), deciles(theirs), atol=0.04)
