"""Verdicts on a run, as pure functions of its recent ticks: what is wrong, since when, and with which figures.

docs/health.md says what each verdict means, what to do, and how often it is right. The thresholds below were chosen on
one half of the runs of `python -m ganscale.healthbench`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from ganscale.config.evaluation import METRICS
from ganscale.config.health import Kind

Row = Mapping[str, float]
"""The metrics of a tick, or of a tick and its evaluation."""

PATIENCE = 3
"""Ticks in a row that must agree: one bad tick is a bad tick."""
IN_NATS = ("non_saturating", "minimax", "relativistic_pairing", "relativistic_average")
"""Losses that are logarithms of probabilities, so that their size means something."""
PASSING: tuple[Kind, ...] = ("discriminator-weak", "oscillation")
"""Verdicts on what may get well again: a trial of a sweep is trained on."""

LARGE_LOGIT = 1e5
"""Mean logit beyond which D has run away; a WGAN critic without bounds passes hundreds in a sound run."""
GROWTH = 1e4
"""Times that a gradient norm may grow over its early median."""
SATURATED = 0.999
"""Accuracy of D on real and fake alike, from which it has won."""
LOST = 8.0
"""G's loss against such a D: -log D(G(z)) = 8 is D(G(z)) = 0.0003."""
VANISHED = 1e-5
"""Share of its early gradient norm at which G no longer learns."""
STUCK = 5
"""Evaluations in a row at one mode or none, after there were more."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a run.

    Attributes:
        kind: which way of going wrong.
        reason: in a sentence, with the figures.
        since: index of the first tick of the trouble.
    """

    kind: Kind
    reason: str
    since: int = 0

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


@dataclass(frozen=True)
class Evidence:
    """What a verdict is taken from.

    Attributes:
        ticks: metrics of all ticks so far, oldest first.
        evaluations: metrics of all evaluations so far (`Evaluation.numbers()`), oldest first.
        in_nats: whether losses are logarithms of probabilities.
        patience: ticks in a row that must agree.
    """

    ticks: Sequence[Row]
    evaluations: Sequence[Row] = ()
    in_nats: bool = True
    patience: int = PATIENCE

    @property
    def last(self) -> Row:
        """The newest tick."""
        return self.ticks[-1]

    def since(self, bad: Callable[[Row], bool]) -> int | None:
        """Index of the first of the newest ticks that are bad without gap; None if these are fewer than `patience`."""
        start = len(self.ticks)
        while start > 0 and bad(self.ticks[start - 1]):
            start -= 1
        return start if len(self.ticks) - start >= self.patience else None

    def early(self, name: str) -> float:
        """Median of a number over the first `patience` ticks, if they are not the newest ones; else 0."""
        if len(self.ticks) < 2 * self.patience:
            return 0.0
        return median(row.get(name, 0.0) for row in self.ticks[: self.patience])


def non_finite(e: Evidence) -> Verdict | None:
    """A number of the newest tick is NaN or infinite, or a score is NaN (an infinite one only says: no mode found)."""
    for row in (*e.ticks[-1:], *e.evaluations[-1:]):
        for name, value in row.items():
            if math.isnan(value) or (math.isinf(value) and name.partition("_floor")[0] not in METRICS):
                return Verdict("non-finite", f"{name} is {value}", len(e.ticks) - 1)
    return None


RULES: dict[Kind, Callable[[Evidence], Verdict | None]] = {"non-finite": non_finite}
"""By kind, the gravest first."""


def judge(
    ticks: Sequence[Row],
    evaluations: Sequence[Row] = (),
    *,
    in_nats: bool = True,
    patience: int = PATIENCE,
    ignore: Collection[str] = (),
) -> Verdict | None:
    """The gravest verdict on a run, or None where nothing is wrong.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        evaluations: metrics of all evaluations so far (`Evaluation.numbers()`), oldest first.
        in_nats: whether losses are logarithms of probabilities, so that their size means something.
        patience: ticks in a row that must agree.
        ignore: kinds that are not given.
    """
    if not ticks:
        return None
    evidence = Evidence(ticks, evaluations, in_nats, patience)
    for kind, rule in RULES.items():
        verdict = None if kind in ignore else rule(evidence)
        if verdict:
            return verdict
    return None
