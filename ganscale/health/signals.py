"""Signals of trouble: numbers that mean the same for every loss, penalty, network and data set.

Each compares a run with itself, or reals with fakes, never with a constant of one objective. A signal has a limit: what
healthy runs reach, over the setups of `python -m benchmarks.health`, with a margin (docs/health.md).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

from ganscale.config import LOSSES, AdversarialLoss
from ganscale.config.table import find

Row = Mapping[str, float]
"""The metrics of a tick, or of a tick and its evaluation."""

Badness = Callable[[Row], float]
"""Of one row, larger is worse; -inf where the row does not have the numbers."""

PATIENCE = 3
"""Ticks in a row that must agree: a single bad tick is no verdict."""
EVALUATIONS = 2
"""Evaluations in a row that must agree."""
PAST = 256
"""Ticks that a run's past goes back."""
GROWTH_TICKS = 8
"""Ticks within which weights must not grow too much."""
FLAT_TICKS = 12
"""Fewest ticks that count as no progress."""
FLAT_EVALUATIONS = 4
"""Fewest evaluations that do."""
LONG_FLAT_EVALUATIONS = 5
"""Fewest that do where samples are merely mediocre, as slow learners are for a while."""
LACKING_EVALUATIONS = 6
"""Fewest evaluations without any mode that are too many."""
IMPROVED = 0.8
"""Share of an earlier distance that counts as progress."""
CLASS_MARGIN = 0.1
"""Preference for an example's class, in standard deviations, that chance alone hardly gives."""
OFFSET = 0.05
"""Added to distances relative to the reals' variance, so that ratios of two good ones are near 1."""


@dataclass(frozen=True)
class Limit:
    """Where trouble begins, from the healthy runs of the benchmark.

    Attributes:
        value: badness that no rows in a row reach in healthy runs.
        single: badness that no single row reaches.
        spread: standard deviation of what healthy setups reach, in which scores are measured.
    """

    value: float
    single: float
    spread: float


@dataclass(frozen=True)
class Evidence:
    """What a verdict is taken from.

    Attributes:
        ticks: metrics of all ticks so far, oldest first.
        evaluations: metrics of all evaluations so far (`Evaluation.numbers()`), oldest first.
        loss: `loss.name` of the run.
        patience: ticks in a row that must agree; also how many of the first ones are early.
        streak: ticks in a row that are enough, where these are not `patience`.
        limits: of the signals, by name.
    """

    ticks: Sequence[Row]
    evaluations: Sequence[Row] = ()
    loss: str = "non_saturating"
    patience: int = PATIENCE
    streak: int = 0
    limits: Mapping[str, Limit] = field(default_factory=dict)

    @property
    def objective(self) -> AdversarialLoss:
        """The run's loss. Raises: ConfigError: it is unknown."""
        return find(LOSSES, self.loss, key="loss.name")

    @property
    def last(self) -> Row:
        """The newest tick."""
        return self.ticks[-1]

    def since(self, bad: Callable[[Row], bool]) -> int | None:
        """Index of the first of the newest ticks that are bad without gap; None if these are too few.

        Args:
            bad: whether a row is bad.
        """
        start = _start(self.ticks, bad)
        return start if len(self.ticks) - start >= (self.streak or self.patience) else None

    @cached_property
    def past(self) -> Sequence[Row]:
        """The `PAST` ticks before the newest `patience`, with which those are compared; empty if there are too few."""
        past = self.ticks[: -self.patience][-PAST:]
        return past if len(past) >= self.patience else ()

    def usual(self, name: str) -> float:
        """Median of a number over the past; NaN if there is none.

        Args:
            name: of the number.
        """
        values = [row[name] for row in self.past if math.isfinite(row.get(name, math.nan))]
        return median(values) if values else math.nan

    def smoothed(self, name: str) -> list[float]:
        """Medians of a number over each `patience` neighboring ticks of the past.

        Args:
            name: of the number.
        """
        values = [row.get(name, math.nan) for row in self.past]
        windows = (values[start : start + self.patience] for start in range(len(values) - self.patience + 1))
        return [median(window) for window in windows if all(map(math.isfinite, window))]


def _start(rows: Sequence[Row], bad: Callable[[Row], bool]) -> int:
    """Index of the first of the newest rows that are bad without gap; the number of rows if the newest is not."""
    start = len(rows)
    while start > 0 and bad(rows[start - 1]):
        start -= 1
    return start


def log_ratio(value: float, base: float) -> float:
    """log(value / base), or -inf where either is not a positive number.

    Args:
        value: of the row.
        base: that it is compared with.
    """
    return math.log(value / base) if 0.0 < value < math.inf and 0.0 < base < math.inf else -math.inf


def separation(row: Row) -> float:
    """Distance of D's mean logits on real and fake in standard deviations (d'); negative where it is fooled.

    Args:
        row: metrics of a tick.
    """
    spread = math.hypot(row.get("real_logit_std", 0.0), row.get("fake_logit_std", 0.0))
    distance = row.get("real_logit_mean", 0.0) - row.get("fake_logit_mean", 0.0)
    return distance / max(spread, 1e-12)


def _weights(side: str) -> Callable[[Evidence], Badness | None]:
    """Growth of a network's weights over their smallest norm in the ticks before."""
    name = f"weight_norm_{side}"

    def measure(e: Evidence) -> Badness | None:
        before = [row.get(name, math.nan) for row in e.past[-GROWTH_TICKS:]]
        return (lambda row: log_ratio(row.get(name, math.nan), min(before))) if before else None

    return measure


def _gradient(e: Evidence) -> Badness | None:
    """Growth of D's gradient norm over its largest in the past: it also grows when G catches up with a D that won."""
    before = e.smoothed("grad_norm_d")
    return (lambda row: log_ratio(row.get("grad_norm_d", math.nan), max(1e-3, *before))) if before else None


def _gone(e: Evidence) -> Badness:
    """How much smaller G's gradient norm is than its median in the past."""
    usual = e.usual("grad_norm_g")
    return lambda row: log_ratio(usual, max(row.get("grad_norm_g", math.nan), 1e-30))


def _loss(e: Evidence) -> Badness | None:
    """D's adversarial loss over that of guessing: D is confident and wrong."""
    guessing = e.objective.guessing_loss
    return None if guessing is None else lambda row: log_ratio(row.get("adversarial_loss_d", math.nan), guessing)


def _fooled(e: Evidence) -> Badness:
    """Standard deviations by which D takes fake for real."""
    return lambda row: -separation(row) if "real_logit_mean" in row else -math.inf


def _won(e: Evidence) -> Badness:
    """Standard deviations by which D tells real from fake."""
    return lambda row: log_ratio(separation(row), 1.0)


def _low_diversity(e: Evidence) -> Badness:
    """How much less fakes differ than reals."""
    return lambda row: log_ratio(row.get("diversity_real", math.nan), max(row.get("diversity_fake", math.nan), 1e-12))


def _copies(side: str) -> Callable[[Evidence], Badness]:
    """Share of a batch that are copies of others."""
    return lambda _: lambda row: row.get(f"copies_{side}", -math.inf)


def _unlike_data(e: Evidence) -> Badness:
    """Distance of the reals of a batch from the data set."""
    return lambda row: row.get("sliced_frechet_real", -math.inf)


def _overfitted(e: Evidence) -> Badness:
    """Standard deviations by which D prefers examples that it trains on to held-out ones."""
    return lambda row: row.get("held_out_gap", -math.inf)


def _ignores_classes(e: Evidence) -> Badness | None:
    """How little D prefers an example's class to another one, at best over half of the ticks."""
    newer = _newer_half(e.smoothed("class_margin"), FLAT_TICKS)
    if not newer:
        return None
    best = max(newer)
    return lambda row: log_ratio(CLASS_MARGIN, max(row.get("class_margin", math.inf), best, 1e-3 * CLASS_MARGIN))


def _diversity(e: Evidence) -> Badness:
    """How much less fakes differ than they did."""
    best = max(e.smoothed("diversity_fake"), default=math.nan)
    return lambda row: log_ratio(best, max(row.get("diversity_fake", math.nan), 1e-12))


def _farther(e: Evidence) -> Badness:
    """How much farther fakes are from reals than they were."""
    best = min(e.smoothed("sliced_frechet"), default=math.nan) + OFFSET
    return lambda row: log_ratio(row.get("sliced_frechet", math.nan) + OFFSET, best)


def _frechet(e: Evidence) -> Badness | None:
    """How much larger the Frechet distance is than it was, if samples were better than one repeated example."""
    best = min((_relative(row) for row in e.evaluations[:-EVALUATIONS]), default=math.inf)
    return (lambda row: log_ratio(_relative(row), best)) if best < 1.0 else None


def _relative(row: Row) -> float:
    return row.get("frechet", math.nan) / row.get("frechet_scale", math.nan) + OFFSET


def _had(e: Evidence, name: str) -> list[float]:
    """A number of the evaluations before the newest, the smallest first, if there are two: one may be chance."""
    before = sorted(row.get(name, math.nan) for row in e.evaluations[:-EVALUATIONS])
    return before if len(before) > 1 else []


def _modes(e: Evidence) -> Badness | None:
    """How many fewer modes samples have than they had twice."""
    had = _had(e, "modes")
    return (lambda row: log_ratio(had[-2] + 1.0, row.get("modes", math.nan) + 1.0)) if had else None


def _uneven(e: Evidence) -> Badness | None:
    """How much larger the modes' reverse KL is than it was twice, in nats."""
    had = _had(e, "reverse_kl")
    return (lambda row: row.get("reverse_kl", -math.inf) - had[1]) if had else None


def _newer_half(values: Sequence[float], least: int) -> Sequence[float]:
    """The newer half of the values, at least `least`; empty if there are no older ones."""
    half = max(least, len(values) // 2)
    return values[-half:] if len(values) > half else ()


def _flat(values: Sequence[float], least: int) -> bool:
    """Whether the newer half of the values, at least `least`, is not better than the one before, nor falling."""
    newer = _newer_half(values, least)
    return bool(newer) and min(newer) > IMPROVED * values[-len(newer) - 1] and newer[-1] > IMPROVED * max(newer)


def _flat_distance(e: Evidence) -> Badness | None:
    """Distance of fakes from reals, over the reals' variance, if it has not fallen for half of the ticks."""
    values = e.smoothed("sliced_frechet")
    flat = _flat(values, FLAT_TICKS)
    return (lambda row: log_ratio(row.get("sliced_frechet", math.nan), 1.0)) if flat else None


def _flat_frechet(least: int) -> Callable[[Evidence], Badness | None]:
    """Frechet distance, over that of one repeated example, if it has not fallen for half of the evaluations."""

    def measure(e: Evidence) -> Badness | None:
        flat = _flat([_relative(row) for row in e.evaluations], least)
        return (lambda row: log_ratio(_relative(row), 1.0)) if flat else None

    return measure


def _no_modes(e: Evidence) -> Badness | None:
    """Whether no sample was near a mode for half of the evaluations, nor did they come nearer: 1."""
    newer = _newer_half([row.get("modes", math.nan) for row in e.evaluations], LACKING_EVALUATIONS)
    flat = not any(newer) and _flat([_relative(row) for row in e.evaluations], LACKING_EVALUATIONS)
    return (lambda _: 1.0) if flat else None


@dataclass(frozen=True)
class Signal:
    """A number that says how bad a run is in one respect.

    Attributes:
        measure: `(evidence) -> Badness`, or None where the evidence does not suffice.
        text: says it with `{value}`, `{times}` (e to the value) and the row's numbers.
        floor: smallest limit: less is no trouble, however rare it is in healthy runs.
        of_evaluations: whether rows are evaluations, not ticks.
    """

    measure: Callable[[Evidence], Badness | None]
    text: str
    floor: float
    of_evaluations: bool = False


@dataclass(frozen=True)
class Reading:
    """What a signal shows.

    Attributes:
        value: badness that the newest rows all reach; -inf where the evidence does not suffice.
        since: index of the first of the newest ticks that are beyond the limit without gap.
        reason: in a sentence, with the figures.
    """

    value: float
    since: int = 0
    reason: str = ""


def read(signal: Signal, e: Evidence, limit: float = math.inf) -> Reading:
    """Read a signal.

    Args:
        signal: to read.
        e: the run so far.
        limit: of the badness, above which it is trouble.
    """
    rows = e.evaluations if signal.of_evaluations else e.ticks
    wanted = EVALUATIONS if signal.of_evaluations else e.streak or e.patience
    badness = signal.measure(e) if len(rows) >= wanted else None
    if badness is None:
        return Reading(-math.inf)
    value = min(map(badness, rows[-wanted:]))
    if not value > limit:
        return Reading(value)
    start = _start(rows, lambda row: badness(row) > limit)
    since = _tick(e, rows[start]) if signal.of_evaluations else start
    numbers = {"separation": separation(rows[-1]), **rows[-1]}
    return Reading(value, since, signal.text.format(value=value, times=math.exp(min(value, 99.0)), **numbers))


def _tick(e: Evidence, evaluation: Row) -> int:
    """Index of the tick that an evaluation belongs to; evaluations are ticks' rows, or have the same images."""
    images = evaluation.get("images", math.nan)
    found = (index for index, row in enumerate(e.ticks) if row is evaluation or row.get("images") == images)
    return next(found, len(e.ticks) - 1)


_LOG = math.log
_FLAT = "the Frechet distance stays at {frechet:.3g}, {times:.1f} times that of one repeated example"
SIGNALS: dict[str, Signal] = {
    "weights-d": Signal(_weights("d"), "D's weights grew {times:.2g} times within a few rows", _LOG(2)),
    "weights-g": Signal(_weights("g"), "G's weights grew {times:.2g} times within a few rows", _LOG(2.5)),
    "gradient-d": Signal(_gradient, "grad_norm_d is {grad_norm_d:.3g}, {times:.0f} times its largest so far", _LOG(40)),
    "loss-d": Signal(
        _loss, "adversarial_loss_d is {adversarial_loss_d:.3g}, {times:.1f} times that of guessing", _LOG(1.5)
    ),
    "gradient-g": Signal(_gone, "grad_norm_g is {grad_norm_g:.3g}, its median so far {times:.0f} times that", _LOG(10)),
    "separated": Signal(_won, "D separates all examples, by {separation:.1f} standard deviations", _LOG(6)),
    "low-diversity": Signal(_low_diversity, "reals differ {times:.0f} times as much as fakes do", _LOG(4)),
    "copies": Signal(_copies("fake"), "{copies_fake:.0%} of a batch of fakes are copies of others", 0.2),
    "diversity": Signal(_diversity, "fakes differed {times:.1f} times as much as they do", _LOG(3)),
    "modes": Signal(_modes, "samples have {modes:.0f} modes and had {times:.1f} times as many", _LOG(2), True),
    "uneven": Signal(_uneven, "the modes' reverse KL is {reverse_kl:.2g}, {value:.2g} more than it was", 0.7, True),
    "fooled": Signal(_fooled, "D takes fake for real, by {value:.1f} standard deviations", 1.0),
    "farther": Signal(_farther, "fakes are {times:.1f} times as far from reals as they were", _LOG(8)),
    "frechet": Signal(_frechet, "the Frechet distance is {frechet:.3g}, {times:.1f} times what it was", _LOG(3), True),
    "flat-distance": Signal(
        _flat_distance, "fakes are {sliced_frechet:.2g} of the reals' variance away and come no nearer", _LOG(0.5)
    ),
    "flat-frechet": Signal(_flat_frechet(FLAT_EVALUATIONS), _FLAT, 0.0, True),
    "long-flat-frechet": Signal(_flat_frechet(LONG_FLAT_EVALUATIONS), _FLAT, _LOG(0.8), True),
    "no-modes": Signal(_no_modes, "samples have {modes:.0f} of the modes, and have not had any for long", 0.5, True),
    "data-copies": Signal(_copies("real"), "{copies_real:.0%} of a batch of reals are copies of others", 0.2),
    "data": Signal(_unlike_data, "a batch's reals are {value:.2g} of their variance away from the data set", 0.05),
    "held-out": Signal(
        _overfitted, "D prefers training examples to held-out ones, by {value:.1f} standard deviations", 0.75
    ),
    "classes": Signal(
        _ignores_classes, "D does not prefer an example's class to others (class_margin {class_margin:.2g})", 0.0
    ),
}
"""Every signal by name; `ganscale.health.limits` has their limits."""
