"""Verdicts on a run, as pure functions of its recent ticks: what is wrong, since when, and with which figures.

docs/health.md says what each verdict means, what to do, and how often it is right. The thresholds below were chosen on
one half of the runs of `python -m benchmarks.health`.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from ganscale.config.evaluation import METRICS
from ganscale.config.health import Kind

Row = Mapping[str, float]
"""The metrics of a tick, or of a tick and its evaluation."""

PATIENCE = 3
"""Ticks in a row that must agree: one bad tick is a bad tick."""
TRANSIENT: tuple[Kind, ...] = ("discriminator-weak", "oscillation")
"""Verdicts on what may get well again: a trial of a sweep is trained on."""
CRITICAL: tuple[Kind, ...] = ("non-finite", "divergence", "vanishing-gradient", "mode-collapse")
"""Verdicts that not even one row by itself gave in sound runs."""
IN_NATS = ("non_saturating", "minimax", "relativistic_pairing", "relativistic_average")
"""Losses that are logarithms of probabilities, so that G's loss says how sure D is."""
GUESSING: dict[str, float] = {
    "non_saturating": 2 * math.log(2),
    "minimax": 2 * math.log(2),
    "least_squares": 0.25,
    "hinge": 2.0,
    "relativistic_pairing": math.log(2),
    "relativistic_average": 2 * math.log(2),
}
"""D's loss where it does not tell real from fake; a critic's (wasserstein) has no scale."""

LARGE_LOGIT = 1e5
"""Mean logit beyond which D has run away; a WGAN critic without bounds passes hundreds in a sound run."""
WRONG = 3.0
"""Times the loss of guessing at which D is not undecided but wrong, and sure of it."""
GROWTH = 100.0
"""Times that a gradient norm may grow over its early median."""
LEAST_NORM = 1e-3
"""Early median below which a gradient norm is taken for this."""
SWOLLEN, RECENT = 3.0, 8
"""Times that a network's weights may grow within so many ticks."""
VANISHED = 1e-6
"""G's gradient norm as a share of its weights' norm, or of its own early median, at which it no longer learns."""
SATURATED = 0.99
"""Accuracy of D on real and fake alike, from which it has won."""
APART = 6.0
"""Distance of D's mean logits on real and fake, in standard deviations, from which it has won for good."""
SURE = 0.6
"""Share of the loss of guessing below which D is sure; a critic, whose loss has no scale, needs twice the patience."""
LOST = 5.0
"""G's loss in nats against a D that has won: -log D(G(z)) = 5 is D(G(z)) = 0.007."""
FOOLED = -1.5
"""Distance of D's mean logits, in standard deviations, at which it takes fake for real and real for fake."""
CAUGHT_UP = -0.75
"""Distance at which D no longer is fooled."""
SWING, DIPS = 12, 3
"""Ticks in which D may be fooled, and catch up, fewer times than this."""
ALIKE = 0.06
"""Diversity of fakes beside that of reals, below which G makes the same again and again."""
NARROW = 0.6
"""Reverse KL of the samples' modes beside log(number of modes), above which few modes hold nearly all samples."""
BEGUN = 16
"""Rows of metrics before which few modes are no collapse: a run that is evaluated often begins so."""
STUCK = 5
"""Evaluations in a row that must not get better."""
BETTER, HALVED = 0.8, 0.5
"""Shares of an earlier evaluation's reverse KL and of its Frechet distance that count as better."""
AFAR = 3.0
"""Distance of the means of fakes and reals, in distances of two reals, at which a D that is not sure sees nothing."""
SEES = 0.8
"""Accuracy of D on real and fake alike, from which it sees."""


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
        loss: `loss.name` of the run.
        patience: ticks in a row that must agree; also how many of the first ones are early.
        streak: ticks in a row that are enough, where these are not `patience`.
    """

    ticks: Sequence[Row]
    evaluations: Sequence[Row] = ()
    loss: str = "non_saturating"
    patience: int = PATIENCE
    streak: int = 0

    @property
    def last(self) -> Row:
        """The newest tick."""
        return self.ticks[-1]

    def since(self, bad: Callable[[Row], bool], *, patience: int = 0) -> int | None:
        """Index of the first of the newest ticks that are bad without gap; None if these are too few."""
        start = len(self.ticks)
        while start > 0 and bad(self.ticks[start - 1]):
            start -= 1
        return start if len(self.ticks) - start >= (self.streak or patience or self.patience) else None

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


def divergence(e: Evidence) -> Verdict | None:
    """Logits, losses, gradients or weights have grown without bound."""
    for side in ("real", "fake"):
        name = f"{side}_logit_mean"
        since = e.since(lambda row, name=name: abs(row.get(name, 0.0)) > LARGE_LOGIT)
        if since is not None:
            return Verdict("divergence", f"{name} is {e.last[name]:.3g}, beyond {LARGE_LOGIT:.0e}", since)
    guessing = GUESSING.get(e.loss)
    if guessing:
        since = e.since(lambda row: row.get("loss_d", 0.0) > WRONG * guessing)
        if since is not None:
            told = f"loss_d is {e.last['loss_d']:.3g}, {e.last['loss_d'] / guessing:.1f} times that of guessing"
            return Verdict("divergence", told, since)
    for side in ("d", "g"):
        found = _grown(e, f"grad_norm_{side}", GROWTH) or _swollen(e, f"weight_norm_{side}")
        if found:
            return found
    return None


def _grown(e: Evidence, name: str, times: float) -> Verdict | None:
    """A norm is so many times its early median."""
    early = max(e.early(name), LEAST_NORM)
    since = e.since(lambda row: row.get(name, 0.0) > times * early) if e.early(name) else None
    return (
        None if since is None else Verdict("divergence", f"{name} grew from {early:.3g} to {e.last[name]:.3g}", since)
    )


def _swollen(e: Evidence, name: str) -> Verdict | None:
    """A norm has grown `SWOLLEN` times within `RECENT` ticks."""
    rows = e.ticks[-RECENT:]
    now, before = e.last.get(name, 0.0), min(row.get(name, math.inf) for row in rows)
    if len(e.ticks) < e.patience or now <= SWOLLEN * before:
        return None
    since = max(0, len(e.ticks) - len(rows))
    while e.ticks[since].get(name, 0.0) < SWOLLEN * before / 2:
        since += 1
    return Verdict("divergence", f"{name} grew from {before:.3g} to {now:.3g} within {len(rows)} rows", since)


def vanishing_gradient(e: Evidence) -> Verdict | None:
    """G's gradient has gone: whatever it makes, D's answer does not change."""
    early = e.early("grad_norm_g")

    def gone(row: Row) -> bool:
        norm = row.get("grad_norm_g", math.inf)
        return norm <= VANISHED * max(row.get("weight_norm_g", 0.0), early)

    since = e.since(gone)
    return (
        None if since is None else Verdict("vanishing-gradient", f"grad_norm_g is {e.last['grad_norm_g']:.3g}", since)
    )


def separation(row: Row) -> float:
    """Distance of D's mean logits on real and fake in standard deviations (d'); negative where it is fooled."""
    spread = math.hypot(row.get("real_logit_std", 0.0), row.get("fake_logit_std", 0.0))
    distance = row.get("real_logit_mean", 0.0) - row.get("fake_logit_mean", 0.0)
    return distance / max(spread, 1e-12)


def discriminator_strong(e: Evidence) -> Verdict | None:
    """D tells all examples apart, and so surely that G has nothing left to follow.

    At the beginning of a run D does so too, but it is not sure of it: its loss is near that of guessing.
    """
    guessing = GUESSING.get(e.loss)

    def won(row: Row) -> bool:
        accuracy = min(row.get("d_accuracy_real", 0.0), row.get("d_accuracy_fake", 0.0))
        lost = e.loss in IN_NATS and row.get("loss_g", 0.0) > LOST
        sure = guessing is None or row.get("loss_d", math.inf) < SURE * guessing
        return accuracy >= SATURATED and (lost or (sure and separation(row) > APART))

    since = e.since(won, patience=e.patience if guessing else 2 * e.patience)
    if since is None:
        return None
    reason = f"D tells all apart, by {separation(e.last):.1f} standard deviations; loss_g is {e.last['loss_g']:.3g}"
    return Verdict("discriminator-strong", reason, since)


def mode_collapse(e: Evidence) -> Verdict | None:
    """G makes the same again and again, or its samples stay on few modes."""

    def alike(row: Row) -> bool:
        return row.get("diversity_fake", math.inf) < ALIKE * row.get("diversity_real", 0.0)

    since = e.since(alike)
    if since is not None:
        share = e.last["diversity_fake"] / e.last["diversity_real"]
        return Verdict("mode-collapse", f"fakes differ by {100 * share:.2g}% of what reals do", since)
    return _few_modes(e)


def _few_modes(e: Evidence) -> Verdict | None:
    """Nearly all samples lie on few modes in `STUCK` evaluations, and these do not get better in any way."""
    rows = [row for row in e.evaluations if row.get("modes_floor", 0.0) > 1 and "reverse_kl" in row][-STUCK:]
    shares = [row["reverse_kl"] / math.log(row["modes_floor"]) for row in rows]
    distances = [row.get("frechet", math.inf) for row in rows]
    if len(e.ticks) < BEGUN or len(shares) < STUCK:
        return None
    if min(shares) < NARROW or _falls(shares, BETTER) or _falls(distances, HALVED):
        return None
    found = f"{rows[-1]['modes']:.0f} modes" if "modes" in rows[-1] else f"a reverse KL of {rows[-1]['reverse_kl']:.3g}"
    return Verdict("mode-collapse", f"samples stay on few modes ({found}) in {STUCK} evaluations", 0)


def _falls(values: Sequence[float], share: float) -> bool:
    return min(values[1:]) < share * values[0]


def discriminator_weak(e: Evidence) -> Verdict | None:
    """G fools D, or D does not see that fakes are far from reals, and does not learn from it."""

    def blind(row: Row) -> bool:
        far = row.get("mean_gap", 0.0) > AFAR * row.get("diversity_real", math.inf)
        return far and min(row.get("d_accuracy_real", 1.0), row.get("d_accuracy_fake", 1.0)) < SEES

    since = e.since(lambda row: separation(row) < FOOLED)
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
    """G fools D, D catches up, and so on: they chase each other, and neither learns."""
    since, dips, recovered = None, 0, True
    for index in range(max(0, len(e.ticks) - SWING), len(e.ticks)):
        distance = separation(e.ticks[index])
        if distance < FOOLED and recovered:
            dips, recovered = dips + 1, False
            since = index if since is None else since
        recovered = recovered or distance > CAUGHT_UP
    if since is None or dips < DIPS:
        return None
    return Verdict(
        "oscillation", f"D was fooled {dips} times in {len(e.ticks) - since} rows, and caught up between", since
    )


RULES: dict[Kind, Callable[[Evidence], Verdict | None]] = {
    "non-finite": non_finite,
    "divergence": divergence,
    "vanishing-gradient": vanishing_gradient,
    "discriminator-strong": discriminator_strong,
    "mode-collapse": mode_collapse,
    "discriminator-weak": discriminator_weak,
    "oscillation": oscillation,
}
"""By kind, the gravest first."""


def diagnose(
    ticks: Sequence[Row],
    evaluations: Sequence[Row] = (),
    *,
    loss: str = "non_saturating",
    patience: int = PATIENCE,
    ignore: Collection[str] = (),
) -> Verdict | None:
    """The gravest verdict on a run, or None where nothing is wrong.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        evaluations: metrics of all evaluations so far (`Evaluation.numbers()`), oldest first.
        loss: `loss.name` of the run, which says what the size of a loss means.
        patience: ticks in a row that must agree.
        ignore: kinds that are not given.
    """
    if not ticks:
        return None
    evidence = Evidence(ticks, evaluations, loss, patience)
    for kind, rule in RULES.items():
        verdict = None if kind in ignore else rule(evidence)
        if verdict:
            return verdict
    return None


def first_suspect_tick(
    ticks: Sequence[Row], *, loss: str = "non_saturating", patience: int = PATIENCE, ignore: Collection[str] = ()
) -> int:
    """Index of the first tick that is gravely bad, be it a single one; the number of ticks if there is none.

    A single bad tick is no verdict. But once there is a verdict, a state saved after such a tick is not trusted: rates
    that are far too high spoil a run long before enough ticks in a row say so.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        loss: `loss.name` of the run.
        patience: ticks in a row that a verdict takes.
        ignore: kinds that are not given.
    """
    rules = [RULES[kind] for kind in CRITICAL if kind not in ignore]
    for count in range(1, len(ticks) + 1):
        evidence = Evidence(ticks[:count], (), loss, patience, streak=1)
        found = [verdict.since for verdict in (rule(evidence) for rule in rules) if verdict]
        if found:
            return min(found)
    return len(ticks)
