"""Healthy setups over losses, penalties, architectures and data sets, each a few seconds long on one core."""

from dataclasses import dataclass

ROWS = 32
"""Metric rows of a run."""
EVALUATIONS = 8


@dataclass(frozen=True)
class Setup:
    """A run that trains as it should.

    Attributes:
        name: of the run.
        rate: learning rate of both networks.
        images: length of the run.
        overrides: all other settings that differ from the defaults.
    """

    name: str
    rate: float
    images: int
    overrides: tuple[str, ...]

    def has(self, setting: str) -> bool:
        """Whether the setup overrides something so.

        Args:
            setting: the override, or its beginning.
        """
        return any(override.startswith(setting) for override in self.overrides)

    @property
    def is_digits(self) -> bool:
        """Whether the data set is MNIST, not 2-D points."""
        return self.has("data.name=mnist")

    @property
    def is_conditional(self) -> bool:
        """Whether D learns the classes."""
        return self.has("model.discriminator.conditioning=")


def _networks(**settings: object) -> tuple[str, ...]:
    """The same settings for both networks."""
    sides = ("generator", "discriminator")
    return tuple(f"model.{side}.{name}={value}" for side in sides for name, value in settings.items())


_POINTS = (
    "model.latent_dim=2",
    "train.batch_size=128",
    "ema.half_life=4000",
    "eval.num_samples=1000",
    *_networks(width=128, depth=2, growth=1),
)
_RING, _GRID = ("data.name=ring", *_POINTS), ("data.name=grid", *_POINTS)
_DIGITS = (
    "data.name=mnist",
    "data.resolution=16",
    "model.latent_dim=32",
    "train.batch_size=64",
    "ema.half_life=2000",
    "eval.num_samples=500",
)
_MLP = (*_DIGITS, *_networks(width=128, depth=2))
_DCGAN = (*_DIGITS, *_networks(name="dcgan", width=8), "model.discriminator.norm=none")
_DCGAN_BN = (*_DIGITS, *_networks(name="dcgan", width=8))
_RESNET = (*_DIGITS, "train.batch_size=32", "ema.half_life=1000", *_networks(name="resnet", width=8, max_width=16))
_R3GAN = (
    *_DIGITS,
    "train.batch_size=16",
    "ema.half_life=500",
    *_networks(name="r3gan", width=8, max_width=16, depth=1, group_size=8),
)
_SPECTRAL = "model.discriminator.spectral_norm=true"
_CALM = ("optim.betas_g=[0.0, 0.99]", "optim.betas_d=[0.0, 0.99]")
_PAIRS = ("loss.name=relativistic_pairing", "penalty.r1=0.1", "penalty.r2=0.1", *_CALM)
_HINGE, _SQUARES, _CRITIC = (f"loss.name={name}" for name in ("hinge", "least_squares", "wasserstein"))
_ESTIMATED = ("penalty.r1_mode=finite_difference", "penalty.r2_mode=finite_difference")


def _classes(generator: str, discriminator: str) -> tuple[str, ...]:
    """Both networks learn the classes."""
    return f"model.generator.conditioning={generator}", f"model.discriminator.conditioning={discriminator}"


SETUPS: dict[str, Setup] = {
    setup.name: setup
    for setup in (
        Setup("ring-non_saturating", 1e-3, 200_000, (*_RING, "penalty.r1=0.1", *_CALM)),
        Setup("ring-hinge", 1e-3, 200_000, (*_RING, _HINGE, "penalty.r1=0.1", *_CALM)),
        Setup("ring-least_squares-r2", 1e-3, 200_000, (*_RING, _SQUARES, "penalty.r2=0.1", *_CALM)),
        Setup("ring-wasserstein-gp", 2e-3, 250_000, (*_RING, _CRITIC, "penalty.gp=1", *_CALM)),
        Setup("ring-relativistic", 1e-3, 200_000, (*_RING, *_PAIRS)),
        Setup("ring-relativistic_average", 1e-3, 200_000, (*_RING, *_PAIRS, "loss.name=relativistic_average")),
        Setup("ring-packing", 1e-3, 200_000, (*_RING, "penalty.r1=0.1", "model.packing=2", *_CALM)),
        Setup("grid-relativistic", 1e-3, 250_000, (*_GRID, *_PAIRS)),
        Setup("grid-large-batch", 2e-3, 400_000, (*_GRID, "train.batch_size=512", "penalty.r1=0.1", *_CALM)),
        Setup("mlp-non_saturating", 2e-4, 100_000, _MLP),
        Setup("mlp-slow", 1e-4, 100_000, _MLP),
        Setup("mlp-fast", 1e-3, 60_000, (*_MLP, "penalty.r1=0.1", *_CALM)),
        Setup("mlp-least_squares", 2e-4, 100_000, (*_MLP, _SQUARES)),
        Setup("mlp-hinge-dragan", 2e-4, 80_000, (*_MLP, _HINGE, "penalty.dragan=1")),
        Setup("mlp-critic5-gp", 5e-4, 100_000, (*_MLP, _CRITIC, "penalty.gp=10", "optim.d_steps=5", *_CALM)),
        Setup("mlp-relativistic-estimated", 1e-3, 60_000, (*_MLP, *_PAIRS, *_ESTIMATED)),
        Setup("mlp-acgan", 3e-4, 80_000, (*_MLP, *_classes("concat", "acgan"))),
        Setup("mlp-large-batch", 1e-3, 200_000, (*_MLP, "train.batch_size=512", "penalty.r1=0.1", *_CALM)),
        Setup("dcgan-non_saturating", 5e-4, 30_000, _DCGAN),
        Setup("dcgan-batch-norm", 5e-4, 30_000, _DCGAN_BN),
        Setup("dcgan-hinge-spectral", 5e-4, 30_000, (*_DCGAN, _HINGE, _SPECTRAL)),
        Setup("dcgan-critic3-gp", 2e-3, 25_000, (*_DCGAN, _CRITIC, "penalty.gp=10", "optim.d_steps=3", *_CALM)),
        Setup("dcgan-noise", 5e-4, 30_000, (*_DCGAN, "augment.noise=0.1", "model.latent=uniform")),
        Setup("dcgan-projection", 5e-4, 30_000, (*_DCGAN, _HINGE, "penalty.r1=0.1", *_classes("norm", "projection"))),
        Setup("resnet-hinge-spectral", 5e-4, 8_000, (*_RESNET, _HINGE, _SPECTRAL, *_CALM)),
        Setup("resnet-acgan", 5e-4, 8_000, (*_RESNET, _HINGE, _SPECTRAL, *_classes("norm", "acgan"), *_CALM)),
        Setup("resnet-relativistic", 1e-3, 8_000, (*_RESNET, *_PAIRS)),
        Setup("r3gan-relativistic", 3e-3, 8_000, (*_R3GAN, *_PAIRS)),
        Setup("r3gan-conditional", 3e-3, 8_000, (*_R3GAN, *_PAIRS, *_classes("concat", "projection"))),
    )
}
"""Networks, data and images are small; rates and penalties are those of the papers or of `configs/`."""


def overrides(setup: Setup, seed: int) -> tuple[str, ...]:
    """All settings of one run.

    Args:
        setup: the run without its seed.
        seed: of the run.
    """
    return (
        *setup.overrides,
        f"run.name={setup.name}",
        f"run.seed={seed}",
        f"optim.lr_g={setup.rate}",
        f"optim.lr_d={setup.rate}",
        f"train.images={setup.images}",
        f"log.every={setup.images // ROWS}",
        f"eval.every={setup.images // EVALUATIONS}",
        "eval.metrics=[frechet, modes, reverse_kl]",
        *(() if setup.is_digits else ("eval.extractor=pixels",)),
        "ema.rampup=0",
        "wandb.mode=disabled",
        "train.device=cpu",
    )
