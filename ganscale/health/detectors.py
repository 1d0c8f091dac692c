"""Verdicts on a run, as pure functions of its recent ticks: what is wrong, since when, and with which figures.

docs/health.md explains each verdict, what to do, and how often it is right.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ganscale.config import DETECTORS
from ganscale.config.evaluation import is_score
from ganscale.config.table import resolve
from ganscale.health.limits import LIMITS
from ganscale.health.signals import PATIENCE, SIGNALS, Evidence, Limit, Row, read, separation

MAX_LOGIT = 1e5
"""Mean logit beyond which D has diverged; a healthy WGAN critic without bounds passes hundreds."""
VANISHED_GRADIENT = 1e-6
"""G's gradient norm over its weights' norm, at which G no longer learns."""
FOOLED_SEPARATION, RECOVERED_SEPARATION = -1.5, -0.75
"""Distance of D's mean logits, in standard deviations, at which it is fooled, and no longer is."""
OSCILLATION_TICKS, MAX_OSCILLATIONS = 12, 3
"""Ticks in which D may be fooled, and recover, fewer times than this."""


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a run.

    Attributes:
        kind: name of the detector.
        reason: in a sentence, with the figures.
        since: index of the first tick of the trouble.
        score: in [0.5, 1]: 0.5 at the limit, 0.73 one standard deviation of healthy setups beyond it.
    """

    kind: str
    reason: str
    since: int = 0
    score: float = 1.0

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def _judge(e: Evidence, kind: str, *names: str) -> Verdict | None:
    """The verdict of the signal that is farthest beyond its limit; None if none is."""
    verdicts = []
    for name in names:
        limit = e.limits[name]
        bound = limit.single if e.streak == 1 else limit.value
        reading = read(SIGNALS[name], e, bound)
        if reading.value > bound:
            score = 1.0 / (1.0 + math.exp(-min(50.0, (reading.value - bound) / limit.spread)))
            verdicts.append(Verdict(kind, f"{reading.reason} (score {score:.2f})", reading.since, score))
    return max(verdicts, key=lambda verdict: verdict.score, default=None)


def non_finite(e: Evidence) -> Verdict | None:
    """A number of the newest tick is NaN or infinite, or a score is NaN (an infinite one means that there is no mode).

    Args:
        e: the run so far.
    """
    for row in (*e.ticks[-1:], *e.evaluations[-1:]):
        for name, value in row.items():
            if math.isnan(value) or (math.isinf(value) and not is_score(name)):
                return Verdict("non-finite", f"{name} is {value}", len(e.ticks) - 1)
    return None


def divergence(e: Evidence) -> Verdict | None:
    """Logits, losses, gradients or weights have grown without bound.

    Args:
        e: the run so far.
    """
    for side in ("real", "fake"):
        name = f"{side}_logit_mean"
        since = e.since(lambda row, name=name: abs(row.get(name, 0.0)) > MAX_LOGIT)
        if since is not None:
            return Verdict("divergence", f"{name} is {e.last[name]:.3g}, beyond {MAX_LOGIT:.0e}", since)
    return _judge(e, "divergence", "weights-d", "weights-g", "gradient-d", "loss-d")


def vanishing_gradient(e: Evidence) -> Verdict | None:
    """G's gradient has gone: whatever it makes, D's answer does not change.

    Args:
        e: the run so far.
    """
    since = e.since(lambda row: row.get("grad_norm_g", math.inf) <= VANISHED_GRADIENT * row.get("weight_norm_g", 0.0))
    if since is not None:
        return Verdict("vanishing-gradient", f"grad_norm_g is {e.last['grad_norm_g']:.3g}", since)
    return _judge(e, "vanishing-gradient", "gradient-g")


def discriminator_strong(e: Evidence) -> Verdict | None:
    """D separates all examples so far apart that G has nothing left to follow.

    Args:
        e: the run so far.
    """
    return _judge(e, "discriminator-strong", "separated")


def mode_collapse(e: Evidence) -> Verdict | None:
    """G makes nearly equal samples, or loses modes that it had.

    Args:
        e: the run so far.
    """
    return _judge(e, "mode-collapse", "low-diversity", "copies", "diversity", "modes", "uneven")


def degradation(e: Evidence) -> Verdict | None:
    """Samples are worse than they were.

    Args:
        e: the run so far.
    """
    return _judge(e, "degradation", "farther", "frechet")


def stagnation(e: Evidence) -> Verdict | None:
    """Samples are bad, and have not become better for half of the run so far.

    Args:
        e: the run so far.
    """
    return _judge(e, "stagnation", "flat-distance", "flat-frechet", "long-flat-frechet", "no-modes")


def discriminator_weak(e: Evidence) -> Verdict | None:
    """G fools D, and D does not learn from it.

    Args:
        e: the run so far.
    """
    return _judge(e, "discriminator-weak", "fooled")


def unlike_data(e: Evidence) -> Verdict | None:
    """The reals of batches are not the data set's: unshuffled, repeated, missing on a worker, or changing.

    Args:
        e: the run so far.
    """
    return _judge(e, "data", "data-copies", "data")


def overfitting(e: Evidence) -> Verdict | None:
    """D knows the training examples by heart, or these are not like the held-out ones.

    Args:
        e: the run so far.
    """
    return _judge(e, "overfitting", "held-out")


def labels(e: Evidence) -> Verdict | None:
    """D does not learn the classes: the labels are not those of the examples, or it hardly sees them.

    Args:
        e: the run so far.
    """
    return _judge(e, "labels", "classes")


def oscillation(e: Evidence) -> Verdict | None:
    """G fools D, D catches up, and so on: they chase each other, and neither learns.

    Args:
        e: the run so far.
    """
    since, dips, recovered = None, 0, True
    for index in range(max(0, len(e.ticks) - OSCILLATION_TICKS), len(e.ticks)):
        distance = separation(e.ticks[index])
        if distance < FOOLED_SEPARATION and recovered:
            dips, recovered = dips + 1, False
            since = index if since is None else since
        recovered = recovered or distance > RECOVERED_SEPARATION
    if since is None or dips < MAX_OSCILLATIONS:
        return None
    return Verdict(
        "oscillation", f"D was fooled {dips} times in {len(e.ticks) - since} rows, and caught up between", since
    )


def diagnose(
    ticks: Sequence[Row],
    evaluations: Sequence[Row] = (),
    *,
    loss: str = "non_saturating",
    patience: int = PATIENCE,
    ignore: Collection[str] = (),
    limits: Mapping[str, Limit] = LIMITS,
) -> Verdict | None:
    """The most severe verdict on a run, or None where nothing is wrong.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        evaluations: metrics of all evaluations so far (`Evaluation.numbers()`), oldest first; rows of `ticks`, or with
            the same `images` as theirs.
        loss: `loss.name` of the run, which determines what the size of a loss means.
        patience: ticks in a row that must agree.
        ignore: kinds that are not given.
        limits: of the signals.
    """
    if not ticks:
        return None
    evidence = Evidence(ticks, evaluations, loss, patience, limits=limits)
    for kind, detector in DETECTORS.items():
        if detector.rule is not None and kind not in ignore and (verdict := resolve(detector.rule)(evidence)):
            return verdict
    return None


def first_suspect_tick(
    ticks: Sequence[Row],
    *,
    loss: str = "non_saturating",
    patience: int = PATIENCE,
    ignore: Collection[str] = (),
    limits: Mapping[str, Limit] = LIMITS,
) -> int:
    """Index of the first tick that a critical detector finds bad, even a single one; else the number of ticks.

    A single bad tick is no verdict. But once there is a verdict, a state saved after such a tick is not trusted: rates
    that are far too high ruin a run long before enough ticks in a row show it.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        loss: `loss.name` of the run.
        patience: ticks in a row that a verdict takes.
        ignore: kinds that are not given.
        limits: of the signals.
    """
    rules = [
        resolve(detector.rule)
        for kind, detector in DETECTORS.items()
        if detector.rule is not None and detector.is_critical and kind not in ignore
    ]
    for count in range(1, len(ticks) + 1):
        evidence = Evidence(ticks[:count], (), loss, patience, 1, limits)
        found = [verdict.since for verdict in (rule(evidence) for rule in rules) if verdict]
        if found:
            return min(found)
    return len(ticks)
