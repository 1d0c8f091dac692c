"""Fully connected networks: the textbook's pair, also for 2-D points (Goodfellow et al. 2014)."""

from torch import Tensor, nn

from ganscale.config.architectures import BATCH_NORMS
from ganscale.config.architectures import MLPDiscriminator as DiscriminatorSettings
from ganscale.config.architectures import MLPGenerator as GeneratorSettings
from ganscale.layers import ACTIVATIONS, NORMS, Linear
from ganscale.models.geometry import Geometry


def _hidden(settings: GeneratorSettings | DiscriminatorSettings, sizes: list[int], size: int) -> list[nn.Module]:
    """Hidden layers that take `size` numbers through `sizes` units."""
    layers: list[nn.Module] = []
    for units in sizes:
        layers.append(Linear(size, units, bias=settings.norm not in BATCH_NORMS))  # the norm removes any mean
        if settings.norm != "none":
            layers.append(NORMS[settings.norm](units))
        layers.append(ACTIVATIONS[settings.activation]())
        size = units
    return layers


def _sizes(settings: GeneratorSettings | DiscriminatorSettings) -> list[int]:
    return [max(1, round(settings.width * settings.growth**level)) for level in range(settings.depth)]


class MLPGenerator(nn.Module):
    """z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1] (tanh) or points `[N, 2]` (no bound)."""

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__()
        self.shape = geometry.shape
        sizes = _sizes(settings)
        layers = _hidden(settings, sizes, geometry.latent_dim)
        layers.append(Linear(sizes[-1], geometry.size))
        if geometry.is_image:
            layers.append(nn.Tanh())
        self.layers = nn.Sequential(*layers)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one example per row of `z`."""
        return self.layers(z).view(z.shape[0], *self.shape)


class MLPDiscriminator(nn.Module):
    """Images `[N, C, H, W]` or points `[N, 2]` to logits `[N]`."""

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__()
        sizes = _sizes(settings)[::-1]
        layers = _hidden(settings, sizes, geometry.size)
        layers.append(Linear(sizes[-1], 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """One logit per row of `x`."""
        return self.layers(x.flatten(1)).squeeze(1)
