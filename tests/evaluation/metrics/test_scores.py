"""Metrics by name."""

import math

import pytest
import torch

from ganscale.config.evaluation import METRICS
from ganscale.evaluation.metrics import scores
from ganscale.evaluation.metrics.extractors import Observed
from ganscale.evaluation.metrics.frechet import frechet_distance, moments
from ganscale.evaluation.metrics.inception import inception_score
from ganscale.evaluation.metrics.kernel import kernel_distance
from ganscale.evaluation.metrics.manifold import manifold_scores
from ganscale.evaluation.metrics.scores import Reference, Setting, compute
from ganscale.parallel.collectives import Replica

SETTING = Setting(seed=3, num_modes=4, replica=Replica())


def observed(count: int, seed: int, shift: float = 0.0) -> Observed:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, 6, generator=generator) + shift
    probabilities = torch.rand(count, 4, generator=generator).softmax(1)
    modes = torch.arange(count) % 4
    return Observed(features, probabilities, modes, (torch.arange(count) % 5 > 0) & (modes != 2))


def test_values_are_those_of_the_functions() -> None:
    reference, judged = observed(300, 0), observed(200, 1, 0.5)
    names = tuple(name for name in METRICS if METRICS[name].needs not in ("patches", "neighbors"))  # tests of their own
    values = compute(names, Reference(reference), judged, SETTING)
    assert tuple(values) == names
    assert values["frechet"].value == frechet_distance(moments(reference.features), moments(judged.features))
    kid = kernel_distance(reference.features, judged.features, subset_size=200, seed=3)
    assert (values["kid"].value, values["kid"].error) == (kid.value, kid.standard_error)
    assert judged.probabilities is not None
    score = inception_score(judged.probabilities)
    assert (values["inception_score"].value, values["inception_score"].error) == (score.mean, score.std)
    assert values["modes"].value == 3, "mode 2 has no sample of high quality"
    assert values["high_quality"].value == pytest.approx(0.6)
    assert values["reverse_kl"].value == pytest.approx(0.0, abs=1e-12)


def test_manifolds_are_compared_at_equal_size() -> None:
    reference, judged = observed(300, 0), observed(200, 1)
    values = compute(("precision", "recall"), Reference(reference), judged, SETTING)
    everything = manifold_scores(reference.features, judged.features)
    assert values["precision"].value < everything.precision, "of 300 reference examples only 200 are used"
    few = compute(("precision",), Reference(observed(100, 0)), judged, SETTING)
    assert few["precision"].value == manifold_scores(observed(100, 0).features, judged.features).precision


def test_samples_that_are_not_finite_have_no_scores() -> None:
    judged = observed(50, 1)
    judged.features[7, 2] = math.inf
    values = compute(("frechet", "modes"), Reference(observed(50, 0)), judged, SETTING)
    assert all(math.isnan(value.value) for value in values.values())


def test_the_references_moments_are_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    monkeypatch.setattr(scores, "moments", lambda features: sizes.append(len(features)) or moments(features))
    reference = Reference(observed(300, 0))
    for seed in (1, 2):
        compute(("frechet",), reference, observed(200, seed), SETTING)
    assert sorted(sizes) == [200, 200, 300]
