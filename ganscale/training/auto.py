"""Settings that a run finds by itself: gamma of R1 and R2 while it trains (`penalty.auto`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ganscale.health.diversity import diversity
from ganscale.parallel.collectives import sum_over_replicas
from ganscale.training.statistics import Statistics, Total

STRENGTH = 0.002
"""First and least gamma, over the mean squared distance of two real examples."""
RANGE = 10.0
"""Largest gamma over the least."""
SMALLEST_DISTANCE = 1e-6
"""Mean squared distance that counts where examples are equal."""
TARGET = 0.3
"""D's lead at which gamma rises: the share of the loss of guessing that D has gained (docs/auto.md)."""
EVERY = 4
"""Iterations between two changes of gamma."""
SPEED = 50.0
"""Times in a run that gamma is multiplied by e where the lead is twice the target."""
STEEPEST = 2.0
"""Largest relative deviation of the lead that counts, so that a batch alone cannot move gamma far."""


@dataclass(frozen=True)
class GammaRule:
    """How gamma follows D's lead.

    Attributes:
        guessing_loss: D's loss when it cannot tell real from fake.
        length: of the run in images.
        least: gamma at the start and at least; at most it is `RANGE` times larger.
        target: lead at which gamma rises, in (0, 1).
        every: iterations between two changes.
    """

    guessing_loss: float
    length: int
    least: float
    target: float = TARGET
    every: int = EVERY


def least_gamma(reference: Sequence[float], size: int) -> float:
    """Gamma at the start and at least: a share of the mean squared distance of two real examples, 2 tr Cov.

    D's logits of two examples differ by about its gradient's norm times their distance. So gamma over the squared
    distance means the same for every scale of the data and number of values, which gamma itself does not.

    Args:
        reference: `spread_sums` of real examples, `[NUM_SUMS]`.
        size: values per example, at least 1.
    """
    return STRENGTH * max(SMALLEST_DISTANCE, size * diversity(reference) ** 2)


def measure_lead(statistics: Statistics, guessing_loss: float, total: Total = sum_over_replicas) -> float | None:
    """Measure D's lead: 0 where D guesses, 1 where its adversarial loss is 0, below 0 where it is fooled.

    Args:
        statistics: of the newest iteration, with details.
        guessing_loss: of D's adversarial loss.
        total: sums over all replicas.

    Returns:
        None in an iteration in which not both R1 and R2 were due.
    """
    if not {"r1", "r2"} <= statistics.penalties.keys():
        return None
    loss, rows = map(float, total([statistics.sums["adversarial"], statistics.sums["rows"]]))
    return 1.0 - loss / rows / guessing_loss


def next_gamma(gamma: float, lead: float, images: int, rule: GammaRule) -> float:
    """Gamma after `images` more images: up where D leads by more than the target, else down.

    The rate of change of log gamma is proportional to lead / target - 1: near the balance of D's loss and its penalty
    the lead is proportional to 1 / gamma, so that deviations decay exponentially, within 1 / `SPEED` of the run.

    Args:
        gamma: before.
        lead: of D.
        images: since the last change.
        rule: target, speed and bounds.
    """
    deviation = min(STEEPEST, max(-1.0, lead / rule.target - 1.0))
    wanted = gamma * math.exp(SPEED * images / rule.length * deviation)
    return min(RANGE * rule.least, max(rule.least, wanted))
