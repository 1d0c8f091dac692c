"""Verdicts on a run, as pure functions of its recent ticks: what cannot get well again is not worth more images."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Literal

from ganscale.config.evaluation import METRICS

Row = Mapping[str, float]
"""The metrics of a tick, or of a tick and its evaluation."""

WINDOW = 3
"""Ticks in a row that must agree: one bad tick is a bad tick."""
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
        kind: which of the three ways of going wrong.
        reason: in a sentence, with the figures.
    """

    kind: Literal["non-finite", "divergence", "collapse"]
    reason: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


def judge(ticks: Sequence[Row], evaluations: Sequence[Row] = (), *, in_nats: bool = True) -> Verdict | None:
    """The verdict on a run, or None where nothing is wrong.

    Args:
        ticks: metrics of all ticks so far, oldest first.
        evaluations: metrics of all evaluations so far (`Evaluation.numbers()`), oldest first.
        in_nats: whether losses are logarithms of probabilities, so that their size means something.
    """
    return non_finite(ticks, evaluations) or divergence(ticks) or collapse(ticks, evaluations, in_nats=in_nats)


def non_finite(ticks: Sequence[Row], evaluations: Sequence[Row] = ()) -> Verdict | None:
    """A number of the newest tick is NaN or infinite, or a score is NaN (an infinite one only says: no mode found)."""
    for row in (*ticks[-1:], *evaluations[-1:]):
        for name, value in row.items():
            if math.isnan(value) or (math.isinf(value) and name.partition("_floor")[0] not in METRICS):
                return Verdict("non-finite", f"{name} is {value}")
    return None


def divergence(ticks: Sequence[Row]) -> Verdict | None:
    """Logits or gradients have grown without bound in the last `WINDOW` ticks."""
    if len(ticks) < WINDOW:
        return None
    recent = ticks[-WINDOW:]
    for name in ("real_logit_mean", "fake_logit_mean"):
        least = min(abs(row.get(name, 0.0)) for row in recent)
        if least > LARGE_LOGIT:
            return Verdict("divergence", f"{name} is beyond {LARGE_LOGIT:.0e} (at least {least:.3g})")
    for name in ("grad_norm_d", "grad_norm_g"):
        early = _early(ticks, name)
        least = min(row.get(name, 0.0) for row in recent)
        if early > 0 and least > GROWTH * max(early, 1e-3):
            return Verdict("divergence", f"{name} grew from {early:.3g} to {least:.3g}")
    return None


def collapse(ticks: Sequence[Row], evaluations: Sequence[Row] = (), *, in_nats: bool = True) -> Verdict | None:
    """D has won for good, or the samples have fallen to one mode for good."""
    recent = ticks[-WINDOW:]
    won = len(recent) == WINDOW and all(
        min(row.get("d_accuracy_real", 0.0), row.get("d_accuracy_fake", 0.0)) >= SATURATED for row in recent
    )
    losses = [row.get("loss_g", 0.0) for row in recent]
    if in_nats and won and min(losses) > LOST and _rises(losses):
        return Verdict("collapse", f"D tells all apart and G's loss grows ({losses[-1]:.3g})")
    early = _early(ticks, "grad_norm_g")
    if won and early > 0 and all(row.get("grad_norm_g", early) < VANISHED * early for row in recent):
        return Verdict("collapse", f"D tells all apart and G's gradient vanished ({recent[-1]['grad_norm_g']:.3g})")
    modes = [row["modes"] for row in evaluations if "modes" in row]
    if max(modes[:-STUCK], default=0.0) > 1 and max(modes[-STUCK:]) <= 1:
        return Verdict("collapse", f"at most one mode in {STUCK} evaluations, after {max(modes):.0f}")
    return None


def _early(ticks: Sequence[Row], name: str) -> float:
    """Median over the first `WINDOW` ticks, if they are not the recent ones."""
    if len(ticks) < 2 * WINDOW:
        return 0.0
    return median(row.get(name, 0.0) for row in ticks[:WINDOW])


def _rises(values: Sequence[float]) -> bool:
    return all(a < b for a, b in pairwise(values))
