"""The objectives against their formulas in float64, far out, and under label smoothing."""

import math

import pytest
import torch
from torch import Tensor

from ganscale.losses import LOSSES, Targets
from ganscale.losses.adversarial import HARD

SMOOTH = Targets(0.9)
CROSS_ENTROPY = ("minimax", "non_saturating")

LOGITS = torch.linspace(-8.0, 8.0, 33, dtype=torch.float64)
PAIRS = torch.cartesian_prod(LOGITS, LOGITS).T


def sigma(logits: Tensor) -> Tensor:
    return 1.0 / (1.0 + (-logits).exp())


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("name", ["minimax", "non_saturating"])
def test_discriminator_is_cross_entropy_on_probabilities(name: str, smoothing: float) -> None:
    real, fake = PAIRS
    target = 1.0 - smoothing
    expected = -(target * sigma(real).log() + smoothing * (1.0 - sigma(real)).log() + (1.0 - sigma(fake)).log())
    actual = LOSSES[name].discriminator_loss(real, fake, Targets(target))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


def test_smoothing_is_one_sided_and_moves_the_optimum() -> None:
    """D's best answer to a real image becomes 1 - smoothing; to a fake it stays 0."""
    discriminator = LOSSES["non_saturating"].discriminator_loss
    logit = torch.tensor([math.log(0.9 / 0.1)], dtype=torch.float64, requires_grad=True)
    far = torch.full((1,), -50.0, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(discriminator(logit, far, SMOOTH).sum(), logit)
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(
        discriminator(far, logit, SMOOTH) - discriminator(far, far, SMOOTH),
        -(1.0 - sigma(logit)).log(),
        rtol=1e-9,
        atol=1e-9,
    )


def test_minimax_generator_is_log_one_minus_d() -> None:
    torch.testing.assert_close(
        LOSSES["minimax"].generator_loss(LOGITS, None), (1.0 - sigma(LOGITS)).log(), rtol=1e-9, atol=1e-9
    )


def test_non_saturating_generator_is_minus_log_d() -> None:
    torch.testing.assert_close(
        LOSSES["non_saturating"].generator_loss(LOGITS, None), -sigma(LOGITS).log(), rtol=1e-9, atol=1e-9
    )


def gradient_at(name: str, logit: float) -> float:
    x = torch.tensor([logit], dtype=torch.float64, requires_grad=True)
    return torch.autograd.grad(LOSSES[name].generator_loss(x, None).sum(), x)[0].item()


def test_only_minimax_saturates_where_the_discriminator_is_sure() -> None:
    assert -1e-8 < gradient_at("minimax", -20.0) < 0.0
    assert gradient_at("non_saturating", -20.0) == pytest.approx(-1.0, abs=1e-8)
    for name in CROSS_ENTROPY:
        assert gradient_at(name, 0.0) == pytest.approx(-0.5, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CROSS_ENTROPY)
def test_extreme_logits_stay_finite_and_exact(name: str, dtype: torch.dtype) -> None:
    far = torch.tensor([-1e4, 1e4], dtype=dtype, requires_grad=True)
    losses = {
        "real": LOSSES[name].discriminator_loss(far, torch.full_like(far, -1e4), HARD),
        "fake": LOSSES[name].discriminator_loss(torch.full_like(far, 1e4), far, HARD),
        "smooth": LOSSES[name].discriminator_loss(far, torch.full_like(far, -1e4), SMOOTH),
        "generator": LOSSES[name].generator_loss(far, None),
    }
    expected = {
        "real": [1e4, 0.0],
        "fake": [0.0, 1e4],
        "smooth": [0.9e4, 0.1e4],
        "generator": {"minimax": [0.0, -1e4], "non_saturating": [1e4, 0.0]}[name],
    }
    for key, loss in losses.items():
        torch.testing.assert_close(loss, torch.tensor(expected[key], dtype=dtype), rtol=1e-6, atol=1e-30)
        (gradient,) = torch.autograd.grad(loss.sum(), far)
        assert gradient.isfinite().all()
        assert gradient.abs().max() == pytest.approx(0.9 if key == "smooth" else 1.0, rel=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_one_value_per_sample(name: str) -> None:
    logits = torch.randn(5)
    assert LOSSES[name].discriminator_loss(logits, logits, SMOOTH).shape == (5,)
    assert LOSSES[name].generator_loss(logits, logits).shape == (5,)
