"""The architectures. To add one: write its file, then one entry in `GENERATORS` and `DISCRIMINATORS`.

A generator is an `nn.Module` with `forward(z, labels=None)`: z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1] or
points `[N, 2]`. A discriminator has `forward(x, labels=None)`: the same shapes to logits `[N]`, never probabilities.
Those here also give their last hidden layer (`features`) and, with an AC-GAN head, class logits
(`forward_with_classes`).
Each is built from its settings in the config (`ganscale.config.schema`) and a `Geometry`.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from ganscale.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganscale.models.geometry import Geometry
from ganscale.models.mlp import MLPDiscriminator, MLPGenerator
from ganscale.models.r3gan import R3GANDiscriminator, R3GANGenerator
from ganscale.models.resnet import ResNetDiscriminator, ResNetGenerator

GENERATORS: dict[str, Callable[[Any, Geometry], nn.Module]] = {
    "mlp": MLPGenerator,
    "dcgan": DCGANGenerator,
    "resnet": ResNetGenerator,
    "r3gan": R3GANGenerator,
}
DISCRIMINATORS: dict[str, Callable[[Any, Geometry], nn.Module]] = {
    "mlp": MLPDiscriminator,
    "dcgan": DCGANDiscriminator,
    "resnet": ResNetDiscriminator,
    "r3gan": R3GANDiscriminator,
}

__all__ = ["DISCRIMINATORS", "GENERATORS", "Geometry"]
