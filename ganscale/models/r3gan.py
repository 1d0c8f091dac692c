"""R3GAN's pair: residual networks without norms (Huang et al. 2024, section 4).

width = max_width = 768 with two blocks per resolution is the paper's network for CIFAR-10: 20.7 M parameters each. With
classes the paper's discriminator has `conditioning: bilinear`.
"""

import torch
from torch import Tensor, nn

from ganscale.config.architectures import R3GANDiscriminator as DiscriminatorSettings
from ganscale.config.architectures import R3GANGenerator as GeneratorSettings
from ganscale.config.networks import feature_levels, map_size
from ganscale.models.base import Discriminator, Generator, Head
from ganscale.models.geometry import Geometry
from ganscale.models.layers import ACTIVATIONS, Chain, MinibatchStddev, Resample, SelfAttention, activation_gain


def _scale(layer: nn.Conv2d | nn.Linear, gain: float = 1.0) -> nn.Conv2d | nn.Linear:
    """Give a layer weights from N(0, gain^2 / fan-in) (He et al. 2015) and no bias."""
    nn.init.normal_(layer.weight, 0.0, gain * layer.weight[0].numel() ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _point(before: int, after: int, gain: float = 1.0, *, bias: bool = False) -> nn.Module:
    return _scale(nn.Conv2d(before, after, 1, bias=bias), gain)


class Bottleneck(nn.Module):
    """x + f(x), f an inverted bottleneck: 1x1 wider, grouped 3x3, 1x1 back, with biased activations between.

    At first f is zero and its inner layers are scaled by L^(-1/4), L the number of blocks in the network, so that no
    norm is needed (Zhang et al. 2019, Fixup, section 3: L^(-1/(2m - 2)) for m = 3 layers).

    Args:
        channels: of input and output.
        settings: expansion, group size, activation.
        num_blocks: L.
    """

    def __init__(self, channels: int, settings: GeneratorSettings | DiscriminatorSettings, num_blocks: int) -> None:
        super().__init__()
        inside = channels * settings.expansion
        if inside % settings.group_size:
            raise ValueError(f"group_size {settings.group_size} does not divide the {inside} channels inside a block")
        gain = activation_gain(settings.activation) * num_blocks**-0.25
        grouped = nn.Conv2d(inside, inside, 3, padding=1, groups=inside // settings.group_size)
        self.layers = nn.Sequential(
            _point(channels, inside, gain, bias=True),
            ACTIVATIONS[settings.activation](),
            _scale(grouped, gain),
            ACTIVATIONS[settings.activation](),
            _point(inside, channels, 0.0),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[N, C, H, W]` to the same shape."""
        return x + self.layers(x)


def _stage(
    settings: GeneratorSettings | DiscriminatorSettings, side: int, width: int, num_levels: int
) -> list[nn.Module]:
    """The blocks of one resolution."""
    blocks: list[nn.Module] = [Bottleneck(width, settings, settings.depth * num_levels) for _ in range(settings.depth)]
    return [*blocks, SelfAttention(width)] if side == settings.attention else blocks


class R3GANGenerator(Generator):
    """z `[N, latent_dim]` to images `[N, C, H, W]`: z scales learned maps, then blocks and smooth doubling.

    Without `output: tanh` pixels are not bounded, but learn to stay in [-1, 1].

    Args:
        settings: of the architecture.
        geometry: of the images, and length of z.
    """

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        if self.num_classes:  # a linear layer of one-hot classes in the original, with He's scale
            self.class_embedding.data.mul_(self.num_classes**-0.5)
        levels = list(zip(*feature_levels(settings, geometry.resolution), strict=True))
        side, width = levels[0]
        self.basis = nn.Parameter(torch.randn(width, *map_size(side, geometry.resolution)))
        self.project = _scale(nn.Linear(self.input_dim, width, bias=False))
        layers = _stage(settings, side, width, len(levels))
        for side, above in levels[1:]:
            layers += [_point(width, above)] if width != above else []
            layers += [Resample(up=True), *_stage(settings, side, above, len(levels))]
            width = above
        layers += [_point(width, geometry.shape[0]), ACTIVATIONS[settings.output]()]
        self.layers = Chain(*layers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one image per row of `z` `[N, latent_dim]`, of classes int64 `[N]` or None."""
        return self.layers(self.basis * self.project(self.input(z, labels))[:, :, None, None])


class R3GANDiscriminator(Discriminator):
    """Images `[N, C, H, W]` to logits `[N]`: blocks and smooth halving, one learned map per channel, a linear layer.

    The blocks of the smallest map see the batch's spread.

    Args:
        settings: of the architecture.
        geometry: of D's input.
    """

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        levels = list(zip(*feature_levels(settings, geometry.resolution), strict=True))[::-1]
        width = levels[0][1]
        layers: list[nn.Module] = [_point(geometry.shape[0], width)]
        for index, (side, below) in enumerate(levels):
            if index:
                layers.append(Resample(up=False))
                layers += [_point(width, below)] if width != below else []
            if index == len(levels) - 1 and settings.minibatch_stddev:
                layers += [MinibatchStddev(), _point(below + 1, below)]
            layers += _stage(settings, side, below, len(levels))
            width = below
        last = map_size(levels[-1][0], geometry.resolution)
        layers.append(_scale(nn.Conv2d(width, width, last, groups=width, bias=False)))
        self.layers = Chain(*layers)
        self.head = Head(width, settings.conditioning, self.num_classes, class_dim=settings.class_dim, bias=False)
        _scale(self.head.logit)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The smallest map, weighed and summed per channel."""
        return self.layers(x).flatten(1)
