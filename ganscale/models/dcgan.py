"""Convolutional pair (Radford, Metz, Chintala 2016) at 28 pixels and every power of two from 16."""

from itertools import pairwise

from torch import Tensor, nn

from ganscale.config.architectures import DCGANDiscriminator as DiscriminatorSettings
from ganscale.config.architectures import DCGANGenerator as GeneratorSettings
from ganscale.layers import ACTIVATIONS, NORMS, Linear
from ganscale.models.geometry import Geometry


def _levels(settings: GeneratorSettings | DiscriminatorSettings, resolution: int) -> tuple[int, list[int]]:
    """Side of the smallest map (4, or 7 for 28 pixels) and the channels of each map from small to large.

    Raises:
        ValueError: the resolution is neither 28 nor a power of two from 16.
    """
    if resolution == 28:
        side, doublings = 7, 2
    elif resolution >= 16 and resolution & (resolution - 1) == 0:
        side, doublings = 4, resolution.bit_length() - 3
    else:
        raise ValueError(f"dcgan makes 28 pixels or powers of two from 16, not {resolution}")
    channels = [min(settings.max_width, settings.width * 2**level) for level in reversed(range(doublings))]
    return side, channels


def _initialize(module: nn.Module) -> None:
    """Weights from N(0, 0.02), norm scales from N(1, 0.02), no biases (Radford et al. 2016, section 4)."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.normal_(m.weight, 0.0, 0.02)
            if m.bias is not None:
                nn.init.zeros_(m.bias)
        elif type(m).__name__ in ("BatchNorm", "GroupNorm"):
            nn.init.normal_(m.weight, 1.0, 0.02)  # pyright: ignore[reportArgumentType]
            nn.init.zeros_(m.bias)  # pyright: ignore[reportArgumentType]


class DCGANGenerator(nn.Module):
    """z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1]: project, then double the side until it fits."""

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__()
        self.side, channels = _levels(settings, geometry.shape[1])
        bias = settings.norm == "none"
        self.project = Linear(geometry.latent_dim, channels[0] * self.side**2, bias=bias)
        layers: list[nn.Module] = [NORMS[settings.norm](channels[0]), ACTIVATIONS[settings.activation]()]
        for below, above in pairwise(channels):
            layers.append(nn.ConvTranspose2d(below, above, 4, stride=2, padding=1, bias=bias))
            layers += [NORMS[settings.norm](above), ACTIVATIONS[settings.activation]()]
        layers += [nn.ConvTranspose2d(channels[-1], geometry.shape[0], 4, stride=2, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        _initialize(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one image per row of `z`."""
        return self.layers(self.project(z).view(z.shape[0], -1, self.side, self.side))


class DCGANDiscriminator(nn.Module):
    """Images `[N, C, H, W]` to logits `[N]`: halve the side until it is smallest, then one linear layer."""

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__()
        side, channels = _levels(settings, geometry.shape[1])
        channels = channels[::-1]
        bias = settings.norm == "none"
        layers: list[nn.Module] = [nn.Conv2d(geometry.shape[0], channels[0], 4, stride=2, padding=1)]
        layers.append(ACTIVATIONS[settings.activation]())
        for above, below in pairwise(channels):
            layers.append(nn.Conv2d(above, below, 4, stride=2, padding=1, bias=bias))
            layers += [NORMS[settings.norm](below), ACTIVATIONS[settings.activation]()]
        self.layers = nn.Sequential(*layers)
        self.logit = Linear(channels[-1] * side**2, 1)
        _initialize(self)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """One logit per row of `x`."""
        return self.logit(self.layers(x).flatten(1)).squeeze(1)
