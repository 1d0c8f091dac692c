"""Verdicts: an unhealthy run gets one, with its kind and its beginning; a merely rough one gets none."""

import math

import pytest

from ganscale.config import DETECTORS, LOSSES
from ganscale.health.detectors import Row, Thresholds, Verdict, diagnose, first_suspect_tick, separation

T = Thresholds()
GUESSING = LOSSES["non_saturating"].guessing_loss or 0.0
CRITICAL = tuple(kind for kind, detector in DETECTORS.items() if detector.is_critical)

HEALTHY = {
    "loss_d": 1.2,
    "loss_g": 0.9,
    "real_logit_mean": 0.5,
    "real_logit_std": 0.6,
    "fake_logit_mean": -0.4,
    "fake_logit_std": 0.8,
    "d_accuracy_real": 0.8,
    "d_accuracy_fake": 0.75,
    "diversity_real": 0.6,
    "diversity_fake": 0.5,
    "mean_gap": 0.1,
    "grad_norm_d": 1.0,
    "grad_norm_g": 0.5,
    "weight_norm_d": 9.0,
    "weight_norm_g": 10.0,
}
FAR = {"real_logit_mean": 1.1 * T.winning_separation, "fake_logit_mean": 0.0}
SURELY = {"loss_d": 0.9 * T.confident_loss_ratio * GUESSING}
WON = {"d_accuracy_real": 1.0, "d_accuracy_fake": 1.0}


def rows(count: int, **changes: float) -> list[dict[str, float]]:
    return [HEALTHY | changes for _ in range(count)]


def kind(*ticks: list[dict[str, float]], loss: str = "non_saturating", **kinds: object) -> str:
    verdict = diagnose([row for part in ticks for row in part], loss=loss, **kinds)  # type: ignore[arg-type]
    return verdict.kind if verdict else ""


def test_a_healthy_run_has_no_verdict() -> None:
    assert diagnose([]) is None
    assert diagnose(rows(1)) is None
    assert diagnose(rows(40), [{"modes": 8.0, "modes_floor": 8.0, "reverse_kl": 0.1}] * 9) is None


@pytest.mark.parametrize("name", list(HEALTHY))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_any_number_that_is_none(name: str, value: float) -> None:
    verdict = diagnose([*rows(3), HEALTHY | {name: value}])
    assert verdict is not None
    assert (verdict.kind, verdict.since) == ("non-finite", 3)
    assert name in str(verdict)


def test_scores_of_broken_samples() -> None:
    assert diagnose(rows(1), [{"frechet": math.nan}]) is not None
    assert diagnose(rows(1), [{"reverse_kl": math.inf, "reverse_kl_floor": 0.1}]) is None  # no mode found, no more


TROUBLES = {
    "logits": ("divergence", {"real_logit_mean": 1.1 * T.max_logit, "fake_logit_mean": T.max_logit}),
    "negative logits": ("divergence", {"fake_logit_mean": -1.1 * T.max_logit, "real_logit_mean": -1.2 * T.max_logit}),
    "loss": ("divergence", {"loss_d": 1.1 * T.max_loss_ratio * GUESSING}),
    "gradient of D": ("divergence", {"grad_norm_d": 1.1 * T.max_gradient_growth}),
    "gradient of G": ("divergence", {"grad_norm_g": 0.55 * T.max_gradient_growth}),
    "no gradient": ("vanishing-gradient", {"grad_norm_g": 9e-6}),
    "D won": ("discriminator-strong", FAR | WON | SURELY),
    "G lost": ("discriminator-strong", WON | {"loss_g": 1.1 * T.losing_loss}),
    "all alike": ("mode-collapse", {"diversity_fake": 0.9 * T.collapsed_diversity * 0.6}),
    "D fooled": ("discriminator-weak", {"real_logit_mean": 1.1 * T.fooled_separation, "fake_logit_mean": 0.0}),
    "D blind": ("discriminator-weak", {"mean_gap": 1.1 * T.far_mean_gap * 0.6}),
}
"""What a tick is like in trouble, and the verdict if that goes on."""
MILDER = {
    "logits": {"real_logit_mean": 0.9 * T.max_logit, "fake_logit_mean": 0.9 * T.max_logit},
    "negative logits": {"fake_logit_mean": -0.9 * T.max_logit, "real_logit_mean": -0.9 * T.max_logit},
    "loss": {"loss_d": 0.9 * T.max_loss_ratio * GUESSING},
    "gradient of D": {"grad_norm_d": 0.9 * T.max_gradient_growth},
    "gradient of G": {"grad_norm_g": 0.45 * T.max_gradient_growth},
    "no gradient": {"grad_norm_g": 1.1e-5},
    "D won": WON | SURELY | {"real_logit_mean": 0.9 * T.winning_separation, "fake_logit_mean": 0.0},
    "G lost": WON | {"loss_g": 0.9 * T.losing_loss},
    "all alike": {"diversity_fake": 1.1 * T.collapsed_diversity * 0.6},
    "D fooled": {"real_logit_mean": 0.9 * T.fooled_separation, "fake_logit_mean": 0.0},
    "D blind": {"mean_gap": 0.9 * T.far_mean_gap * 0.6},
}
"""The same, not quite so bad."""


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_stays_is_told_with_its_beginning(trouble: str) -> None:
    expected, bad = TROUBLES[trouble]
    verdict = diagnose([*rows(7), *rows(3, **bad)])
    assert verdict is not None
    assert (verdict.kind, verdict.since) == (expected, 7)
    later = diagnose([*rows(7), *rows(9, **bad)], patience=5)
    assert later is not None
    assert (later.kind, later.since) == (expected, 7)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_passes_or_is_milder_is_not_told(trouble: str) -> None:
    bad = TROUBLES[trouble][1]
    assert not kind(rows(7), rows(2, **bad))
    assert not kind(rows(7), rows(3, **bad), rows(1))
    assert not kind(rows(7), rows(4, **bad), patience=5)
    assert not kind(rows(7), rows(9, **MILDER[trouble]))


def test_fakes_far_away_are_no_verdict_while_d_sees_it() -> None:
    assert not kind(rows(7), rows(9, mean_gap=9.0, **WON))


def test_what_was_large_from_the_start_has_not_grown() -> None:
    assert not kind(rows(9, grad_norm_d=2 * T.max_gradient_growth, grad_norm_g=2 * T.max_gradient_growth))


@pytest.mark.parametrize("network", ["d", "g"])
def test_weights_that_swell(network: str) -> None:
    name = f"weight_norm_{network}"
    swell = [row for size in (9.0, 14.0, 20.0, 31.0, 40.0) for row in rows(1, **{name: size})]
    verdict = diagnose([*rows(20), *swell])
    assert verdict is not None
    assert (verdict.kind, verdict.since) == ("divergence", 21), "from where they were half of three times as large"
    slowly = [
        row
        for n in range(40)
        for row in rows(1, **{name: 9.0 * (0.99 * T.max_weight_growth) ** (n / (T.weight_growth_ticks - 1))})
    ]
    assert not kind(slowly), "weights of long runs grow"


def test_separation_is_in_standard_deviations() -> None:
    assert separation(HEALTHY) == pytest.approx(0.9)
    assert separation({"real_logit_mean": 1.0}) > 1e9


def test_a_critics_loss_may_be_any_number() -> None:
    assert kind(rows(7), rows(3, loss_d=400.0)) == "divergence"
    assert kind(rows(7), rows(3, loss_d=4.0), loss="hinge") == ""
    assert kind(rows(7), rows(3, loss_d=400.0), loss="hinge") == "divergence"
    assert kind(rows(7), rows(3, loss_d=400.0), loss="wasserstein") == ""
    assert kind(rows(7), rows(3, loss_g=400.0, **WON), loss="wasserstein") == ""
    assert kind(rows(7), rows(3, loss_g=400.0, **WON)) == "discriminator-strong"


def test_at_first_d_tells_all_apart_but_is_not_sure() -> None:
    assert not kind(rows(7), rows(9, **(FAR | WON | {"loss_d": 1.1 * T.confident_loss_ratio * GUESSING})))
    assert not kind(rows(7), rows(5, **(FAR | WON)), loss="wasserstein")
    assert kind(rows(7), rows(6, **(FAR | WON)), loss="wasserstein") == "discriminator-strong"


def evaluation(share: float, frechet: float = 50.0) -> Row:
    return {"modes": 2.0, "modes_floor": 10.0, "reverse_kl": share * math.log(10.0), "frechet": frechet}


def test_samples_that_stay_on_few_modes() -> None:
    def few(*shares: float) -> Verdict | None:
        return diagnose(rows(T.min_ticks_of_modes), [evaluation(share) for share in shares])

    narrow = [1.1 * T.collapsed_reverse_kl] * T.stuck_evaluations
    found = few(*narrow)
    assert found is not None
    assert found.kind == "mode-collapse"
    assert "2 modes" in found.reason
    assert few(*narrow[1:]) is None
    assert diagnose(rows(T.min_ticks_of_modes - 1), [evaluation(share) for share in narrow]) is None, (
        "it has only begun"
    )
    assert few(*narrow, 0.9 * T.collapsed_reverse_kl) is None
    assert few(0.1, *narrow) is not None, "it had more"
    rising = [1.0] * (T.stuck_evaluations - 1) + [0.9 * T.improved_reverse_kl]
    assert few(*rising) is None
    assert few(*rising, *[0.9 * T.improved_reverse_kl] * (T.stuck_evaluations - 1)) is not None
    assert (
        diagnose(
            rows(T.min_ticks_of_modes),
            [
                evaluation(1.0, 100.0 * (0.9 * T.improved_frechet) ** (number / (T.stuck_evaluations - 1)))
                for number in range(T.stuck_evaluations)
            ],
        )
        is None
    ), "it learns"
    assert (
        diagnose(
            rows(T.min_ticks_of_modes),
            [
                evaluation(1.0, 100.0 * (1.1 * T.improved_frechet) ** (number / (T.stuck_evaluations - 1)))
                for number in range(T.stuck_evaluations)
            ],
        )
        is not None
    )
    assert diagnose(rows(T.min_ticks_of_modes), [{"frechet": 9.0}] * 9) is None, "modes are not known"


def test_a_chase() -> None:
    fooled = rows(2, real_logit_mean=1.2 * T.fooled_separation, fake_logit_mean=0.0)
    chase = [row for _ in range(T.max_oscillations) for row in (*fooled, *rows(1))]
    verdict = diagnose([*rows(9), *chase])
    assert verdict is not None
    assert (verdict.kind, verdict.since) == ("oscillation", 9)
    assert not kind(rows(9), chase[3:]), "once too few"
    assert not kind(chase, rows(9)), "it is over"
    half = rows(1, real_logit_mean=0.6 * T.fooled_separation, fake_logit_mean=0.0)
    assert not kind(rows(9), [row for _ in range(T.max_oscillations) for row in (*fooled, *half)]), "D never catches up"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_kinds_can_be_ignored(trouble: str) -> None:
    expected, bad = TROUBLES[trouble]
    assert expected in DETECTORS
    assert kind(rows(7), rows(3, **bad), ignore=[expected]) != expected


def test_the_gravest_is_told() -> None:
    bad = TROUBLES["loss"][1] | TROUBLES["all alike"][1]
    assert kind(rows(7), rows(3, **bad)) == "divergence"
    assert kind(rows(7), rows(3, **bad), ignore=["divergence"]) == "mode-collapse"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_one_grave_row_is_a_suspicion(trouble: str) -> None:
    expected, bad = TROUBLES[trouble]
    ticks = [*rows(7), *rows(1, **bad), *rows(5)]
    assert not kind(ticks)
    grave = expected in CRITICAL
    assert first_suspect_tick(ticks) == (7 if grave else len(ticks))
    assert first_suspect_tick(ticks, ignore=CRITICAL) == len(ticks)
    assert first_suspect_tick([*rows(7), *rows(9, **MILDER[trouble])]) == 16


def test_a_healthy_run_is_not_suspected() -> None:
    assert first_suspect_tick([]) == 0
    assert first_suspect_tick(rows(40)) == 40
    assert first_suspect_tick([*rows(3), HEALTHY | {"loss_g": math.nan}, *rows(3)]) == 3
