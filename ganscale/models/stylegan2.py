"""StyleGAN2's generator: styles of a mapping network modulate convolutions, whose maps add up to the image.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (configuration F), and for classes and
channels "Training Generative Adversarial Networks with Limited Data" (ADA).
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ganscale.config.architectures import StyleGAN2Discriminator
from ganscale.config.architectures import StyleGAN2Generator as GeneratorSettings
from ganscale.config.datasets import Resolution
from ganscale.config.networks import map_sides, map_size
from ganscale.models.base import Generator
from ganscale.models.geometry import Geometry
from ganscale.models.layers import (
    Chain,
    EqualLinear,
    LatentAverage,
    ModulatedConv,
    Resample,
    StyleConv,
    unit_power,
    upcast,
)


def levels_of(
    settings: GeneratorSettings | StyleGAN2Discriminator, resolution: Resolution
) -> list[tuple[tuple[int, int], int]]:
    """Height and width, and channels of each map from small to large; the longer side counts.

    Args:
        settings: of the architecture.
        resolution: of the images.
    """
    shapes = [map_size(side, resolution) for side in map_sides(resolution)]
    return [(shape, max(1, min(settings.channel_base // max(shape), settings.channel_max))) for shape in shapes]


class Mapping(nn.Sequential):
    """Fully connected layers with a lower learning rate (Karras et al. 2019, section 2).

    Args:
        before: length of the input.
        after: length of all outputs.
        num_layers: how many.
        rate: multiplier of their learning rate.
    """

    def __init__(self, before: int, after: int, num_layers: int, rate: float) -> None:
        sizes = [before] + [after] * num_layers
        super().__init__(*(EqualLinear(one, other, rate=rate, active=True) for one, other in pairwise(sizes)))


class RandomInputs(NamedTuple):
    """What a generator draws besides z, each a function of the image's global index.

    Attributes:
        noise: standard normal numbers of all maps, `[N, num_noise]`; None for the constant maps.
        z: second latents, `[N, latent_dim]`; None without style mixing.
        cutoff: number of the first style that is the second latent's, int64 `[N]`; None without style mixing.
    """

    noise: Tensor | None
    z: Tensor | None
    cutoff: Tensor | None


class StyleBlock(nn.Module):
    """Both convolutions of one resolution (the first has one), and its share of the image.

    Args:
        channels: of the input (0 for the learned constant) and of the output.
        shape: height and width of the output.
        colors: channels of the image.
        settings: w_dim and noise.
    """

    def __init__(
        self, channels: tuple[int, int], shape: tuple[int, int], colors: int, settings: GeneratorSettings
    ) -> None:
        super().__init__()
        before, after = channels
        w_dim, noise = settings.w_dim, settings.noise != "none"
        pairs = [(before, True), (after, False)] if before else [(after, False)]
        self.convolutions = nn.ModuleList(StyleConv(c, after, w_dim, shape, up=up, noise=noise) for c, up in pairs)
        self.to_image = ModulatedConv(after, colors, w_dim, 1, demodulate=False)
        self.image_bias = nn.Parameter(torch.zeros(colors))
        self.upsample = Resample(up=True) if before else None

    def forward(self, x: Tensor, image: Tensor | None, styles: Tensor, noise: list[Tensor | None]) -> tuple[Any, Any]:
        """The map `[N, C, H, W]` and the image of the last block (None at first), with `[N, k + 1, w_dim]`."""
        for index, convolution in enumerate(self.convolutions):
            x = convolution(x, styles[:, index], noise[index])
        share = upcast(self.to_image(x, styles[:, -1]) + self.image_bias[:, None, None])
        return x, share if image is None or self.upsample is None else self.upsample(image) + share


class Synthesis(Chain):
    """Blocks of growing resolution on a learned constant.

    Args:
        settings: of the architecture.
        geometry: of the images.

    Attributes:
        maps: height and width of each map that has noise.
        num_styles: styles of an image: of each convolution, and of the last share of the image. The share of the other
            blocks has the style of the next convolution.
    """

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        levels = levels_of(settings, geometry.resolution)
        before = [0] + [channels for _, channels in levels[:-1]]
        super().__init__(
            *(
                StyleBlock((below, channels), shape, geometry.shape[0], settings)
                for below, (shape, channels) in zip(before, levels, strict=True)
            )
        )
        shape, channels = levels[0]
        self.constant = nn.Parameter(torch.randn(channels, *shape))
        self.maps = [shape for level, (shape, _) in enumerate(levels) for _ in range(2 if level else 1)]
        self.num_styles = len(self.maps) + 1

    def forward(self, styles: Tensor, noise: Tensor | None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Styles `[N, num_styles, w_dim]` and noise `[N, num_noise]`, or None for the constant maps, to images."""
        maps: list[Tensor | None] = [None] * len(self.maps)
        if noise is not None:
            parts = noise.split([height * width for height, width in self.maps], dim=1)
            maps = [part.view(-1, 1, *shape) for part, shape in zip(parts, self.maps, strict=True)]
        x: Any = self.constant.expand(styles.shape[0], -1, -1, -1)
        image, first = None, 0
        for block in self.children():
            assert isinstance(block, StyleBlock), "there are no other layers"
            count = len(block.convolutions)
            inputs = (x, image, styles[:, first : first + count + 1], maps[first : first + count])
            if self.recomputes and self.training and torch.is_grad_enabled():
                x, image = checkpoint(block, *inputs, use_reentrant=False, preserve_rng_state=False)  # pyright: ignore
            else:
                x, image = block(*inputs)
            first += count
        assert image is not None, "there is a block"
        return image


class StyleGAN2Generator(Generator):
    """z `[N, latent_dim]` to images `[N, C, H, W]`, which are not bounded, but learn to stay in [-1, 1].

    Args:
        settings: of the architecture.
        geometry: of the images, and length of z.
    """

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        if self.num_classes:
            self.class_bias = nn.Parameter(torch.zeros(settings.class_dim))
        self.mapping = Mapping(self.input_dim, settings.w_dim, settings.mapping_layers, settings.mapping_rate)
        self.average = LatentAverage(settings.w_dim)
        self.layers = Synthesis(settings, geometry)
        self.style_mixing = settings.style_mixing
        self.num_noise = sum(h * w for h, w in self.layers.maps) if settings.noise == "random" else 0

    def input(self, z: Tensor, labels: Tensor | None) -> Tensor:
        """The mapping network's input: z, and the class embedding, each with mean square 1 in every row.

        Args:
            z: latents `[N, latent_dim]`.
            labels: int64 `[N]`, or None for an unconditional generator.
        """
        z, rest = super().input(z, labels).split((z.shape[1], self.input_dim - z.shape[1]), dim=1)
        if not self.num_classes:
            return unit_power(z)
        return torch.cat((unit_power(z), unit_power(rest * self.num_classes**-0.5 + self.class_bias)), dim=1)

    def random_inputs(self, draws: Any, purpose: str, position: int | Tensor, z: Tensor) -> RandomInputs:
        """What it draws in training.

        Args:
            draws: `training.objective.Draws`.
            purpose: of the numbers.
            position: global index of the first row.
            z: first latents, `[N, latent_dim]`.
        """
        rows, dtype = z.shape[0], z.dtype
        noise, second, cutoff = None, None, None
        if self.num_noise:
            noise = draws.normal(f"{purpose}/noise", position, (rows, self.num_noise), dtype)
        if self.style_mixing:
            second = draws.normal(f"{purpose}/mixing/latent", position, z.shape, dtype)
            u = draws.uniform(f"{purpose}/mixing", position, (rows, 2), torch.float64)
            most = self.layers.num_styles
            cutoff = torch.where(u[:, 0] < self.style_mixing, 1 + (u[:, 1] * (most - 1)).long(), most)
        return RandomInputs(noise, second, cutoff)

    def styles(
        self, z: Tensor, labels: Tensor | None = None, random: RandomInputs | None = None, truncation: float = 1.0
    ) -> Tensor:
        """w of each layer: `[N, num_styles, w_dim]`. Arguments: `forward`."""
        mixes = random is not None and random.z is not None and random.cutoff is not None
        x = self.input(z, labels)
        if mixes:
            x = torch.cat((x, self.input(random.z, labels)))  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
        w = self.mapping(x)
        self.average(w[: z.shape[0]])
        if truncation != 1.0:
            w = torch.lerp(self.average.value.to(w.dtype), w, truncation)
        most = self.layers.num_styles
        if not mixes:
            return w[:, None].expand(-1, most, -1)
        cutoff = random.cutoff[:, None, None]  # pyright: ignore[reportOptionalMemberAccess, reportOptionalSubscript]
        first, second = w[:, None].expand(-1, most, -1).chunk(2)
        return torch.where(torch.arange(most, device=w.device)[None, :, None] < cutoff, first, second)

    def forward(
        self,
        z: Tensor,
        labels: Tensor | None = None,
        random: RandomInputs | None = None,
        truncation: float = 1.0,
    ) -> Tensor:
        """Generate one image per row of `z`.

        Args:
            z: latents `[N, latent_dim]`.
            labels: classes int64 `[N]`, or None.
            random: noise and style mixing; None for constant noise and one style.
            truncation: psi: w' = mean(w) + psi (w - mean(w)) (Karras et al. 2019, appendix B).
        """
        return self.layers(self.styles(z, labels, random, truncation), None if random is None else random.noise)
