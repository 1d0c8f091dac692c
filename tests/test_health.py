"""Verdicts: what is sick is told, what is merely rough is left alone."""

import math

import pytest

from ganscale.health import GROWTH, LARGE_LOGIT, STUCK, collapse, divergence, judge, non_finite

SOUND = {
    "loss_d": 1.2,
    "loss_g": 0.9,
    "real_logit_mean": 0.5,
    "fake_logit_mean": -0.4,
    "d_accuracy_real": 0.8,
    "d_accuracy_fake": 0.75,
    "grad_norm_d": 1.0,
    "grad_norm_g": 0.5,
}
LOST = SOUND | {"d_accuracy_real": 1.0, "d_accuracy_fake": 1.0}


def rows(count: int, **changes: float) -> list[dict[str, float]]:
    return [SOUND | changes for _ in range(count)]


def test_a_sound_run_has_no_verdict() -> None:
    assert judge([]) is None
    assert judge(rows(1)) is None
    assert judge(rows(20), [{"modes": 8.0, "modes_floor": 8.0}] * 9) is None


@pytest.mark.parametrize("name", list(SOUND))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_any_number_that_is_none(name: str, value: float) -> None:
    verdict = judge([*rows(3), SOUND | {name: value}])
    assert verdict is not None
    assert verdict.kind == "non-finite"
    assert name in str(verdict)
    assert non_finite([SOUND | {name: value}, SOUND]) is None  # it is over


def test_scores_of_broken_samples() -> None:
    assert non_finite(rows(1), [{"frechet": math.nan}]) is not None
    assert non_finite(rows(1), [{"reverse_kl": math.inf, "reverse_kl_floor": 0.1}]) is None  # no mode found, no more


@pytest.mark.parametrize("sign", [1, -1])
def test_logits_that_ran_away(sign: int) -> None:
    away = rows(3, real_logit_mean=sign * LARGE_LOGIT * 1.1)
    verdict = divergence([*rows(5), *away])
    assert verdict is not None
    assert verdict.kind == "divergence"
    assert divergence([*rows(5), *away[:2]]) is None
    assert divergence([*away[:2], *rows(1)]) is None


@pytest.mark.parametrize("name", ["grad_norm_d", "grad_norm_g"])
def test_gradients_that_grew_without_bound(name: str) -> None:
    large = {name: 1.1 * GROWTH * SOUND[name]}
    assert divergence([*rows(4), *rows(3, **large)]) is not None
    assert divergence([*rows(4), *rows(2, **large), *rows(1)]) is None
    assert divergence(rows(9, **large)) is None  # it always was large


def test_a_discriminator_that_has_won() -> None:
    growing = [LOST | {"loss_g": loss} for loss in (9.0, 10.0, 11.0)]
    verdict = collapse([*rows(4), *growing])
    assert verdict is not None
    assert verdict.kind == "collapse"
    assert collapse([*rows(4), *growing], in_nats=False) is None  # a critic's loss may be any number
    assert collapse([*rows(4), *growing[::-1]]) is None  # G recovers
    assert collapse([*rows(4), *(row | {"d_accuracy_fake": 0.9} for row in growing)]) is None
    assert collapse([LOST | {"loss_g": loss} for loss in (5.0, 6.0, 7.0)]) is None


def test_a_generator_without_gradient() -> None:
    gone = [LOST | {"grad_norm_g": 1e-7} for _ in range(3)]
    assert collapse([*rows(4), *gone], in_nats=False) is not None
    assert collapse([*rows(4), *gone[:2]], in_nats=False) is None


def test_samples_stuck_at_one_mode() -> None:
    one, two = {"modes": 1.0}, {"modes": 2.0}
    assert collapse(rows(1), [two, *[one] * STUCK]) is not None
    assert collapse(rows(1), [two, *[one] * (STUCK - 1)]) is None
    assert collapse(rows(1), [two, *[one] * (STUCK - 1), two]) is None
    assert collapse(rows(1), [one] * (2 * STUCK)) is None  # it has not begun to learn
