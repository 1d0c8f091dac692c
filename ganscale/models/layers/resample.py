"""Smooth resampling with the filter [1, 3, 3, 1] in both directions (Zhang 2019; Karras et al. 2020)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d


def _kernel(gain: float) -> Tensor:
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) * (gain / 8.0)
    return torch.outer(line, line)[None, None]


class Resample(nn.Module):
    """Double or halve the side with the smooth filter [1, 3, 3, 1] / 8 in both directions; black beyond the border.

    Args:
        up: whether to double; otherwise halve.
    """

    kernel: Tensor

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up
        self.register_buffer("kernel", _kernel(2.0 if up else 1.0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, C, 2H, 2W]` or `[N, C, H/2, W/2]`."""
        convolve = conv_transpose2d if self.up else conv2d
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return convolve(x, kernel, stride=2, padding=1, groups=x.shape[1])


class Smooth(nn.Module):
    """The filter alone, before a convolution with stride 2 or after a transposed one.

    Args:
        padding: black pixels added on each side.
        gain: of each direction: 2 where zeros were inserted.
    """

    kernel: Tensor

    def __init__(self, padding: int, *, gain: float = 1.0) -> None:
        super().__init__()
        self.padding = padding
        self.register_buffer("kernel", _kernel(gain), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to `[N, C, H + 2 padding - 3, W + 2 padding - 3]`."""
        kernel = self.kernel.to(x.dtype).expand(x.shape[1], -1, -1, -1)
        return conv2d(x, kernel, padding=self.padding, groups=x.shape[1])
