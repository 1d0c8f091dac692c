"""Tiny runs that several test files share, as overrides of the default config."""

from ganscale.config import Config, load

MLP = (
    "data.resolution=8",
    "model.latent_dim=8",
    "model.generator.width=12",
    "model.discriminator.width=12",
)
DCGAN = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{setting}" for setting in ("name=dcgan", "width=3", "norm=none")),
    *(f"model.discriminator.{setting}" for setting in ("name=dcgan", "width=3", "norm=none")),
)
RING = (*MLP, "data.name=ring", "model.latent_dim=2")
RESNET = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{setting}" for setting in ("name=resnet", "width=3", "norm=none")),
    *(f"model.discriminator.{setting}" for setting in ("name=resnet", "width=3")),
)
R3GAN = (
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{s}" for s in ("name=r3gan", "width=4", "max_width=4", "depth=1", "group_size=4")),
    *(f"model.discriminator.{s}" for s in ("name=r3gan", "width=4", "max_width=4", "depth=1", "group_size=4")),
)
BATCH_NORM = ("model.generator.norm=batch", "model.discriminator.norm=batch")
EXACT = ("train.precision=float64", "train.batch_size=12", "ema.half_life=100", "optim.lr_g=1e-3", "optim.lr_d=1e-3")


def tiny(*overrides: str) -> Config:
    """A run in float64 with a global batch of 12, small enough for hundreds of iterations per second."""
    return load(overrides=(*EXACT, *overrides))
