"""Rounding to 8 bits."""

from __future__ import annotations

import pytest
import torch

from movinet_convert.export.quantization.fake import Range, best_range, quantized_weight


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_weights_are_multiples_of_a_127th_of_the_largest_of_their_output_channel() -> None:
    weight = (
        torch.randn(5, 4, 3, 3) * torch.tensor([1e-4, 1.0, 30.0, 1.0, 1.0])[:, None, None, None]
    )
    scale = weight.abs().amax(dim=(1, 2, 3), keepdim=True) / 127
    found = quantized_weight(weight)
    torch.testing.assert_close(found, (weight / scale).round() * scale)
    assert (found - weight).abs().le(0.501 * scale).all()


def test_a_channel_of_zeros_stays_zero() -> None:
    assert torch.equal(quantized_weight(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_folding_a_scale_into_a_weight_commutes_with_its_quantization() -> None:
    weight, factors = torch.randn(6, 5), torch.rand(6, 1) + 0.1
    torch.testing.assert_close(
        quantized_weight(weight * factors), quantized_weight(weight) * factors
    )


def test_a_range_keeps_zero_exact_and_rounds_by_at_most_half_a_step() -> None:
    x = torch.linspace(-1.0, 3.0, 1001)[None]
    found = Range(torch.tensor(-1.0), torch.tensor(3.0)).quantize(x)
    assert (found - x).abs().max() <= 0.51 * 4 / 255
    assert Range(torch.tensor(-0.37), torch.tensor(3.0)).quantize(torch.zeros(1, 1)).item() == 0.0


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_an_outlier_is_clipped_where_that_costs_less_than_the_steps(sign: float) -> None:
    sample = sign * torch.cat((torch.rand(100_000), torch.tensor([2.0])))
    found = best_range(sample, sample.min(), sample.max())
    whole = Range(sample.min().clamp(max=0), sample.max().clamp(min=0))
    assert found.high - found.low < 1.9
    error, before = ((r.quantize(sample) - sample).square().mean() for r in (found, whole))
    assert error < before
