"""Settings that change during a run, as pure functions of images."""

import math
from dataclasses import dataclass

from ganscale.config.objective import Scheduled
from ganscale.config.schema import Config
from ganscale.health.policy import rate_scale


def value(setting: float | Scheduled, images: int) -> float:
    """A setting's value after `images` images: constant, or from `start` to `end` along its curve.

    Between `begin` and `begin + over` images, t runs from 0 to 1 and the value is start + (end - start) f(t) with
    f(t) = t (linear) or (1 - cos(pi t)) / 2 (cosine), or start^(1 - t) end^t (exponential).
    """
    if isinstance(setting, int | float):
        return setting
    t = min(1.0, max(0.0, (images - setting.begin) / setting.over))
    if setting.curve == "exponential":
        return setting.start ** (1.0 - t) * setting.end**t
    share = t if setting.curve == "linear" else 0.5 * (1.0 - math.cos(math.pi * t))
    return setting.start + (setting.end - setting.start) * share


@dataclass(frozen=True)
class Controls:
    """What may differ from one iteration to the next. Weights are 0 where a penalty is not due.

    Attributes:
        lr_g: learning rate of the generator.
        lr_d: learning rate of the discriminator.
        betas_g: Adam's betas for the generator.
        betas_d: Adam's betas for the discriminator.
        noise: standard deviation of instance noise.
    """

    lr_g: float
    lr_d: float
    betas_g: tuple[float, float]
    betas_d: tuple[float, float]
    noise: float = 0.0


@dataclass(frozen=True)
class PenaltyWeights:
    """Weights of one D update; a lazy penalty has its weight times its interval when due and 0 otherwise."""

    gp: float = 0.0
    r1: float = 0.0
    r2: float = 0.0
    dragan: float = 0.0
    drift: float = 0.0


class Schedule:
    """The schedules of a run.

    Args:
        config: the run.
    """

    def __init__(self, config: Config) -> None:
        self._optim = config.optim
        self._penalty = config.penalty
        self._noise = config.augment.noise
        self._half_life = config.ema
        self._batch_size = config.train.batch_size
        self._health = config.health
        self._length = config.train.images

    def controls(self, images: int, rollbacks: int = 0) -> Controls:
        """Rates, betas and noise of the iteration that starts at `images`, in a run rolled back so many times."""
        optim = self._optim
        calm = rate_scale(self._health.rate_factor, rollbacks, images / self._length)
        beta2 = None if optim.beta2 is None else value(optim.beta2, images)
        betas_g, betas_d = optim.betas_g, optim.betas_d
        return Controls(
            lr_g=calm * value(optim.lr_g, images),
            lr_d=calm * value(optim.lr_d, images),
            betas_g=betas_g if beta2 is None else (betas_g[0], beta2),
            betas_d=betas_d if beta2 is None else (betas_d[0], beta2),
            noise=value(self._noise, images),
        )

    def penalties(self, images: int, rollbacks: int = 0) -> PenaltyWeights:
        """Weights of the D update whose first image is number `images`, in a run rolled back so many times."""
        firm = self._health.penalty_factor**rollbacks
        update = images // self._batch_size
        weights = {}
        for name in ("gp", "r1", "r2", "dragan"):
            every = getattr(self._penalty, f"{name}_every")
            weights[name] = firm * value(getattr(self._penalty, name), images) * every if update % every == 0 else 0.0
        return PenaltyWeights(**weights, drift=firm * value(self._penalty.drift, images))

    def half_life(self, images: int) -> float:
        """The moving average's half-life, ramped up with the run's age (Karras et al. 2020, their code)."""
        ema = self._half_life
        half_life = value(ema.half_life, images)
        return min(half_life, images * ema.rampup) if ema.rampup else half_life
