"""The Inception Score against other programs and closed forms."""

import pytest
import torch
from torch import nn
from torch_fidelity.metric_isc import isc_features_to_metric
from torchmetrics.image.inception import InceptionScore

from ganscale.evaluation.metrics.inception import inception_score


def logits(count: int = 103, classes: int = 7) -> torch.Tensor:
    return 3.0 * torch.randn(count, classes, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("splits", [1, 4, 10, 103])
def test_torch_fidelity_agrees(splits: int) -> None:
    x = logits()
    found = inception_score(x.double().softmax(1), splits=splits)
    other = isc_features_to_metric(x, splits=splits, shuffle=False)
    assert found.mean == pytest.approx(other["inception_score_mean"], rel=1e-9)
    assert found.std == pytest.approx(other["inception_score_std"], rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("ignore:Metric `InceptionScore` will save:UserWarning")
@pytest.mark.filterwarnings("ignore:std\\(\\)")
def test_torchmetrics_agrees() -> None:
    """On one split, as it shuffles the samples."""
    other = InceptionScore(feature=nn.Identity(), splits=1)
    other.update(logits())
    assert inception_score(logits().softmax(1), splits=1).mean == pytest.approx(float(other.compute()[0]), rel=1e-5)


def test_bounds() -> None:
    """1 when all samples look alike or like nothing; the number of classes when they are sure and even."""
    assert inception_score(torch.full((50, 5), 0.2)).mean == pytest.approx(1.0, rel=1e-6)
    sure = torch.eye(5).repeat(10, 1)
    assert inception_score(sure).mean == pytest.approx(5.0, rel=1e-12)
    assert inception_score(sure).std == pytest.approx(0.0, abs=1e-12)
    assert inception_score(torch.eye(5)[:1].repeat(50, 1)).mean == 1.0
    uneven = torch.cat((torch.eye(2)[:1].repeat(30, 1), torch.eye(2)[1:].repeat(10, 1)))
    expected = (4 / 3) ** 0.75 * 4**0.25  # exp of the entropy of (3/4, 1/4)
    assert inception_score(uneven, splits=1).mean == pytest.approx(expected, rel=1e-12)


def test_splits_are_runs_of_consecutive_samples() -> None:
    two_then_four = torch.cat((torch.eye(4)[:2].repeat(10, 1), torch.eye(4).repeat(5, 1)))
    found = inception_score(two_then_four, splits=2)
    assert found.mean == pytest.approx(3.0, rel=1e-12)
    assert found.std == pytest.approx(1.0, rel=1e-12)
