"""Settings that change during a run as functions of its images, and whether its moving average is long enough."""

import math

from ganscale.config.objective import Scheduled
from ganscale.config.schema import EMA, Config

EARLY = 0.2
"""Share of a run whose weights its moving average should have forgotten at the end."""
MAX_EARLY_WEIGHT = 0.003
"""Weight of those in the average from which samples are measurably worse (BENCHMARKS.md, moving average)."""
STEPS = 1000
"""Of the midpoint rule that integrates over a run."""


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


def half_life(ema: EMA, images: int) -> float:
    """The moving average's half-life in images, ramped up with the run (Karras et al. 2020, their code).

    Args:
        ema: the settings.
        images: so far.
    """
    longest = value(ema.half_life, images)
    return min(longest, images * ema.rampup) if ema.rampup else longest


def early_weight(config: Config) -> float:
    """Weight of what the moving average was after the share `EARLY` of the run, in what it is at the end.

    Args:
        config: the run.
    """
    images = config.train.images
    width = (1.0 - EARLY) * images / STEPS
    half_lives = [half_life(config.ema, round(EARLY * images + (step + 0.5) * width)) for step in range(STEPS)]
    return 0.5 ** sum(width / each if each else math.inf for each in half_lives)


def average_warning(config: Config) -> str:
    """A line that warns of a run too short for the half-life of its moving average; empty if it is long enough.

    Args:
        config: The run.
    """
    weight, ema = early_weight(config), config.ema
    if weight < MAX_EARLY_WEIGHT:
        return ""
    longest = ema.half_life.end if isinstance(ema.half_life, Scheduled) else ema.half_life
    default = EMA().rampup
    return (
        f"warning: ema.half_life = {longest:,.0f} images is long for train.images = {config.train.images:,} with "
        f"ema.rampup = {ema.rampup:g}: {weight:.2g} of the weight of the averaged generator, which makes the samples, "
        f"comes from the first {EARLY:.0%} of the run; use ema.rampup={default:g}, a shorter half-life or a longer run"
    )


def exponent(width: float) -> float:
    """gamma of the power function t^gamma on [0, 1] with this standard deviation (Karras et al. 2024, EDM2, Eq. 126).

    The root of sigma^2 (gamma + 2)^2 (gamma + 3) = gamma + 1 above 0, found by bisection: there sigma only falls.

    Args:
        width: sigma_rel, above 0 and below 12^-0.5 = 0.2887, that of the mean of all weights.
    """
    low, high = 0.0, width**-1.0
    for _ in range(100):
        middle = 0.5 * (low + high)
        deviation = math.sqrt((middle + 1.0) / (middle + 3.0)) / (middle + 2.0)
        low, high = (middle, high) if deviation > width else (low, middle)
    return 0.5 * (low + high)
