"""Forward passes whose second derivatives carry no zeros.

A gradient penalty on points of its own (WGAN-GP, DRAGAN) uses a pass for the gradient in its points alone. Its own
gradient reaches that pass again through each layer's input, by the second derivative of what follows. That of relu and
leaky relu is zero, but torch carries the zeros through all layers, as costly as numbers; and a convolution, which is
bilinear, hands on zeros as well where nobody asked for its weight's gradient.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from ganscale.models.layers.linear import is_wanted


class _Piecewise(torch.autograd.Function):
    """x where x > 0, else slope * x. Its gradient depends on the one that comes in, and not on x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        y = functional.leaky_relu(x, slope)
        ctx.save_for_backward(y > 0)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (positive,) = ctx.saved_tensors
        return torch.where(positive, gradients[0], ctx.slope * gradients[0]), None


class _Convolution(torch.autograd.Function):
    """torch's convolution, whose gradient in x depends on x by its shape only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, settings: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        stride, padding, dilation, groups = settings
        return torch.convolution(x, weight, bias, stride, padding, dilation, False, [0, 0], groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.settings
        geometry = (stride, padding, dilation, False, [0, 0], groups)
        wanted = [is_wanted(node) for node, _ in ctx.next_functions]
        for_x, for_weight, for_bias = (*wanted, False)[:3]  # none without a bias
        backward = torch.ops.aten.convolution_backward
        dx = dw = db = None
        if for_x:
            dx, _, _ = backward(gradients[0], x.detach(), weight, None, *geometry, [True, False, False])
        if for_weight or for_bias:
            mask = [False, for_weight, for_bias]
            _, dw, db = backward(gradients[0], x, weight, [weight.shape[0]], *geometry, mask)
        return dx, dw, db, None


class WithoutZeros(TorchFunctionMode):
    """In this block relu, leaky relu and two-dimensional convolutions pass on no second derivative that is zero.

    The numbers are the same. It costs a first derivative nothing, but saves it nothing either.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Put in the functions below for torch's."""
        kwargs = kwargs or {}
        if func is functional.leaky_relu:
            return _leaky_relu(*args, **kwargs)
        if func is functional.relu:
            return _relu(*args, **kwargs)
        if func is torch.conv2d:
            return _conv2d(*args, **kwargs)
        return func(*args, **kwargs)


def _leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Any:
    return _Piecewise.apply(x, negative_slope)


def _relu(x: Tensor, inplace: bool = False) -> Any:
    return _Piecewise.apply(x, 0.0)


def _conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    if isinstance(padding, str) or x.dim() != 4:
        return torch.conv2d(x, weight, bias, stride, padding, dilation, groups)
    if torch.is_autocast_enabled(x.device.type):  # which knows torch's functions only
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    pairs = tuple([n, n] if isinstance(n, int) else list(n) for n in (stride, padding, dilation))
    return _Convolution.apply(x, weight, bias, (*pairs, groups))
