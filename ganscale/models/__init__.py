"""The architectures. To add one: its file, and an entry in `config.networks`' `GENERATORS` or `DISCRIMINATORS`.

A generator is an `nn.Module` with `forward(z, labels=None)`: z `[N, latent_dim]` to images `[N, C, H, W]` in [-1, 1] or
points `[N, 2]`. A discriminator has `forward(x, labels=None)`: the same shapes to logits `[N]`, never probabilities.
Those here also give their last hidden layer (`features`) and, with an AC-GAN head, class logits
(`forward_with_classes`).
Each is built from its settings in the config (`ganscale.config.architectures`) and a `Geometry`.
"""

from ganscale.models.geometry import Geometry

__all__ = ["Geometry"]
