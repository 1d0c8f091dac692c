"""The vision transformer (Dosovitskiy et al. 2021) of DINOv2 (Oquab et al. 2024) and CLIP (Radford et al. 2021)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, interpolate, scaled_dot_product_attention

HEAD = 64
"""Numbers of an attention head, in the published sizes S, B and L."""
WIDEST = 1024
"""Width of size L; wider networks (H, g, G) have larger heads, which their tensors do not show."""


@dataclass(frozen=True)
class Family:
    """What the networks of one publication have in common; tensors do not show it.

    Attributes:
        quick_gelu: whether the activation is x sigmoid(1.702 x), not x Phi(x).
        epsilon: of the layer norms.
        scaled: whether each residual branch has a learned scale (LayerScale).
        projected: whether there is a norm before the blocks and a projection after them, and no bias of the patches.
        offset: that the published code adds to the size of the grid when it interpolates position embeddings.
        side: of the images in pixels; 0: that of the position embeddings.
        mean: of RGB in [0, 1], subtracted.
        deviation: of RGB, by which images are then divided.
    """

    quick_gelu: bool
    epsilon: float
    scaled: bool
    projected: bool
    offset: float
    side: int
    mean: tuple[float, float, float]
    deviation: tuple[float, float, float]


@dataclass(frozen=True)
class Size:
    """Size of a network.

    Attributes:
        width: numbers per token, a multiple of `HEAD`.
        depth: blocks.
        hidden: width between the two layers of a block's perceptron.
        patch: side of a patch in pixels.
        grid: patches along a side for which there are position embeddings.
        features: numbers of the projection.
    """

    width: int
    depth: int
    hidden: int
    patch: int
    grid: int
    features: int


class Block(nn.Module):
    """Attention and a perceptron, each after a norm and beside a residual.

    Args:
        size: of the network.
        family: of the network.
    """

    def __init__(self, size: Size, family: Family) -> None:
        super().__init__()
        width, self.quick_gelu = size.width, family.quick_gelu
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=family.epsilon) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, size.hidden), nn.Linear(size.hidden, width)
        self.scale1, self.scale2 = (nn.Parameter(torch.ones(width)) if family.scaled else None for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens `[N, T, width]` to tokens."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, -1, HEAD)).permute(2, 0, 3, 1, 4)
        attended = self.out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + (attended if self.scale1 is None else attended * self.scale1)
        h = self.fc1(self.norm2(x))
        h = self.fc2(h * torch.sigmoid(1.702 * h) if self.quick_gelu else gelu(h))
        return x + (h if self.scale2 is None else h * self.scale2)


class VisionTransformer(nn.Module):
    """Images to the features of their class token.

    Args:
        size: of the network.
        family: of the network.
    """

    def __init__(self, size: Size, family: Family) -> None:
        super().__init__()
        width, self._family = size.width, family
        self.side = family.side or size.patch * size.grid
        self.patch = nn.Conv2d(3, width, size.patch, size.patch, bias=not family.projected)
        self.cls = nn.Parameter(torch.zeros(width))
        self.position = nn.Parameter(torch.zeros(1 + size.grid**2, width))
        self.norm_pre = nn.LayerNorm(width, eps=family.epsilon) if family.projected else nn.Identity()
        self.blocks = nn.Sequential(*(Block(size, family) for _ in range(size.depth)))
        self.norm = nn.LayerNorm(width, eps=family.epsilon)
        self.projection = nn.Parameter(torch.zeros(width, size.features)) if family.projected else None

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images `[N, 3, side, side]` to features `[N, width]`, or `[N, features]` of a projection."""
        patches = self.patch(images)
        tokens = patches.flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls.expand(len(images), 1, -1), tokens), 1) + self._positions(patches.shape[2])
        found = self.norm(self.blocks(self.norm_pre(tokens))[:, 0])
        return found if self.projection is None else found @ self.projection

    def _positions(self, grid: int) -> Tensor:
        """Position embeddings of a class token and `grid` x `grid` patches, interpolated as the published code does."""
        stored = round((len(self.position) - 1) ** 0.5)
        if stored == grid:
            return self.position
        plane = self.position[1:].T.reshape(1, -1, stored, stored)
        plane = interpolate(plane, scale_factor=(grid + self._family.offset) / stored, mode="bicubic")
        assert plane.shape[2] == grid, "the scale is the ratio of the grids and a little more"
        return torch.cat((self.position[:1], plane.flatten(2).squeeze(0).T))
