"""Healthy runs over architectures, data sets and objectives, each a few seconds long on one core."""

from dataclasses import dataclass

ROWS = 32
"""Metric rows of a run."""
EVALUATIONS = 8


@dataclass(frozen=True)
class Setup:
    """A healthy run.

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

    @property
    def is_digits(self) -> bool:
        """Whether the data set is MNIST, not 2-D points."""
        return "data.name=mnist" in self.overrides


def _networks(**settings: object) -> tuple[str, ...]:
    """The same settings for both networks."""
    sides = ("generator", "discriminator")
    return tuple(f"model.{side}.{name}={value}" for side in sides for name, value in settings.items())


_POINTS = (
    "data.name=ring",
    "model.latent_dim=2",
    "train.batch_size=128",
    "ema.half_life=5000",
    "ema.rampup=0",  # as in the recorded runs
    "eval.num_samples=1000",
    *_networks(width=128, depth=2, growth=1),
)
_DIGITS = (
    "data.name=mnist",
    "data.resolution=16",
    "model.latent_dim=32",
    "train.batch_size=64",
    "ema.half_life=2000",
    "ema.rampup=0",
    "eval.num_samples=500",
)
_DCGAN = (*_DIGITS, *_networks(name="dcgan", width=16), "model.discriminator.norm=none")
_MLP = (*_DIGITS, *_networks(width=128, depth=2))
_SPECTRAL = "model.discriminator.spectral_norm=true"
_RESNET = (*_DIGITS, *_networks(name="resnet", width=8), _SPECTRAL)
_R3GAN = (
    *_DIGITS,
    "train.batch_size=16",
    "ema.half_life=500",
    *_networks(name="r3gan", width=8, max_width=16, depth=1, group_size=8),
)
_CALM = ("optim.betas_g=[0.0, 0.99]", "optim.betas_d=[0.0, 0.99]")
_CRITIC = ("loss.name=wasserstein", "penalty.gp=10", "optim.d_steps=3", *_CALM)
_PAIRS = ("loss.name=relativistic_pairing", "penalty.r1=0.1", "penalty.r2=0.1", *_CALM)

SETUPS: dict[str, Setup] = {
    setup.name: setup
    for setup in (
        Setup("ring-mlp-non_saturating", 1e-3, 200_000, (*_POINTS, "penalty.r1=0.1", *_CALM)),
        Setup("ring-mlp-hinge", 1e-3, 200_000, (*_POINTS, "loss.name=hinge", "penalty.r1=0.1", *_CALM)),
        Setup("ring-mlp-wasserstein", 1e-3, 350_000, (*_POINTS, "loss.name=wasserstein", "penalty.gp=1", *_CALM)),
        Setup("ring-mlp-relativistic", 1e-3, 200_000, (*_POINTS, *_PAIRS)),
        Setup("digits-mlp-non_saturating", 2e-4, 100_000, _MLP),
        Setup("digits-mlp-least_squares", 2e-4, 100_000, (*_MLP, "loss.name=least_squares")),
        Setup("digits-dcgan-non_saturating", 5e-4, 40_000, _DCGAN),
        Setup("digits-dcgan-hinge", 5e-4, 40_000, (*_DCGAN, "loss.name=hinge", _SPECTRAL)),
        Setup("digits-dcgan-wasserstein", 5e-4, 60_000, (*_DCGAN, *_CRITIC)),
        Setup("digits-resnet-hinge", 5e-4, 20_000, (*_RESNET, "loss.name=hinge", *_CALM)),
        Setup("digits-r3gan-relativistic", 3e-3, 8_000, (*_R3GAN, *_PAIRS)),
    )
}
"""Networks, data and images are small; rates and penalties are those of the papers or of `configs/`."""


def overrides(setup: Setup, seed: int) -> tuple[str, ...]:
    """All settings of one run.

    Args:
        setup: the run without its seed.
        seed: of the run.
    """
    points = not setup.is_digits
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
        *(("eval.extractor=pixels",) if points else ()),
        "wandb.mode=disabled",
        "train.device=cpu",
    )
