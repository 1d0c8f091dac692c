"""Fully connected networks: the textbook's pair, also for 2-D points (Goodfellow et al. 2014)."""

from torch import Tensor, nn

from ganscale.config.architectures import MLPDiscriminator as DiscriminatorSettings
from ganscale.config.architectures import MLPGenerator as GeneratorSettings
from ganscale.models.base import Discriminator, Generator, Head
from ganscale.models.geometry import Geometry
from ganscale.models.layers import ACTIVATIONS, CENTERING, Chain, MinibatchStddev, add_spectral_norm, make_norm


def _hidden(
    settings: GeneratorSettings | DiscriminatorSettings, size: int, units: int, classes: int = 0
) -> list[nn.Module]:
    """One hidden layer that takes `size` numbers to `units`."""
    layers: list[nn.Module] = [nn.Linear(size, units, bias=settings.norm not in CENTERING)]
    if settings.norm != "none":
        layers.append(make_norm(settings.norm, units, classes))
    return [*layers, ACTIVATIONS[settings.activation]()]


def _sizes(settings: GeneratorSettings | DiscriminatorSettings) -> list[int]:
    return [max(1, round(settings.width * settings.growth**level)) for level in range(settings.depth)]


class MLPGenerator(Generator):
    """z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1] (tanh) or points `[N, 2]` (no bound).

    Args:
        settings: of the architecture.
        geometry: of the examples, and length of z.
    """

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        self.shape = geometry.shape
        layers: list[nn.Module] = []
        size = self.input_dim
        for units in _sizes(settings):
            layers += _hidden(settings, size, units, self.norm_classes)
            size = units
        layers.append(nn.Linear(size, geometry.size))
        if geometry.is_image:
            layers.append(nn.Tanh())
        self.layers = Chain(*layers)
        if settings.spectral_norm:
            add_spectral_norm(self)

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one example per row of `z` `[N, latent_dim]`, of classes int64 `[N]` or None."""
        return self.layers(self.input(z, labels), labels).unflatten(1, self.shape)


class MLPDiscriminator(Discriminator):
    """Images `[N, C, H, W]` or points `[N, 2]` to logits `[N]`; the last hidden layer sees the batch's spread.

    Args:
        settings: of the architecture.
        geometry: of D's input.
    """

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        layers: list[nn.Module] = []
        size = geometry.size
        for level, units in reversed(list(enumerate(_sizes(settings)))):
            if level == 0 and settings.minibatch_stddev:
                layers.append(MinibatchStddev())
                size += 1
            layers += _hidden(settings, size, units)
            size = units
        self.layers = Chain(*layers)
        self.head = Head(size, settings.conditioning, self.num_classes, class_dim=settings.class_dim)
        if settings.spectral_norm:
            add_spectral_norm(self)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The last hidden layer."""
        return self.layers(x.flatten(1))
