"""Metrics by name, from what an extractor saw in the reference and in the examples that are judged."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ganscale.config import METRICS
from ganscale.config.table import find, resolve
from ganscale.evaluation.metrics.extractors import Observed
from ganscale.evaluation.metrics.frechet import Moments, frechet_distance, moments
from ganscale.evaluation.metrics.inception import inception_score
from ganscale.evaluation.metrics.kernel import kernel_distance
from ganscale.evaluation.metrics.manifold import manifold_scores
from ganscale.evaluation.metrics.modes import mode_statistics
from ganscale.parallel.collectives import Replica
from ganscale.parallel.random import permutation

SUBSET_SIZE = 1000
"""Examples in each of the 100 subsets of the kernel distance, as torch-fidelity has it; fewer if there are fewer."""


class Value(NamedTuple):
    """A metric's value and, where it has them, its standard error, and the value of a single repeated example."""

    value: float
    error: float | None = None
    scale: float | None = None


class Setting(NamedTuple):
    """What the metrics need besides the examples.

    Attributes:
        seed: of random subsets.
        num_modes: modes that the extractor distinguishes.
        replica: this process among those that share the work; all must call together, with the same examples.
    """

    seed: int
    num_modes: int
    replica: Replica


@dataclass(frozen=True)
class Reference:
    """What an extractor saw in the reference, and what is worked out of it once for all evaluations.

    Attributes:
        seen: in the reference.
        nearest: distance of held-out examples to their nearest training example, `[M]`; None if no metric needs it.
    """

    seen: Observed
    nearest: Tensor | None = None

    @cached_property
    def moments(self) -> Moments:
        """Of the features."""
        return moments(self.seen.features)


Values = dict[str, Value]


def frechet(reference: Reference, judged: Observed, setting: Setting) -> Value:
    """Frechet distance of the features, see `frechet.frechet_distance`; its scale is the trace of their covariance.

    Args:
        reference: what was seen in real examples.
        judged: what was seen in the samples.
        setting: not used.
    """
    distance = frechet_distance(reference.moments, moments(judged.features))
    return Value(distance, scale=float(reference.moments.covariance.trace()))


def kid(reference: Reference, judged: Observed, setting: Setting) -> Value:
    """Kernel distance of the features over 100 subsets, see `kernel.kernel_distance`.

    Args:
        reference: what was seen in real examples.
        judged: what was seen in the samples.
        setting: seed of the subsets, and who shares the work.
    """
    real = reference.seen.features
    size = min(SUBSET_SIZE, len(real), len(judged.features))
    distance = kernel_distance(real, judged.features, subset_size=size, seed=setting.seed, replica=setting.replica)
    return Value(distance.value, distance.standard_error)


def inception(reference: Reference, judged: Observed, setting: Setting) -> Value:
    """Inception Score over 10 splits, see `inception.inception_score`; its error is the standard deviation over them.

    Args:
        reference: not used.
        judged: what was seen in the samples, with probabilities.
        setting: not used.
    """
    assert judged.probabilities is not None, "the config's check refuses extractors without classes"
    score = inception_score(judged.probabilities, splits=min(10, len(judged.probabilities)))
    return Value(score.mean, score.std)


def _equal(reference: Observed, judged: Observed, seed: int) -> Observed:
    """As many examples of the reference as are judged, if it has them: manifolds of unequal size do not compare."""
    if len(reference.features) <= len(judged.features):
        return reference
    return reference.take(permutation(seed, "evaluation/manifold", len(reference.features))[: len(judged.features)])


def manifold(reference: Reference, judged: Observed, setting: Setting) -> Values:
    """Precision, recall, density and coverage, see `manifold.manifold_scores`.

    Args:
        reference: what was seen in real examples.
        judged: what was seen in the samples.
        setting: seed of the choice of as many real examples, and who shares the work.
    """
    real = _equal(reference.seen, judged, setting.seed)
    scores = manifold_scores(real.features, judged.features, replica=setting.replica)
    return {name: Value(value) for name, value in asdict(scores).items()}


def modes(reference: Reference, judged: Observed, setting: Setting) -> Values:
    """The metrics of modes, and of quality where it is known.

    Args:
        reference: not used.
        judged: what was seen in the samples, with modes.
        setting: number of modes.
    """
    assert judged.modes is not None, "the config's check refuses extractors without modes"
    statistics = mode_statistics(judged.modes, setting.num_modes)
    good = torch.ones_like(judged.modes, dtype=torch.bool) if judged.high_quality is None else judged.high_quality
    return {
        "modes": Value(float(judged.modes[good].unique().numel())),
        "reverse_kl": Value(statistics.kl),
        "excess_kl": Value(statistics.kl),
        "high_quality": Value(good.double().mean().item()),
    }


def compute(names: Sequence[str], reference: Reference, judged: Observed, setting: Setting) -> Values:
    """The named metrics of the judged examples, in the order of the names.

    Where any judged feature is not finite there is nothing to measure, and every value is NaN.

    Args:
        names: of metrics.
        reference: what was seen in real examples.
        judged: what was seen in the examples to judge.
        setting: what else metrics need.

    Raises:
        ConfigError: a metric is unknown.
    """
    functions = {name: find(METRICS, name, key="eval.metrics").compute for name in names}
    if not torch.isfinite(judged.features).all():
        return {name: Value(float("nan")) for name in names}
    found: Values = {}
    for function in dict.fromkeys(functions.values()):
        value = resolve(function)(reference, judged, setting)
        if not isinstance(value, dict):
            own = next(name for name, each in functions.items() if each == function)
            value = {own: value if isinstance(value, Value) else Value(float(value))}
        found |= value
    return {name: found[name] for name in names}
