"""Batch norm by torch's fused kernels against the formula, to the second derivative."""

import pytest
import torch
from torch import Tensor

from ganscale.models.layers.batch_statistics import _by_formula, normalize


def draws(
    shape: tuple[int, ...], *, affine: bool, channels_last: bool, dtype: torch.dtype
) -> tuple[list[Tensor], Tensor]:
    """x, and with affine a scale and a bias, that all want gradients; and the running mean."""
    generator = torch.Generator().manual_seed(len(shape))
    x = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 10
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    inputs = [x] + [torch.randn(shape[1], generator=generator, dtype=torch.float64) for _ in range(2 * affine)]
    return [value.to(dtype).requires_grad_() for value in inputs], torch.full((shape[1],), 9.0, dtype=dtype)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("shape", "channels_last"),
    [((6, 5), False), ((4, 5, 3, 3), False), ((4, 5, 3, 3), True), ((4, 8, 16, 16), False), ((4, 8, 16, 16), True)],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-3)])
def test_the_kernels_compute_the_formula(shape, affine, channels_last, dtype, tolerance) -> None:
    inputs, shift = draws(shape, affine=affine, channels_last=channels_last, dtype=dtype)
    x, (weight, bias) = inputs[0], inputs[1:] or (None, None)
    dy = torch.randn(shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(dtype)
    found = []
    for function in (_by_formula, lambda *a: normalize(*a[:5], across_replicas=a[5])):
        y, moments = function(x, weight, bias, shift, 1e-5, True)
        first = torch.autograd.grad(y, inputs, dy, retain_graph=True)
        again = torch.autograd.grad(y, inputs, dy, create_graph=True)
        second = torch.autograd.grad(again[0].square().sum(), inputs[:2])
        assert not any(gradient.requires_grad for gradient in first)
        found.append(
            [y.detach(), *(value.detach() for value in moments), *first, *(g.detach() for g in again), *second]
        )
    for wanted, value in zip(*found, strict=True):
        torch.testing.assert_close(value, wanted, rtol=tolerance, atol=tolerance)


def test_only_what_wants_a_gradient_gets_one() -> None:
    (x, weight, bias), shift = draws((4, 5, 3, 3), affine=True, channels_last=False, dtype=torch.float64)
    weight.requires_grad_(False)
    y, _ = normalize(x, weight, bias, shift, 1e-5, across_replicas=True)
    y.square().sum().backward()
    assert x.grad is not None
    assert bias.grad is not None
    assert weight.grad is None
    x.grad = None
    y, _ = normalize(x.detach(), weight, bias, shift, 1e-5, across_replicas=True)
    y.square().sum().backward()
    assert x.grad is None


def test_a_large_mean_costs_no_digits() -> None:
    """The sums run around the running mean."""
    x = torch.randn(64, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    large = (x + 1e4).float()
    exact = large.double()
    shift = torch.full((3,), 1e4)
    y, moments = normalize(large, None, None, shift, 1e-5, across_replicas=True)
    variance, mean = torch.var_mean(exact, (0, 2, 3), correction=0)
    torch.testing.assert_close(moments.variance.double(), variance, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(moments.mean.double(), mean, rtol=1e-7, atol=0.0)
    columns = (1, -1, 1, 1)
    torch.testing.assert_close(
        y.double(), (exact - mean.view(columns)) / (variance + 1e-5).sqrt().view(columns), rtol=0.0, atol=2e-3
    )


def test_bfloat16_rows_keep_float32_statistics() -> None:
    (x, weight, bias), shift = draws((8, 5, 3, 3), affine=True, channels_last=False, dtype=torch.float32)
    rows = x.detach().bfloat16().requires_grad_()
    y, moments = normalize(rows, weight, bias, shift, 1e-5, across_replicas=True)
    wanted, expected = normalize(rows.detach().float(), weight, bias, shift, 1e-5, across_replicas=True)
    assert y.dtype == torch.bfloat16
    assert moments.mean.dtype == torch.float32
    torch.testing.assert_close(moments.variance, expected.variance, rtol=1e-5, atol=0.0)
    torch.testing.assert_close(y.float(), wanted, rtol=0.02, atol=0.02)
    y.sum().backward()
    assert rows.grad is not None
    assert rows.grad.dtype == torch.bfloat16
