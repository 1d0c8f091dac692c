"""Residual pair (Gulrajani et al. 2017, appendices C and F; Miyato et al. 2018, appendix B.4)."""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from ganscale.config.architectures import BigGANGenerator
from ganscale.config.architectures import ResNetDiscriminator as DiscriminatorSettings
from ganscale.config.architectures import ResNetGenerator as GeneratorSettings
from ganscale.config.networks import feature_levels, feature_maps, map_size
from ganscale.models.base import Discriminator, Generator, Head
from ganscale.models.geometry import Geometry
from ganscale.models.layers import (
    ACTIVATIONS,
    CENTERING,
    Chain,
    MinibatchStddev,
    SelfAttention,
    add_spectral_norm,
    make_activation,
    make_norm,
)


class ResidualBlock(nn.Module):
    """Pre-activation block: norm, activation, 3x3 convolution, twice, and a shortcut.

    Args:
        channels: of the input and of the output.
        settings: activation and norm.
        up: double the side, by repetition before the first convolution.
        down: halve the side, by the mean after the second convolution.
        first: the input is an image: no norm, and no activation before the first convolution.
        bias: whether convolutions whose output stays in the residual stream have one.
        num_classes: of conditional norms.
        condition_dim: length of the conditions that norms read in place of labels; 0 for none.
    """

    takes_labels = True

    def __init__(
        self,
        channels: tuple[int, int],
        settings: GeneratorSettings | DiscriminatorSettings | BigGANGenerator,
        *,
        up: bool = False,
        down: bool = False,
        first: bool = False,
        bias: bool = True,
        num_classes: int = 0,
        condition_dim: int = 0,
    ) -> None:
        super().__init__()
        before, after = channels
        norm = "none" if first else settings.norm
        self.up, self.down = up, down
        # The first activation must not overwrite what the shortcut reads.
        given = (num_classes, condition_dim)
        before_first = [] if first else [make_norm(norm, before, *given), make_activation(settings.activation)]
        self.first = Chain(*before_first)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=norm not in CENTERING)
        self.second = Chain(make_norm(norm, after, *given), ACTIVATIONS[settings.activation]())
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=bias)
        plain = before == after and not (up or down)
        self.shortcut = nn.Identity() if plain else nn.Conv2d(before, after, 1, bias=bias)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """`[N, C, H, W]` to `[N, C', H', W']`, of classes int64 `[N]`, conditions, or None."""
        y = self.first(x, labels)
        y = self.conv1(_double(y) if self.up else y)
        y = self.conv2(self.second(y, labels))
        # A 1x1 convolution and resampling commute: the smaller side is cheaper.
        if self.down:
            return avg_pool2d(y, 2) + self.shortcut(avg_pool2d(x, 2))
        return y + (_double(self.shortcut(x)) if self.up else self.shortcut(x))


def _double(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2, mode="nearest")


def _initialize(network: nn.Module) -> None:
    """Glorot's uniform weights, times sqrt(2) in the blocks' 3x3 convolutions (Miyato et al. 2018's code); no biases.

    G's output convolution is not in a block: gain 1.

    Each block's last convolution is also scaled by L^(-1/2), L the number of blocks, so that the signal's power does
    not double from block to block and depth needs no norm.
    """
    blocks = [module for module in network.modules() if isinstance(module, ResidualBlock)]
    hidden = {conv for block in blocks for conv in (block.conv1, block.conv2)}
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight, math.sqrt(2.0) if module in hidden else 1.0)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    with torch.no_grad():
        for block in blocks:
            block.conv2.weight.mul_(len(blocks) ** -0.5)


class ResNetGenerator(Generator):
    """z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1]: project, then double the side by blocks till it fits.

    Args:
        settings: of the architecture.
        geometry: of the images, and length of z.
    """

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        sides, channels = feature_levels(settings, geometry.resolution)
        self.first = (channels[0], *map_size(sides[0], geometry.resolution))
        self.project = nn.Linear(self.input_dim, math.prod(self.first))
        options = {"bias": settings.norm not in CENTERING, "num_classes": self.norm_classes}
        pooled = settings.attention_form == "pooled"
        layers: list[nn.Module] = []
        if settings.attention == sides[0]:
            layers.append(SelfAttention(channels[0], pooled=pooled))
        for (before, after), side in zip(pairwise(channels), sides[1:], strict=True):
            layers.append(ResidualBlock((before, after), settings, up=True, **options))
            layers += [ResidualBlock((after, after), settings, **options) for _ in range(settings.depth - 1)]
            if side == settings.attention:
                layers.append(SelfAttention(after, pooled=pooled))
        classes_at_end = self.norm_classes if settings.conditional_output else 0
        layers += [make_norm(settings.norm, channels[-1], classes_at_end), ACTIVATIONS[settings.activation]()]
        layers += [nn.Conv2d(channels[-1], geometry.shape[0], 3, padding=1), nn.Tanh()]
        self.layers = Chain(*layers)
        _initialize(self)
        if settings.spectral_norm:
            add_spectral_norm(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one image per row of `z` `[N, latent_dim]`, of classes int64 `[N]` or None."""
        return self.layers(self.project(self.input(z, labels)).unflatten(1, self.first), labels)


class ResNetDiscriminator(Discriminator):
    """Images `[N, C, H, W]` to logits `[N]`: halve the side by blocks, pool, then one linear layer.

    The last block sees the batch's spread.

    Args:
        settings: of the architecture.
        geometry: of D's input.
    """

    spectral_eps = 1e-12

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        sides = feature_maps(settings, geometry.resolution)[::-1]
        plan = self._plan(settings, sides, geometry.shape[0])
        layers: list[nn.Module] = []
        for index, (before, after, side, down) in enumerate(plan):
            last = index == len(plan) - 1
            spread = int(settings.minibatch_stddev and last)
            layers += [MinibatchStddev()] * spread
            layers.append(ResidualBlock((before + spread, after), settings, down=down, first=index == 0))
            if side == settings.attention and (last or plan[index + 1][2] != side):
                layers.append(SelfAttention(after, pooled=settings.attention_form == "pooled"))
        self.layers = Chain(*layers, make_activation(settings.activation))
        self.pooling = settings.pooling
        num_pixels = math.prod(map_size(sides[-1], geometry.resolution))
        width = plan[-1][1] * (num_pixels if settings.pooling == "flatten" else 1)
        self.head = Head(width, settings.conditioning, self.num_classes, class_dim=settings.class_dim)
        self._initialize(num_pixels)
        if settings.spectral_norm:
            add_spectral_norm(self, eps=self.spectral_eps)

    def _initialize(self, num_pixels: int) -> None:
        """Set the initial weights for a last map of so many pixels."""
        _initialize(self)
        if self.pooling == "sum":  # over pixels neither equal nor independent: keep the logits of order one
            with torch.no_grad():
                for layer in self.head.children():
                    layer.get_parameter("weight").div_(math.sqrt(num_pixels))

    @staticmethod
    def _plan(
        settings: DiscriminatorSettings, sides: tuple[int, ...], image_channels: int
    ) -> list[tuple[int, int, int, bool]]:
        """Channels before and after each block, the side after it, and whether it halves the side."""
        plan, before = [], image_channels
        for level, side in enumerate(sides):
            after = min(settings.max_width, settings.width * 2**level)
            plan.append((before, after, side, True))
            more = settings.depth - 1 + (settings.final_blocks if side == sides[-1] else 0)
            plan += [(after, after, side, False)] * more
            before = after
        return plan

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The last map, pooled."""
        x = self.layers(x)
        if self.pooling == "flatten":
            return x.flatten(1)
        return x.sum((2, 3)) if self.pooling == "sum" else x.mean((2, 3))
