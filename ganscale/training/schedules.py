"""Settings that change during a run, as pure functions of images."""

import math
from dataclasses import dataclass

from torch import Tensor

from ganscale.config.objective import Scheduled
from ganscale.config.schema import EMA, Config
from ganscale.health.policy import rate_scale
from ganscale.training.augment import AdaptiveRule


def value(setting: float | Scheduled, images: int) -> float:
    """A setting's value after `images` images: constant, or from `start` to `end` along its curve.

    Between `begin` and `begin + over` images, t runs from 0 to 1 and the value is start + (end - start) f(t) with
    f(t) = t (linear) or (1 - cos(pi t)) / 2 (cosine), or start^(1 - t) end^t (exponential).

    Args:
        setting: a number or a schedule.
        images: so far.
    """
    if isinstance(setting, int | float):
        return setting
    t = min(1.0, max(0.0, (images - setting.begin) / setting.over))
    if setting.curve == "exponential":
        return setting.start ** (1.0 - t) * setting.end**t
    share = t if setting.curve == "linear" else 0.5 * (1.0 - math.cos(math.pi * t))
    return setting.start + (setting.end - setting.start) * share


EARLY = 0.2
"""Share of a run whose weights its moving average should have forgotten at the end."""
MAX_EARLY_WEIGHT = 0.003
"""Weight of those in the average from which samples are measurably worse (BENCHMARKS.md, moving average)."""
STEPS = 1000
"""Of the midpoint rule that integrates over a run."""

Number = float | Tensor
"""A value of an iteration: a float, or inside a CUDA graph, where a float would stay what it was, a tensor `[]`."""


def is_on(value: Number) -> bool:
    """Whether a weight, a probability or a deviation has an effect; only values that have one become tensors.

    Args:
        value: at least 0.
    """
    return isinstance(value, Tensor) or value > 0.0


@dataclass(frozen=True)
class PenaltyWeights:
    """Weights of one D update; a lazy penalty has its weight times its interval when due and 0 otherwise."""

    gp: Number = 0.0
    r1: Number = 0.0
    r2: Number = 0.0
    dragan: Number = 0.0
    drift: Number = 0.0


@dataclass(frozen=True)
class Controls:
    """What may differ from one iteration to the next.

    Attributes:
        lr_g: learning rate of the generator.
        lr_d: learning rate of the discriminator.
        betas_g: Adam's betas for the generator.
        betas_d: Adam's betas for the discriminator.
        noise: standard deviation of instance noise.
        penalties: weights for each D update of the iteration.
        augment_p: probability of each transform of D's inputs, in [0, 1].
        details: whether to return `Statistics.sums` and gradient norms.
    """

    lr_g: Number
    lr_d: Number
    betas_g: tuple[float, float]
    betas_d: tuple[float, float]
    noise: Number
    penalties: tuple[PenaltyWeights, ...]
    augment_p: Number = 0.0
    details: bool = False


class Schedule:
    """What a run's config says about each iteration.

    Args:
        config: the run.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        augment = config.augment
        self.adaptive = AdaptiveRule(augment.target, augment.speed, augment.every) if augment.adaptive else None

    def controls(self, images: int, rollbacks: int = 0, *, augment_p: float = 0.0, details: bool = False) -> Controls:
        """Controls of the iteration whose first image is number `images`.

        Args:
            images: before the iteration.
            rollbacks: of the run so far, each of which lowers rates and raises penalties.
            augment_p: probability of each transform of D's inputs.
            details: whether the iteration returns details for the log.
        """
        optim, batch_size = self._config.optim, self._config.train.batch_size
        scale = rate_scale(self._config.health.rate_factor, rollbacks, images / self._config.train.images)
        beta2 = None if optim.beta2 is None else value(optim.beta2, images)
        betas_g, betas_d = optim.betas_g, optim.betas_d
        return Controls(
            lr_g=scale * value(optim.lr_g, images),
            lr_d=scale * value(optim.lr_d, images),
            betas_g=betas_g if beta2 is None else (betas_g[0], beta2),
            betas_d=betas_d if beta2 is None else (betas_d[0], beta2),
            noise=value(self._config.augment.noise, images),
            penalties=tuple(self.penalties(images + d * batch_size, rollbacks) for d in range(optim.d_steps)),
            augment_p=augment_p,
            details=details,
        )

    def penalties(self, images: int, rollbacks: int = 0) -> PenaltyWeights:
        """Weights of one D update; 0 where a lazy penalty is not due.

        Args:
            images: number of its first image.
            rollbacks: of the run so far, each of which raises penalties.
        """
        penalty = self._config.penalty
        scale = self._config.health.penalty_factor**rollbacks
        update = images // self._config.train.batch_size
        weights = {}
        for name in ("gp", "r1", "r2", "dragan"):
            every = getattr(penalty, f"{name}_every")
            weights[name] = scale * value(getattr(penalty, name), images) * every if update % every == 0 else 0.0
        return PenaltyWeights(**weights, drift=scale * value(penalty.drift, images))

    def half_life(self, images: int) -> float:
        """The moving average's half-life in images, ramped up with the run (Karras et al. 2020, their code).

        Args:
            images: so far.
        """
        ema = self._config.ema
        half_life = value(ema.half_life, images)
        return min(half_life, images * ema.rampup) if ema.rampup else half_life

    def early_weight(self) -> float:
        """Weight of what the moving average was after the share `EARLY` of the run, in what it is at the end."""
        images = self._config.train.images
        width = (1.0 - EARLY) * images / STEPS
        half_lives = [self.half_life(round(EARLY * images + (step + 0.5) * width)) for step in range(STEPS)]
        return 0.5 ** sum(width / half_life if half_life else math.inf for half_life in half_lives)


def average_warning(config: Config) -> str:
    """A line that warns of a run too short for the half-life of its moving average; empty if it is long enough.

    Args:
        config: The run.
    """
    weight, ema = Schedule(config).early_weight(), config.ema
    if weight < MAX_EARLY_WEIGHT:
        return ""
    half_life = ema.half_life.end if isinstance(ema.half_life, Scheduled) else ema.half_life
    default = EMA().rampup
    return (
        f"warning: ema.half_life = {half_life:,.0f} images is long for train.images = {config.train.images:,} with "
        f"ema.rampup = {ema.rampup:g}: {weight:.2g} of the weight of the averaged generator, which makes the samples, "
        f"comes from the first {EARLY:.0%} of the run; use ema.rampup={default:g}, a shorter half-life or a longer run"
    )
