"""StyleGAN2's discriminator: residual blocks and the spread of groups of images (Karras et al. 2020)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ganscale.config.architectures import StyleGAN2Discriminator as DiscriminatorSettings
from ganscale.models.base import Discriminator, Head
from ganscale.models.geometry import Geometry
from ganscale.models.layers import Chain, EqualConv, EqualLinear, MinibatchStddev, unit_power, upcast
from ganscale.models.stylegan2 import Mapping, levels_of


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, the second halves the side, and a halved 1x1 shortcut, over sqrt(2).

    Args:
        before: channels of the input.
        after: channels of the output.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = EqualConv(before, before, 3)
        self.second = EqualConv(before, after, 3, down=True)
        self.shortcut = EqualConv(before, after, 1, down=True, bias=False, active=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, before, H, W]` to `[N, after, H/2, W/2]`."""
        return (self.second(self.first(x)) + self.shortcut(x)) * 0.5**0.5


class StyleHead(Head):
    """Features `[N, F]` to logits `[N]`, and with `acgan` to class logits.

    Args:
        num_features: F.
        settings: conditioning; with projection the logit is <h', f(y)> / sqrt(F), h' a linear function of the features
            and f a mapping network of the class (Karras et al. 2020, ADA's code).
        num_classes: of the labels.
    """

    def __init__(self, num_features: int, settings: DiscriminatorSettings, num_classes: int) -> None:
        nn.Module.__init__(self)
        self.conditioning = settings.conditioning
        projects = self.conditioning == "projection"
        self.logit = EqualLinear(num_features, num_features if projects else 1)
        if projects:
            self.embedding = nn.Embedding(num_classes, num_features)
            self.class_bias = nn.Parameter(torch.zeros(num_features))
            self.mapping = Mapping(num_features, num_features, settings.mapping_layers, settings.mapping_rate)
        if self.conditioning == "acgan":
            self.classifier = EqualLinear(num_features, num_classes)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """As of `Head`."""
        logits = upcast(self.logit(features))
        if self.conditioning != "projection":
            return logits.squeeze(1)
        num_classes, num_features = self.embedding.weight.shape
        directions = self.mapping(unit_power(self.embed_class(labels) * num_classes**-0.5 + self.class_bias))
        return (logits * directions).sum(1) * num_features**-0.5


class StyleGAN2Discriminator(Discriminator):
    """Images `[N, C, H, W]` to logits `[N]`: residual blocks, the spread of groups of images, and two dense layers.

    Args:
        settings: of the architecture.
        geometry: of D's input.
    """

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        levels = levels_of(settings, geometry.resolution)[::-1]
        widths = [channels for _, channels in levels]
        last, (height, width) = widths[-1], levels[-1][0]
        spread = [MinibatchStddev(settings.stddev_group)] if settings.stddev_group else []
        self.layers = Chain(
            EqualConv(geometry.shape[0], widths[0], 1),
            *(ResidualBlock(one, other) for one, other in pairwise(widths)),
            *spread,
            EqualConv(last + len(spread), last, 3),
            nn.Flatten(),
            EqualLinear(last * height * width, last, active=True),
        )
        self.head = StyleHead(last, settings, self.num_classes)

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The last hidden layer `[N, C]`."""
        return self.layers(x)
