"""Batch normalization by sums over the images of all replicas: as a formula, and with torch's fused kernels."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ganscale.parallel.collectives import all_reduce_sum


class Moments(NamedTuple):
    """Of each channel over the batch: `[C]`, and the number of values per channel, `[1]`."""

    mean: Tensor
    variance: Tensor
    rows: Tensor


def normalize(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, shift: Tensor, eps: float, *, across_replicas: bool
) -> tuple[Tensor, Moments]:
    """Normalize `[N, C, ...]` by the batch's mean and (biased) variance (Ioffe and Szegedy 2015, Algorithm 1).

    Args:
        x: on every replica its own rows.
        weight: scale `[C]`; None for 1.
        bias: `[C]`; None for 0.
        shift: near the mean, the same on all replicas: sums around it lose no digits to a large mean.
        eps: added to the variance.
        across_replicas: False for this replica's rows alone.

    Returns:
        The normalized rows, differentiable any number of times, and what they were normalized by, detached.
    """
    if x.device.type == "cpu":
        y, mean, variance, rows = _Normalize.apply(x, weight, bias, shift, eps, across_replicas)  # pyright: ignore[reportGeneralTypeIssues]
        return y, Moments(mean, variance, rows)
    y, moments = _by_formula(x, weight, bias, shift, eps, across_replicas)
    return y, Moments(*(value.detach() for value in moments))


def _columns(x: Tensor) -> tuple[int, ...]:
    """The shape in which a vector of channels is broadcast over `x`."""
    return (1, -1) + (1,) * (x.dim() - 2)


def _moments(total: Tensor, shift: Tensor) -> Moments:
    """From sums of deviations from `shift`, of their squares, and the number of rows: `[2 C + 1]`."""
    rows = total[-1:].detach()
    offset, square = (total[:-1] / rows).chunk(2)
    return Moments(shift + offset, (square - offset.square()).clamp_min(0.0), rows)


def _by_formula(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, shift: Tensor, eps: float, across_replicas: bool
) -> tuple[Tensor, Moments]:
    dims, shape = [d for d in range(x.dim()) if d != 1], _columns(x)
    around = x - shift.view(shape)  # float32 also where x is bfloat16
    rows = around.new_full((1,), float(x.numel() // x.shape[1]))
    total = torch.cat((around.sum(dims), around.square().sum(dims), rows))
    moments = _moments(all_reduce_sum(total) if across_replicas else total, shift)
    scale = (moments.variance + eps).rsqrt()
    if weight is not None:
        scale = weight * scale
    offset = -moments.mean * scale if bias is None else bias - moments.mean * scale
    return (x * scale.view(shape) + offset.view(shape)).to(x.dtype), moments


class _Normalize(torch.autograd.Function):
    """`_by_formula` in fewer passes over memory: sums and scaling by the kernels that torch has for batch norm.

    Its gradient is that of Ioffe and Szegedy 2015, section 3; where a graph of the gradient is wanted, for penalties on
    gradients, it is taken from the formula.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        shift: Tensor,
        eps: float,
        across_replicas: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        around = x - shift.view(_columns(x))
        squares, sums = _sums(around, around, torch.zeros_like(shift), torch.ones_like(shift))
        total = torch.cat((sums, squares, sums.new_full((1,), float(x.numel() // x.shape[1]))))
        mean, variance, rows = _moments(all_reduce_sum(total) if across_replicas else total, shift)
        ctx.save_for_backward(x, weight, bias, shift, mean, variance, rows)
        ctx.eps, ctx.across_replicas = eps, across_replicas
        ctx.mark_non_differentiable(mean, variance, rows)
        y, _, _ = torch.native_batch_norm(x, weight, bias, mean, variance, False, 0.0, eps)
        return y, mean, variance, rows

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        dy = gradients[0]
        x, weight, bias, _, mean, variance, rows = ctx.saved_tensors
        if torch.is_grad_enabled():
            return *_formulas_gradients(ctx, dy), None, None, None
        scale = (variance + ctx.eps).rsqrt()
        along, sums = _sums(dy, x, mean, variance + ctx.eps)  # of dy times the normalized x, and of dy
        dx = None
        if ctx.needs_input_grad[0]:
            total = torch.cat((along, sums))
            slope, constant = ((all_reduce_sum(total) if ctx.across_replicas else total) / rows).chunk(2)
            factor = scale if weight is None else weight * scale
            slope = factor * scale * slope
            # factor * (dy - constant - (x - mean) * scale * slope), constants first
            zero, one = torch.zeros_like(mean), torch.ones_like(mean)
            dx, _, _ = torch.native_batch_norm(dy, factor, mean * slope - factor * constant, zero, one, False, 0.0, 0.0)
            dx.addcmul_(x, slope.to(x.dtype).view(_columns(x)), value=-1.0)
        return dx, along if weight is not None else None, sums if bias is not None else None, None, None, None


def _sums(dy: Tensor, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel, sums of `dy * (x - mean) / sqrt(variance)` and of `dy`: what a scale's and a bias' gradients are."""
    mask = [False, True, True]
    _, along, sums = torch.ops.aten.native_batch_norm_backward(
        dy, x, torch.ones_like(mean), mean, variance, None, None, False, 0.0, mask
    )
    return along, sums


def _formulas_gradients(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of the inputs that want one, with a graph of their own."""
    x, weight, bias, shift, *_ = ctx.saved_tensors
    inputs = (x, weight, bias)
    y, _ = _by_formula(x, weight, bias, shift, ctx.eps, ctx.across_replicas)
    wanted = [value for value, wants in zip(inputs, ctx.needs_input_grad, strict=False) if wants]
    found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
    return tuple(next(found) if wants else None for wants in ctx.needs_input_grad[:3])
