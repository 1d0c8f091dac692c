"""Known damage to real digits is ranked rightly by every metric that claims to see it."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from ganscale.config.evaluation import METRICS
from ganscale.data.images import normalize
from ganscale.data.mnist import load_mnist
from ganscale.evaluation.metrics.extractors import DigitExtractor, Observed
from ganscale.evaluation.metrics.scores import Reference, Setting, compute
from ganscale.parallel.collectives import Replica

COUNT = 500
NAMES = ("frechet", "kid", "inception_score", "precision", "recall", "density", "coverage", "modes", "reverse_kl")

# Better first; sets within a group are not told apart. A metric is listed with the damage that it claims to see.
RANKS: dict[str, list[list[str]]] = {
    "frechet": [["real"], ["blurred"], ["noisy"], ["half"], ["one"], ["noise"]],
    "kid": [["real"], ["blurred"], ["noisy"], ["half"], ["one"], ["noise"]],
    "inception_score": [["real"], ["noisy"], ["half"], ["one", "noise"]],
    "precision": [["real", "blurred", "half", "one"], ["noisy"], ["noise"]],
    "density": [["real", "blurred", "half", "one"], ["noisy"], ["noise"]],
    "recall": [["real"], ["blurred"], ["half"], ["one", "noise"]],
    "coverage": [["real", "blurred"], ["half", "noisy"], ["one", "noise"]],
    "modes": [["real", "blurred", "noisy"], ["half"], ["one", "noise"]],
    "reverse_kl": [["real", "blurred", "noisy"], ["half"], ["one", "noise"]],
}


def observed(images: Tensor) -> Observed:
    parts = [DIGITS(part) for part in images.split(250)]
    return Observed(*(None if part[0] is None else torch.cat(part) for part in zip(*parts, strict=True)))  # pyright: ignore


DIGITS = DigitExtractor(1)


@pytest.fixture(scope="module")
def scores() -> dict[str, dict[str, float]]:
    """Metrics of each damaged set."""
    generator = torch.Generator().manual_seed(0)
    train, _ = load_mnist("train")
    test, labels = load_mnist("test")
    whole = normalize(test, torch.float32)
    real = whole[:COUNT]
    sets = {
        "real": real,
        "blurred": 0.5 * real + 0.5 * avg_pool2d(real, 3, 1, 1, count_include_pad=False),
        "noisy": (real + 0.15 * torch.randn(real.shape, generator=generator)).clamp(-1, 1),
        "half": whole[labels < 5][:COUNT],
        "one": whole[:1].expand(COUNT, -1, -1, -1),
        "noise": torch.rand(real.shape, generator=generator) * 2 - 1,
    }
    reference = Reference(observed(normalize(train[: 4 * COUNT], torch.float32)))
    setting = Setting(0, 10, Replica())
    return {
        name: {metric: found.value for metric, found in compute(NAMES, reference, observed(images), setting).items()}
        for name, images in sets.items()
    }


@pytest.mark.parametrize("metric", RANKS)
def test_damage_is_ranked(scores: dict[str, dict[str, float]], metric: str) -> None:
    sign = -1 if METRICS[metric].higher_is_better else 1
    groups = [[sign * scores[name][metric] for name in group] for group in RANKS[metric]]
    for better, worse in pairwise(groups):
        assert max(better) < min(worse), groups


def test_damage_is_large_where_it_should_be(scores: dict[str, dict[str, float]]) -> None:
    assert scores["half"]["recall"] < 0.6 * scores["real"]["recall"], "recall falls with dropped modes"
    assert scores["noisy"]["precision"] < 0.9 * scores["real"]["precision"], "precision falls with noise"
    assert scores["one"]["frechet"] > 10 * scores["real"]["frechet"]
