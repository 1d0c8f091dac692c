"""Self-attention over the pixels of a feature map."""

import torch
from torch import Tensor, nn


class SelfAttention(nn.Module):
    """y = gamma * o + x with gamma = 0 at first (Zhang et al. 2019, Eqs. 1 to 3); C / 8 channels inside.

    Args:
        channels: C of inputs `[N, C, H, W]`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inside = max(1, channels // 8)
        self.query = nn.Conv2d(channels, inside, 1, bias=False)  # g of the paper
        self.key = nn.Conv2d(channels, inside, 1, bias=False)  # f
        self.value = nn.Conv2d(channels, inside, 1, bias=False)  # h
        self.out = nn.Conv2d(inside, channels, 1, bias=False)  # v
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Let each pixel of `[N, C, H, W]` attend to all pixels of its own image."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        # Written out: torch's fused kernels have no double backward, which gradient penalties need.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)
        mixed = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma.to(x.dtype) * self.out(mixed)
