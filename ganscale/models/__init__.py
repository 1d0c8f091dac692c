"""The architectures. To add one: write its file, then one entry in `GENERATORS` and `DISCRIMINATORS`.

A generator is an `nn.Module` with `forward(z, labels=None)`: z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1] or
points `[N, 2]`. A discriminator has `forward(x, labels=None)`: the same shapes to logits `[N]`, never probabilities.
Each is built from its settings in the config (`ganscale.config.schema`) and a `Geometry`.
"""

from collections.abc import Callable
from typing import Any

from torch import nn

from ganscale.models.dcgan import DCGANDiscriminator, DCGANGenerator
from ganscale.models.geometry import Geometry
from ganscale.models.mlp import MLPDiscriminator, MLPGenerator

GENERATORS: dict[str, Callable[[Any, Geometry], nn.Module]] = {
    "mlp": MLPGenerator,
    "dcgan": DCGANGenerator,
}
DISCRIMINATORS: dict[str, Callable[[Any, Geometry], nn.Module]] = {
    "mlp": MLPDiscriminator,
    "dcgan": DCGANDiscriminator,
}

__all__ = ["DISCRIMINATORS", "GENERATORS", "Geometry"]
