"""Layers of StyleGAN2: equalized learning rate, modulated convolutions with noise, the average of w.

Karras et al. 2018, section 4.1 (equalized learning rate), 2019 (styles, noise), 2020 (modulation and demodulation).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu, linear

from ganscale.models.layers.precision import upcast
from ganscale.models.layers.resample import Resample, Smooth
from ganscale.parallel.collectives import sum_over_replicas

W_DECAY = 0.995
"""Weight of the past in the average of w, per update of G (Karras et al. 2019, their code)."""


def leaky(x: Tensor) -> Tensor:
    """Leaky ReLU of slope 0.2 times sqrt(2), which about keeps the power.

    Args:
        x: of any shape.
    """
    return leaky_relu(x, 0.2) * math.sqrt(2.0)


def unit_power(x: Tensor, eps: float = 1e-8) -> Tensor:
    """x over its root mean square along the last dimension (Zhang and Sennrich 2019), in float32 or wider.

    Args:
        x: `[N, ..., C]`.
        eps: added to the mean square.
    """
    wide = upcast(x)
    return wide * (wide.square().mean(-1, keepdim=True) + eps).rsqrt()


class EqualLinear(nn.Module):
    """A linear layer whose weights are scaled at run time, so that Adam moves all of them alike.

    Args:
        before: inputs.
        after: outputs.
        bias: its initial value; None for no bias.
        rate: multiplier of the learning rate of weights and bias.
        active: whether `leaky` follows.
    """

    def __init__(
        self, before: int, after: int, *, bias: float | None = 0.0, rate: float = 1.0, active: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before) / rate)
        self.bias = None if bias is None else nn.Parameter(torch.full((after,), bias))
        self.rate, self.active = rate, active

    def forward(self, x: Tensor) -> Tensor:
        """`[N, before]` to `[N, after]`."""
        gain = self.rate * self.weight.shape[1] ** -0.5  # of the input, which has fewer numbers
        x = linear(x * gain, self.weight, None if self.bias is None else self.bias * self.rate)
        return leaky(x) if self.active else x


class EqualConv(nn.Module):
    """A convolution whose weights are scaled at run time, with smooth halving of the side.

    Args:
        before: channels of the input.
        after: channels of the output.
        size: of the kernel, 1 or 3.
        down: whether to halve the side: the filter, then the convolution with stride 2.
        bias: whether it has one.
        active: whether `leaky` follows.
    """

    def __init__(
        self, before: int, after: int, size: int, *, down: bool = False, bias: bool = True, active: bool = True
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(after, before, size, size))
        self.bias = nn.Parameter(torch.zeros(after)) if bias else None
        self.size, self.down, self.active = size, down, active
        if down:
            self.filter = Resample(up=False) if size == 1 else Smooth(2)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, before, H, W]` to `[N, after, H, W]`, or half the side."""
        weight = self.weight * self.weight[0].numel() ** -0.5
        if self.down:
            x = conv2d(self.filter(x), weight, self.bias, stride=1 if self.size == 1 else 2)
        else:
            x = conv2d(x, weight, self.bias, padding=self.size // 2)
        return leaky(x) if self.active else x


class ModulatedConv(nn.Module):
    """A convolution whose input channels are scaled by a style (Karras et al. 2020, Eqs. 1 and 3).

    What scales a kernel's input channels may as well scale the input, and what scales its output channels the output:
    one convolution then serves all rows.

    Args:
        before: channels of the input.
        after: channels of the output.
        w_dim: length of w, from which a linear layer makes the style.
        size: of the kernel, 1 or 3.
        up: whether to double the side: the transposed convolution with stride 2, then the filter.
        demodulate: whether to divide the outputs by the norm of their kernel.
    """

    def __init__(
        self, before: int, after: int, w_dim: int, size: int, *, up: bool = False, demodulate: bool = True
    ) -> None:
        super().__init__()
        self.affine = EqualLinear(w_dim, before, bias=1.0)
        self.weight = nn.Parameter(torch.randn(after, before, size, size))
        self.filter = Smooth(1, gain=2.0) if up else None
        self.demodulate = demodulate

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """`[N, before, H, W]` and w `[N, w_dim]` to `[N, after, H, W]`, or twice the side."""
        style = self.affine(w)
        if not self.demodulate:
            style = style * self.weight[0].numel() ** -0.5
        x = x * style[:, :, None, None].to(x.dtype)
        if self.filter is None:
            x = conv2d(x, self.weight, padding=self.weight.shape[2] // 2)
        else:
            x = self.filter(conv_transpose2d(x, self.weight.transpose(0, 1), stride=2))
        if self.demodulate:
            power = style.square() @ self.weight.square().sum((2, 3)).t()
            x = x * (power + 1e-8).rsqrt()[:, :, None, None].to(x.dtype)
        return x


class StyleConv(nn.Module):
    """A modulated 3x3 convolution, noise with a learned strength, a bias and `leaky` (Karras et al. 2020, Figure 2c).

    Args:
        before: channels of the input.
        after: channels of the output.
        w_dim: length of w.
        shape: height and width of the output.
        up: whether to double the side.
        noise: whether it has noise.
    """

    constant: Tensor

    def __init__(
        self, before: int, after: int, w_dim: int, shape: tuple[int, int], *, up: bool, noise: bool = True
    ) -> None:
        super().__init__()
        self.convolution = ModulatedConv(before, after, w_dim, 3, up=up)
        self.bias = nn.Parameter(torch.zeros(after))
        self.shape, self.noise = shape, noise
        if noise:
            self.strength = nn.Parameter(torch.zeros(1))
            self.register_buffer("constant", torch.randn(shape))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None = None) -> Tensor:
        """`[N, before, H, W]` and w `[N, w_dim]` to `[N, after, *shape]`; noise `[N, 1, *shape]`, None: constant."""
        x = self.convolution(x, w)
        if self.noise:
            x = x + ((self.constant if noise is None else noise) * self.strength).to(x.dtype)
        return leaky(x + self.bias[:, None, None].to(x.dtype))


class LatentAverage(nn.Module):
    """Moving average of w, for truncation (Karras et al. 2019, appendix B): over the global batch, per update of G.

    Args:
        w_dim: length of w.
    """

    value: Tensor
    total: Tensor

    def __init__(self, w_dim: int) -> None:
        super().__init__()
        self.update_statistics = True  # as of BatchNorm: False in the block of `frozen_statistics`
        self.register_buffer("value", torch.zeros(w_dim))
        self.register_buffer("total", torch.zeros(w_dim + 1), persistent=False)

    def forward(self, w: Tensor) -> None:
        """Count rows of w `[N, w_dim]`, in training."""
        if self.training and self.update_statistics:
            rows = upcast(w.detach())
            self.total += torch.cat((rows.sum(0), rows.new_full((1,), float(rows.shape[0]))))

    @torch.no_grad()
    def advance(self) -> None:
        """Move towards the mean of all rows that were counted on any replica; a collective call."""
        (total,) = sum_over_replicas([self.total])
        self.value.lerp_((total[:-1] / total[-1]).to(self.value.dtype), 1.0 - W_DECAY)
        self.total.zero_()


def latent_averages(network: nn.Module) -> tuple[LatentAverage, ...]:
    """The averages of w in a network; it has one or none.

    Args:
        network: a generator.
    """
    return tuple(module for module in network.modules() if isinstance(module, LatentAverage))
