"""Self-attention over the pixels of a feature map."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d


class SelfAttention(nn.Module):
    """y = gamma * o + x with gamma = 0 at first (Zhang et al. 2019, Eqs. 1 to 3); C / 8 channels inside.

    The form of its authors' code, which BigGAN took over, has values of C / 2 channels, and keys and values of the
    largest number of each 2x2 pixels.

    Args:
        channels: C of inputs `[N, C, H, W]`.
        pooled: whether it has that form.
    """

    def __init__(self, channels: int, *, pooled: bool = False) -> None:
        super().__init__()
        inside = max(1, channels // 8)
        width = max(1, channels // 2) if pooled else inside
        self.pooled = pooled
        self.query = nn.Conv2d(channels, inside, 1, bias=False)  # g of the paper
        self.key = nn.Conv2d(channels, inside, 1, bias=False)  # f
        self.value = nn.Conv2d(channels, width, 1, bias=False)  # h
        self.out = nn.Conv2d(width, channels, 1, bias=False)  # v
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Let each pixel of `[N, C, H, W]` attend to all pixels of its own image."""
        query, key, value = self.query(x).flatten(2), self.key(x), self.value(x)
        if self.pooled:
            key, value = max_pool2d(key, 2), max_pool2d(value, 2)
        key, value = key.flatten(2), value.flatten(2)
        # Written out: torch's fused kernels have no double backward, which gradient penalties need.
        weights = torch.softmax(query.transpose(1, 2) @ key, dim=2)
        mixed = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma.to(x.dtype) * self.out(mixed)
