"""Verdicts on a run, as pure functions of its recent ticks: what is wrong, since when, and with which figures.

docs/health.md explains each verdict, what to do, and how often it is right. `Thresholds` were chosen on one
half of the runs of `python -m benchmarks.health`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ganscale.config import DETECTORS, LOSSES, METRICS, AdversarialLoss
from ganscale.config.table import find, resolve

Row = Mapping[str, float]
"""The metrics of a tick, or of a tick and its evaluation."""

PATIENCE = 3
"""Ticks in a row that must agree: a single bad tick is no verdict."""


@dataclass(frozen=True)
class Thresholds:
    """The numbers that rules compare with.

    Attributes:
        max_logit: mean logit beyond which D has diverged; a healthy WGAN critic without bounds passes hundreds.
        max_loss_ratio: D's loss over that of guessing, at which D is confident and wrong.
        max_gradient_growth: times that a gradient norm may grow over its early median.
        min_early_gradient: early median of a gradient norm; smaller ones are taken for this.
        max_weight_growth: times that a network's weights may grow within `weight_growth_ticks`.
        weight_growth_ticks: ticks of `max_weight_growth`.
        vanished_gradient: G's gradient norm over its weights' norm, or over its own early median, at which G no longer
            learns.
        winning_accuracy: accuracy of D on real and fake alike, from which it has won.
        winning_separation: distance of D's mean logits in standard deviations, from which it has won for good.
        confident_loss_ratio: D's loss over that of guessing, below which D is confident; a critic, whose loss has no
            scale, needs twice the patience.
        losing_loss: G's loss in nats against a D that has won: -log D(G(z)) = 5 is D(G(z)) = 0.007.
        fooled_separation: distance of D's mean logits at which it takes fake for real and real for fake.
        recovered_separation: distance at which D no longer is fooled.
        oscillation_ticks: ticks in which D may be fooled, and recover, fewer than `max_oscillations` times.
        max_oscillations: see there.
        collapsed_diversity: diversity of fakes over that of reals, below which G makes nearly equal samples.
        collapsed_reverse_kl: reverse KL of the samples' modes over log(number of modes), above which few modes hold
            nearly all samples.
        min_ticks_of_modes: ticks before which few modes are no collapse: a run often begins so.
        stuck_evaluations: evaluations in a row that must not improve.
        improved_reverse_kl: share of an earlier evaluation's reverse KL that counts as an improvement.
        improved_frechet: likewise of its Frechet distance.
        far_mean_gap: distance of the means of fakes and reals, in distances of two reals, that D should see.
        seeing_accuracy: accuracy of D on real and fake alike, from which it sees that.
    """

    max_logit: float = 1e5
    max_loss_ratio: float = 3.0
    max_gradient_growth: float = 100.0
    min_early_gradient: float = 1e-3
    max_weight_growth: float = 3.0
    weight_growth_ticks: int = 8
    vanished_gradient: float = 1e-6
    winning_accuracy: float = 0.99
    winning_separation: float = 6.0
    confident_loss_ratio: float = 0.6
    losing_loss: float = 5.0
    fooled_separation: float = -1.5
    recovered_separation: float = -0.75
    oscillation_ticks: int = 12
    max_oscillations: int = 3
    collapsed_diversity: float = 0.06
    collapsed_reverse_kl: float = 0.6
    min_ticks_of_modes: int = 16
    stuck_evaluations: int = 5
    improved_reverse_kl: float = 0.8
    improved_frechet: float = 0.5
    far_mean_gap: float = 3.0
    seeing_accuracy: float = 0.8


@dataclass(frozen=True)
class Verdict:
    """What is wrong with a run.

    Attributes:
        kind: name of the detector.
        reason: in a sentence, with the figures.
        since: index of the first tick of the trouble.
    """

    kind: str
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
        loss: `loss.name` of the run.
        patience: ticks in a row that must agree; also how many of the first ones are early.
        streak: ticks in a row that are enough, where these are not `patience`.
        thresholds: that rules compare with.
    """

    ticks: Sequence[Row]
    evaluations: Sequence[Row] = ()
    loss: str = "non_saturating"
    patience: int = PATIENCE
    streak: int = 0
    thresholds: Thresholds = Thresholds()

    @property
    def objective(self) -> AdversarialLoss:
        """The run's loss. Raises: ConfigError: it is unknown."""
        return find(LOSSES, self.loss, key="loss.name")

    @property
    def last(self) -> Row:
        """The newest tick."""
        return self.ticks[-1]

    def since(self, bad: Callable[[Row], bool], *, patience: int = 0) -> int | None:
        """Index of the first of the newest ticks that are bad without gap; None if these are too few.

        Args:
            bad: whether a row is bad.
            patience: rows that are enough; 0 for the evidence's `patience`.
        """
        start = len(self.ticks)
        while start > 0 and bad(self.ticks[start - 1]):
            start -= 1
        return start if len(self.ticks) - start >= (self.streak or patience or self.patience) else None

    def early(self, name: str) -> float:
        """Median of a number over the first `patience` ticks, if they are not the newest ones; else 0.

        Args:
            name: of the number.
        """
        if len(self.ticks) < 2 * self.patience:
            return 0.0
        return median(row.get(name, 0.0) for row in self.ticks[: self.patience])


def non_finite(e: Evidence) -> Verdict | None:
    """A number of the newest tick is NaN or infinite, or a score is NaN (an infinite one means that there is no mode).

    Args:
        e: the run so far.
    """
    for row in (*e.ticks[-1:], *e.evaluations[-1:]):
        for name, value in row.items():
            if math.isnan(value) or (math.isinf(value) and name.partition("_floor")[0] not in METRICS):
                return Verdict("non-finite", f"{name} is {value}", len(e.ticks) - 1)
    return None


def divergence(e: Evidence) -> Verdict | None:
    """Logits, losses, gradients or weights have grown without bound.

    Args:
        e: the run so far.
    """
    t = e.thresholds
    for side in ("real", "fake"):
        name = f"{side}_logit_mean"
        since = e.since(lambda row, name=name: abs(row.get(name, 0.0)) > t.max_logit)
        if since is not None:
            return Verdict("divergence", f"{name} is {e.last[name]:.3g}, beyond {t.max_logit:.0e}", since)
    guessing = e.objective.guessing_loss
    if guessing:
        since = e.since(lambda row: row.get("loss_d", 0.0) > t.max_loss_ratio * guessing)
        if since is not None:
            reason = f"loss_d is {e.last['loss_d']:.3g}, {e.last['loss_d'] / guessing:.1f} times that of guessing"
            return Verdict("divergence", reason, since)
    for side in ("d", "g"):
        found = _grown(e, f"grad_norm_{side}", t.max_gradient_growth) or _weights_grown(e, f"weight_norm_{side}")
        if found:
            return found
    return None


def _grown(e: Evidence, name: str, times: float) -> Verdict | None:
    """A norm is so many times its early median."""
    t = e.thresholds
    early = max(e.early(name), t.min_early_gradient)
    since = e.since(lambda row: row.get(name, 0.0) > times * early) if e.early(name) else None
    return (
        None if since is None else Verdict("divergence", f"{name} grew from {early:.3g} to {e.last[name]:.3g}", since)
    )


def _weights_grown(e: Evidence, name: str) -> Verdict | None:
    """A norm has grown `max_weight_growth` times within `weight_growth_ticks` ticks."""
    t = e.thresholds
    rows = e.ticks[-t.weight_growth_ticks :]
    now, before = e.last.get(name, 0.0), min(row.get(name, math.inf) for row in rows)
    if len(e.ticks) < e.patience or now <= t.max_weight_growth * before:
        return None
    since = max(0, len(e.ticks) - len(rows))
    while e.ticks[since].get(name, 0.0) < t.max_weight_growth * before / 2:
        since += 1
    return Verdict("divergence", f"{name} grew from {before:.3g} to {now:.3g} within {len(rows)} rows", since)


def vanishing_gradient(e: Evidence) -> Verdict | None:
    """G's gradient has gone: whatever it makes, D's answer does not change.

    Args:
        e: the run so far.
    """
    t = e.thresholds
    early = e.early("grad_norm_g")

    def gone(row: Row) -> bool:
        norm = row.get("grad_norm_g", math.inf)
        return norm <= t.vanished_gradient * max(row.get("weight_norm_g", 0.0), early)

    since = e.since(gone)
    return (
        None if since is None else Verdict("vanishing-gradient", f"grad_norm_g is {e.last['grad_norm_g']:.3g}", since)
    )


def separation(row: Row) -> float:
    """Distance of D's mean logits on real and fake in standard deviations (d'); negative where it is fooled.

    Args:
        row: metrics of a tick.
    """
    spread = math.hypot(row.get("real_logit_std", 0.0), row.get("fake_logit_std", 0.0))
    distance = row.get("real_logit_mean", 0.0) - row.get("fake_logit_mean", 0.0)
    return distance / max(spread, 1e-12)


def discriminator_strong(e: Evidence) -> Verdict | None:
    """D separates all examples, and with such confidence that G has nothing left to follow.

    At the beginning of a run D does so too, but without confidence: its loss is near that of guessing.

    Args:
        e: the run so far.
    """
    t = e.thresholds
    guessing = e.objective.guessing_loss

    def won(row: Row) -> bool:
        accuracy = min(row.get("d_accuracy_real", 0.0), row.get("d_accuracy_fake", 0.0))
        lost = e.objective.in_nats and row.get("loss_g", 0.0) > t.losing_loss
        sure = guessing is None or row.get("loss_d", math.inf) < t.confident_loss_ratio * guessing
        return accuracy >= t.winning_accuracy and (lost or (sure and separation(row) > t.winning_separation))

    since = e.since(won, patience=e.patience if guessing else 2 * e.patience)
    if since is None:
        return None
    reason = (
        f"D separates all examples, by {separation(e.last):.1f} standard deviations; loss_g is {e.last['loss_g']:.3g}"
    )
    return Verdict("discriminator-strong", reason, since)


def mode_collapse(e: Evidence) -> Verdict | None:
    """G makes nearly equal samples, or its samples stay on few modes.

    Args:
        e: the run so far.
    """
    t = e.thresholds

    def alike(row: Row) -> bool:
        return row.get("diversity_fake", math.inf) < t.collapsed_diversity * row.get("diversity_real", 0.0)

    since = e.since(alike)
    if since is not None:
        share = e.last["diversity_fake"] / e.last["diversity_real"]
        return Verdict("mode-collapse", f"fakes differ by {100 * share:.2g}% of what reals do", since)
    return _few_modes(e)


def _few_modes(e: Evidence) -> Verdict | None:
    """Nearly all samples lie on few modes in `stuck_evaluations` evaluations, and these do not improve in any way."""
    t = e.thresholds
    rows = [row for row in e.evaluations if row.get("modes_floor", 0.0) > 1 and "reverse_kl" in row][
        -t.stuck_evaluations :
    ]
    shares = [row["reverse_kl"] / math.log(row["modes_floor"]) for row in rows]
    distances = [row.get("frechet", math.inf) for row in rows]
    if len(e.ticks) < t.min_ticks_of_modes or len(shares) < t.stuck_evaluations:
        return None
    if (
        min(shares) < t.collapsed_reverse_kl
        or _falls(shares, t.improved_reverse_kl)
        or _falls(distances, t.improved_frechet)
    ):
        return None
    found = f"{rows[-1]['modes']:.0f} modes" if "modes" in rows[-1] else f"a reverse KL of {rows[-1]['reverse_kl']:.3g}"
    return Verdict("mode-collapse", f"samples stay on few modes ({found}) in {t.stuck_evaluations} evaluations", 0)


def _falls(values: Sequence[float], share: float) -> bool:
    return min(values[1:]) < share * values[0]


def discriminator_weak(e: Evidence) -> Verdict | None:
    """G fools D, or D does not see that fakes are far from reals, and does not learn from it.

    Args:
        e: the run so far.
    """
    t = e.thresholds

    def blind(row: Row) -> bool:
        far = row.get("mean_gap", 0.0) > t.far_mean_gap * row.get("diversity_real", math.inf)
        return far and min(row.get("d_accuracy_real", 1.0), row.get("d_accuracy_fake", 1.0)) < t.seeing_accuracy

    since = e.since(lambda row: separation(row) < t.fooled_separation)
    if since is not None:
        reason = f"D takes fake for real, by {-separation(e.last):.1f} standard deviations, and does not learn from it"
        return Verdict("discriminator-weak", reason, since)
    since = e.since(blind)
    if since is None:
        return None
    far = e.last["mean_gap"] / e.last["diversity_real"]
    reason = f"fakes are {far:.1f} times as far from reals as reals from each other, and D does not see it"
    return Verdict("discriminator-weak", reason, since)


def oscillation(e: Evidence) -> Verdict | None:
    """G fools D, D catches up, and so on: they chase each other, and neither learns.

    Args:
        e: the run so far.
    """
    t = e.thresholds
    since, dips, recovered = None, 0, True
    for index in range(max(0, len(e.ticks) - t.oscillation_ticks), len(e.ticks)):
        distance = separation(e.ticks[index])
        if distance < t.fooled_separation and recovered:
            dips, recovered = dips + 1, False
            since = index if since is None else since
        recovered = recovered or distance > t.recovered_separation
    if since is None or dips < t.max_oscillations:
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
) -> Verdict | None:
    """The most severe verdict on a run, or None where nothing is wrong.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        evaluations: metrics of all evaluations so far (`Evaluation.numbers()`), oldest first.
        loss: `loss.name` of the run, which determines what the size of a loss means.
        patience: ticks in a row that must agree.
        ignore: kinds that are not given.
    """
    if not ticks:
        return None
    evidence = Evidence(ticks, evaluations, loss, patience)
    for kind, detector in DETECTORS.items():
        if detector.rule is not None and kind not in ignore and (verdict := resolve(detector.rule)(evidence)):
            return verdict
    return None


def first_suspect_tick(
    ticks: Sequence[Row], *, loss: str = "non_saturating", patience: int = PATIENCE, ignore: Collection[str] = ()
) -> int:
    """Index of the first tick that a critical detector finds bad, even a single one; else the number of ticks.

    A single bad tick is no verdict. But once there is a verdict, a state saved after such a tick is not trusted: rates
    that are far too high ruin a run long before enough ticks in a row show it.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        loss: `loss.name` of the run.
        patience: ticks in a row that a verdict takes.
        ignore: kinds that are not given.
    """
    rules = [
        resolve(detector.rule)
        for kind, detector in DETECTORS.items()
        if detector.rule is not None and detector.is_critical and kind not in ignore
    ]
    for count in range(1, len(ticks) + 1):
        evidence = Evidence(ticks[:count], (), loss, patience, streak=1)
        found = [verdict.since for verdict in (rule(evidence) for rule in rules) if verdict]
        if found:
            return min(found)
    return len(ticks)
