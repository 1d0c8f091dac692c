"""BigGAN's pair (Brock et al. 2019, appendix B): wide residual networks, with z and the class at every block of G.

width = 96 and attention = 64 in both networks with latent_dim = 120 are the paper's for 128 pixels.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.config.architectures import BigGANGenerator as GeneratorSettings
from ganscale.config.networks import BIGGAN_CHANNELS, map_sides, map_size
from ganscale.models.base import Generator
from ganscale.models.geometry import Geometry
from ganscale.models.layers import ACTIVATIONS, CENTERING, Chain, SelfAttention, add_spectral_norm, make_norm
from ganscale.models.resnet import ResidualBlock, ResNetDiscriminator

SPECTRAL_EPS = 1e-6
"""Of the PyTorch code of the paper's author; 1e-4 in the appendix."""


@torch.no_grad()
def _initialize(network: nn.Module) -> None:
    """Orthogonal weights and embeddings (Saxe et al. 2014), no biases; rounded from float64, alike on all machines."""
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            parameter.copy_(nn.init.orthogonal_(torch.empty(parameter.shape, dtype=torch.float64)))
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


class ConditionalBlock(ResidualBlock):
    """A block that doubles the side, whose norms read the class's embedding and a part of z of its own.

    Args:
        channels: of the input and of the output.
        settings: activation and norm.
        parts: of the conditions that it reads: of z, and of the class's embedding.
        condition_dim: length of both together.
        bias: whether convolutions whose output stays in the residual stream have one.
    """

    def __init__(
        self,
        channels: tuple[int, int],
        settings: GeneratorSettings,
        parts: tuple[slice, slice],
        condition_dim: int,
        *,
        bias: bool,
    ) -> None:
        super().__init__(channels, settings, up=True, bias=bias, condition_dim=condition_dim)
        self.parts = parts

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """`[N, C, H, W]` to `[N, C', 2H, 2W]`; in place of labels the conditions of all blocks: `[N, L]`."""
        assert labels is not None, "of no numbers if there is nothing to read"
        own = torch.cat([labels[:, part] for part in self.parts], 1)
        return super().forward(x, own if own.shape[1] else None)


class BigGANGenerator(Generator):
    """z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1]: project the first part, then double the side by blocks.

    The parts of z differ by at most one number; without `hierarchical` the first layer reads all of z.

    Args:
        settings: of the architecture.
        geometry: of the images, and length of z.
    """

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        sides = map_sides(geometry.resolution)
        channels = [settings.width * each for each in BIGGAN_CHANNELS[len(sides) - 1][0]]
        num_parts = len(sides) if settings.hierarchical else 1
        parts = [len(each) for each in torch.arange(geometry.latent_dim).tensor_split(num_parts)]
        self.first_part, later = parts[0], [*parts[1:], *[0] * (len(sides) - num_parts)]
        class_dim, bias = settings.class_dim if self.num_classes else 0, settings.norm not in CENTERING
        self.first = (channels[0], *map_size(sides[0], geometry.resolution))
        self.project = nn.Linear(self.first_part, math.prod(self.first))
        pooled = settings.attention_form == "pooled"
        layers: list[nn.Module] = []
        if settings.attention == sides[0]:
            layers.append(SelfAttention(channels[0], pooled=pooled))
        start = 0
        for side, before, after, length in zip(sides[1:], channels[:-1], channels[1:], later, strict=True):
            own = slice(start, start + length), slice(sum(later), None)
            layers.append(ConditionalBlock((before, after), settings, own, length + class_dim, bias=bias))
            start += length
            if side == settings.attention:
                layers.append(SelfAttention(after, pooled=pooled))
        layers += [make_norm(settings.norm, channels[-1]), ACTIVATIONS[settings.activation]()]
        layers += [nn.Conv2d(channels[-1], geometry.shape[0], 3, padding=1), nn.Tanh()]
        self.layers = Chain(*layers)
        _initialize(self)
        if settings.spectral_norm:
            add_spectral_norm(self, eps=SPECTRAL_EPS)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one image per row of `z` `[N, latent_dim]`, of classes int64 `[N]` or None."""
        first, later = z[:, : self.first_part], z[:, self.first_part :]
        return self.layers(self.project(first).unflatten(1, self.first), self.input(later, labels))


class BigGANDiscriminator(ResNetDiscriminator):
    """Images `[N, C, H, W]` to logits `[N]`, as `ResNetDiscriminator` with the paper's channels and initial weights.

    Args:
        settings: of the architecture.
        geometry: of D's input.
    """

    spectral_eps = SPECTRAL_EPS

    def _initialize(self, num_pixels: int) -> None:
        _initialize(self)

    @staticmethod
    def _plan(settings: Any, sides: tuple[int, ...], image_channels: int) -> list[tuple[int, int, int, bool]]:
        plan, before = [], image_channels
        for index, multiple in enumerate(BIGGAN_CHANNELS[max(3, len(sides))][1]):
            plan.append((before, settings.width * multiple, sides[min(index, len(sides) - 1)], index < len(sides)))
            before = settings.width * multiple
        return plan
