"""Convolutional pair (Radford, Metz, Chintala 2016)."""

import math
from itertools import pairwise

from torch import Tensor, nn

from ganscale.config.architectures import DCGANDiscriminator as DiscriminatorSettings
from ganscale.config.architectures import DCGANGenerator as GeneratorSettings
from ganscale.config.networks import feature_levels, map_size
from ganscale.models.base import Discriminator, Generator, Head
from ganscale.models.geometry import Geometry
from ganscale.models.layers import (
    ACTIVATIONS,
    BatchNorm,
    Chain,
    ConditionalNorm,
    MinibatchStddev,
    SelfAttention,
    add_spectral_norm,
    make_norm,
)


def _has_bias(settings: GeneratorSettings | DiscriminatorSettings) -> bool:
    """The other norms have a shift of their own."""
    return settings.norm in ("none", "pixel")


def _after(
    settings: GeneratorSettings | DiscriminatorSettings, side: int, channels: int, classes: int = 0
) -> list[nn.Module]:
    """What follows a convolution: norm, activation and, on one map, attention."""
    layers = [make_norm(settings.norm, channels, classes), ACTIVATIONS[settings.activation]()]
    return [*layers, SelfAttention(channels)] if side == settings.attention else layers


def _initialize(network: nn.Module) -> None:
    """Weights from N(0, 0.02), norm scales from N(1, 0.02), no biases (Radford et al. 2016, section 4)."""
    for m in network.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(m.weight, 0.0, 0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif isinstance(m, BatchNorm | nn.GroupNorm | ConditionalNorm) and m.weight is not None:
            nn.init.normal_(m.weight, 1.0, 0.02)


class DCGANGenerator(Generator):
    """z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1]: project, then double the side until it fits.

    Args:
        settings: of the architecture.
        geometry: of the images, and length of z.
    """

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        sides, channels = feature_levels(settings, geometry.resolution)
        self.first = (channels[0], *map_size(sides[0], geometry.resolution))
        bias = _has_bias(settings)
        self.project = nn.Linear(self.input_dim, math.prod(self.first), bias=bias)
        layers = _after(settings, sides[0], channels[0], self.norm_classes)
        for (below, above), side in zip(pairwise(channels), sides[1:], strict=True):
            layers.append(nn.ConvTranspose2d(below, above, 4, stride=2, padding=1, bias=bias))
            layers += _after(settings, side, above, self.norm_classes)
        layers += [nn.ConvTranspose2d(channels[-1], geometry.shape[0], 4, stride=2, padding=1), nn.Tanh()]
        self.layers = Chain(*layers)
        _initialize(self)
        if settings.spectral_norm:
            add_spectral_norm(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one image per row of `z` `[N, latent_dim]`, of classes int64 `[N]` or None."""
        return self.layers(self.project(self.input(z, labels)).unflatten(1, self.first), labels)


class DCGANDiscriminator(Discriminator):
    """Images `[N, C, H, W]` to logits `[N]`: halve the side until it is smallest, then one linear layer.

    The last convolution sees the batch's spread.

    Args:
        settings: of the architecture.
        geometry: of D's input.
    """

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        sides, channels = (values[::-1] for values in feature_levels(settings, geometry.resolution))
        bias = _has_bias(settings)
        layers: list[nn.Module] = [nn.Conv2d(geometry.shape[0], channels[0], 4, stride=2, padding=1)]
        layers.append(ACTIVATIONS[settings.activation]())
        if settings.attention == sides[0]:
            layers.append(SelfAttention(channels[0]))
        for (above, below), side in zip(pairwise(channels), sides[1:], strict=True):
            spread = int(settings.minibatch_stddev and side == sides[-1])
            layers += [MinibatchStddev()] * spread
            layers.append(nn.Conv2d(above + spread, below, 4, stride=2, padding=1, bias=bias))
            layers += _after(settings, side, below)
        self.layers = Chain(*layers)
        self.head = Head(
            channels[-1] * math.prod(map_size(sides[-1], geometry.resolution)),
            settings.conditioning,
            self.num_classes,
            class_dim=settings.class_dim,
        )
        _initialize(self)
        if settings.spectral_norm:
            add_spectral_norm(self)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The smallest map, flat."""
        return self.layers(x).flatten(1)
