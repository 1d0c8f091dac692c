"""Verdicts: an unhealthy run gets one, with its kind and its beginning; a merely rough one gets none."""

import math

import pytest

from ganscale.config import DETECTORS, LOSSES
from ganscale.health.detectors import (
    FOOLED_SEPARATION,
    MAX_LOGIT,
    MAX_OSCILLATIONS,
    VANISHED_GRADIENT,
    Verdict,
    diagnose,
    first_suspect_tick,
)
from ganscale.health.limits import LIMITS
from ganscale.health.signals import (
    FLAT_EVALUATIONS,
    FLAT_TICKS,
    LACKING_EVALUATIONS,
    LONG_FLAT_EVALUATIONS,
    OFFSET,
    SIGNALS,
    Row,
    separation,
)

GUESSING = LOSSES["non_saturating"].guessing_loss or 0.0
CRITICAL = tuple(kind for kind, detector in DETECTORS.items() if detector.is_critical)

HEALTHY = {
    "loss_d": 1.2,
    "loss_g": 0.9,
    "adversarial_loss_d": 1.2,
    "real_logit_mean": 0.5,
    "real_logit_std": 0.6,
    "fake_logit_mean": -0.4,
    "fake_logit_std": 0.8,
    "diversity_real": 0.6,
    "diversity_fake": 0.5,
    "copies_real": 0.0,
    "copies_fake": 0.0,
    "sliced_frechet": 0.1,
    "sliced_frechet_real": 0.02,
    "held_out_gap": 0.1,
    "class_margin": 0.9,
    "grad_norm_d": 1.0,
    "grad_norm_g": 0.5,
    "weight_norm_d": 9.0,
    "weight_norm_g": 10.0,
}


def rows(count: int, **changes: float) -> list[dict[str, float]]:
    return [HEALTHY | changes for _ in range(count)]


def kind(*ticks: list[dict[str, float]], loss: str = "non_saturating", **kinds: object) -> str:
    verdict = diagnose([row for part in ticks for row in part], loss=loss, **kinds)  # type: ignore[arg-type]
    return verdict.kind if verdict else ""


def test_a_healthy_run_has_no_verdict() -> None:
    assert diagnose([]) is None
    assert diagnose(rows(1)) is None
    good = {"modes": 8.0, "modes_floor": 8.0, "reverse_kl": 0.1, "frechet": 1.0, "frechet_scale": 20.0}
    assert diagnose(rows(40), [good] * 9) is None


def test_rows_of_older_runs_lack_numbers() -> None:
    assert diagnose([{"loss_d": 1.2, "loss_g": 0.9}] * 40, [{"frechet": 5.0}] * 9) is None


@pytest.mark.parametrize("name", list(HEALTHY))
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_any_number_that_is_none(name: str, value: float) -> None:
    verdict = diagnose([*rows(3), HEALTHY | {name: value}])
    assert verdict is not None
    assert (verdict.kind, verdict.since, verdict.score) == ("non-finite", 3, 1.0)
    assert name in str(verdict)


def test_scores_of_broken_samples() -> None:
    assert diagnose(rows(1), [{"frechet": math.nan}]) is not None
    assert diagnose(rows(1), [{"reverse_kl": math.inf, "reverse_kl_floor": math.inf}]) is None  # no mode found, no more


def near(name: str, times: float) -> float:
    """What stands for a signal's badness of so many times its limit, as a ratio."""
    return math.exp(times * LIMITS[name].value)


def troubles(times: float) -> dict[str, tuple[str, dict[str, float]]]:
    """What a tick is like in trouble of so many times the limit, and the verdict if that goes on."""
    return {
        "logits": ("divergence", {"real_logit_mean": times * MAX_LOGIT, "fake_logit_mean": times * MAX_LOGIT}),
        "negative logits": (
            "divergence",
            {"fake_logit_mean": -times * MAX_LOGIT, "real_logit_mean": -times * MAX_LOGIT},
        ),
        "weights of D": ("divergence", {"weight_norm_d": 9.0 * near("weights-d", times)}),
        "weights of G": ("divergence", {"weight_norm_g": 10.0 * near("weights-g", times)}),
        "gradient of D": ("divergence", {"grad_norm_d": near("gradient-d", times)}),
        "loss": ("divergence", {"adversarial_loss_d": near("loss-d", times) * GUESSING}),
        "no gradient": ("vanishing-gradient", {"grad_norm_g": 0.5 / near("gradient-g", times)}),
        "D won": ("discriminator-strong", {"real_logit_mean": near("separated", times), "fake_logit_mean": 0.0}),
        "low diversity": ("mode-collapse", {"diversity_real": 0.5 * near("low-diversity", times)}),
        "copies": ("mode-collapse", {"copies_fake": times * LIMITS["copies"].value}),
        "fewer": ("mode-collapse", {"diversity_fake": 0.5 / near("diversity", times)}),
        "farther": ("degradation", {"sliced_frechet": (0.1 + OFFSET) * near("farther", times) - OFFSET}),
        "repeated data": ("data", {"copies_real": times * LIMITS["data-copies"].value}),
        "other data": ("data", {"sliced_frechet_real": times * LIMITS["data"].value}),
        "overfitted": ("overfitting", {"held_out_gap": times * LIMITS["held-out"].value}),
        "D fooled": (
            "discriminator-weak",
            {"real_logit_mean": -times * LIMITS["fooled"].value, "fake_logit_mean": 0.0},
        ),
    }


TROUBLES, MILDER = troubles(1.05), troubles(0.95)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_stays_is_told_with_its_beginning(trouble: str) -> None:
    expected, bad = TROUBLES[trouble]
    verdict = diagnose([*rows(17), *rows(3, **bad)])
    assert verdict is not None
    assert (verdict.kind, verdict.since) == (expected, 17)
    assert 0.5 < verdict.score <= 1.0
    later = diagnose([*rows(17), *rows(6, **bad)], patience=5)
    assert later is not None
    assert (later.kind, later.since) == (expected, 17)


@pytest.mark.parametrize("trouble", TROUBLES)
def test_trouble_that_passes_or_is_milder_is_not_told(trouble: str) -> None:
    bad = TROUBLES[trouble][1]
    assert not kind(rows(17), rows(2, **bad))
    assert not kind(rows(17), rows(3, **bad), rows(1))
    assert not kind(rows(17), rows(4, **bad), patience=5)
    assert not kind(rows(17), rows(9, **MILDER[trouble][1]))


@pytest.mark.parametrize("trouble", [name for name in TROUBLES if "logits" not in name])
def test_the_score_grows_with_the_trouble(trouble: str) -> None:
    def score(times: float) -> float:
        verdict = diagnose([*rows(17), *rows(3, **troubles(times)[trouble][1])])
        assert verdict is not None
        assert f"score {verdict.score:.2f}" in verdict.reason
        return verdict.score

    assert 0.5 < score(1.01) < score(1.1) <= score(1.5) <= 1.0


def test_g_gets_no_gradient_from_the_beginning() -> None:
    assert kind(rows(3, grad_norm_g=0.9 * VANISHED_GRADIENT * 10.0)) == "vanishing-gradient"
    assert not kind(rows(3, grad_norm_g=1.1 * VANISHED_GRADIENT * 10.0))


def test_what_was_large_from_the_start_has_not_grown() -> None:
    assert not kind(rows(30, grad_norm_d=500.0, weight_norm_d=900.0, weight_norm_g=900.0, sliced_frechet=0.4))


@pytest.mark.parametrize("network", ["d", "g"])
def test_weights_of_long_runs_grow(network: str) -> None:
    name, limit = f"weight_norm_{network}", LIMITS[f"weights-{network}"].value
    slowly = [row for n in range(90) for row in rows(1, **{name: 9.0 * math.exp(0.08 * limit * n)})]
    assert not kind(slowly)
    fast = [row for n in range(90) for row in rows(1, **{name: 9.0 * math.exp(0.15 * limit * n)})]
    assert kind(fast) == "divergence"


def test_separation_is_in_standard_deviations() -> None:
    assert separation(HEALTHY) == pytest.approx(0.9)
    assert separation({"real_logit_mean": 1.0}) > 1e9


def test_the_loss_of_guessing_is_the_objectives() -> None:
    assert kind(rows(17), rows(3, adversarial_loss_d=3.0)) == "divergence"
    assert not kind(rows(17), rows(3, adversarial_loss_d=2.9), loss="hinge")
    assert kind(rows(17), rows(3, adversarial_loss_d=9.0), loss="hinge") == "divergence"
    assert not kind(rows(17), rows(3, adversarial_loss_d=400.0), loss="wasserstein"), "a critic's has no scale"
    assert not kind(rows(17), rows(9, loss_d=400.0)), "classes and penalties are in it"


def scores(frechet: float, modes: float = 10.0, reverse_kl: float = 0.1) -> dict[str, float]:
    return {"modes": modes, "modes_floor": 10.0, "reverse_kl": reverse_kl, "frechet": frechet, "frechet_scale": 100.0}


def judged(*evaluations: dict[str, float]) -> Verdict | None:
    """Every fourth tick is evaluated."""
    ticks: list[Row] = []
    for evaluation in evaluations:
        ticks += [*rows(3), HEALTHY | evaluation]
    return diagnose(ticks, [row for row in ticks if "frechet" in row])


LOSSES_OF_QUALITY = {
    "modes": ("mode-collapse", scores(20.0), scores(20.0, modes=2.0)),
    "evenness": ("mode-collapse", scores(20.0), scores(20.0, reverse_kl=1.5)),
    "distance": ("degradation", scores(20.0), scores(80.0)),
}


@pytest.mark.parametrize("lost", LOSSES_OF_QUALITY)
def test_quality_that_is_lost(lost: str) -> None:
    expected, good, bad = LOSSES_OF_QUALITY[lost]
    verdict = judged(good, good, good, bad, bad)
    assert verdict is not None
    assert (verdict.kind, verdict.since) == (expected, 15), "the tick of the first bad evaluation"
    assert judged(good, good, good, bad) is None, "one is not enough"
    assert judged(good, good, bad, good, good) is None, "it is over"
    assert judged(bad, bad, bad, bad) is None, "it never was better, but is not bad"


def test_modes_that_are_lost_one_by_one() -> None:
    assert judged(*(scores(20.0, modes=modes) for modes in (8.0, 8.0, 6.0, 4.0, 2.0, 2.0))) is not None
    assert judged(*(scores(20.0, modes=modes) for modes in (8.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 3.0))) is not None
    assert judged(*(scores(20.0, modes=modes) for modes in (4.0, 8.0, 4.0, 3.0, 4.0, 3.0))) is None, "one is chance"
    assert judged(*(scores(20.0, modes=modes) for modes in (1.0, 2.0, 1.0, 5.0, 8.0, 7.0))) is None


def test_no_progress_is_told_only_of_bad_samples() -> None:
    flat = judged(*[scores(250.0)] * (FLAT_EVALUATIONS + 1))
    assert flat is not None
    assert flat.kind == "stagnation"
    assert judged(*[scores(250.0)] * FLAT_EVALUATIONS) is None, "it has only begun"
    assert judged(*[scores(60.0)] * 9) is None, "good enough"
    assert judged(*(scores(999.0 * 0.7**n) for n in range(6))) is None, "it learns"
    assert judged(*(scores(250.0 * (1 + n)) for n in range(4)), *(scores(1000.0 * 0.7**n) for n in range(3))) is None
    slowly = [scores(900.0 * 0.95**n) for n in range(24)]
    assert judged(*slowly) is None, "half of the run is what counts, not a number of evaluations"


def test_mediocre_samples_have_longer() -> None:
    stays = judged(*[scores(90.0)] * (LONG_FLAT_EVALUATIONS + 1))
    assert stays is not None
    assert stays.kind == "stagnation"
    assert judged(*[scores(90.0)] * LONG_FLAT_EVALUATIONS) is None, "a slow learner passes through it"


def test_samples_that_never_were_good_do_not_degrade() -> None:
    """An untrained residual network is nearer to the data than it is a little later."""
    assert judged(scores(150.0), scores(150.0), scores(600.0), scores(600.0)) is None


def test_samples_that_are_near_no_mode() -> None:
    nowhere = scores(30.0, modes=0.0, reverse_kl=math.inf)
    lost = judged(*[nowhere] * (LACKING_EVALUATIONS + 1))
    assert lost is not None
    assert lost.kind == "stagnation"
    assert judged(*[nowhere] * LACKING_EVALUATIONS) is None, "it has only begun"
    assert judged(*[nowhere] * LACKING_EVALUATIONS, scores(20.0, modes=1.0)) is None, "one is a beginning"
    later = [scores(20.0, modes=2.0)] * (LACKING_EVALUATIONS + 1)
    assert judged(*[nowhere] * LACKING_EVALUATIONS, *later) is None, "half of the run is what counts"
    nearer = [scores(80.0 * 0.8**n, modes=0.0, reverse_kl=math.inf) for n in range(9)]
    assert judged(*nearer) is None, "they come nearer"


def test_d_that_had_won_is_caught_up_with() -> None:
    """Its gradient grows by far, as it learns again: the DCGAN of configs/mnist_dcgan.yaml does so."""
    assert not kind(rows(9, grad_norm_d=5.0), rows(2, grad_norm_d=60.0), rows(9, grad_norm_d=5.0, grad_norm_g=0.4))
    assert not kind(rows(8, grad_norm_d=5.0), *(rows(1, grad_norm_d=40.0 * 1.25**n) for n in range(9)))
    assert kind(rows(8, grad_norm_d=5.0), rows(3, grad_norm_d=400.0)) == "divergence"


def test_no_progress_without_evaluations() -> None:
    far = 2.0 * near("flat-distance", 1.0)
    assert kind(rows(FLAT_TICKS + 8, sliced_frechet=far)) == "stagnation"
    assert not kind(rows(FLAT_TICKS, sliced_frechet=far))
    assert not kind([row for n in range(40) for row in rows(1, sliced_frechet=far * 0.95**n)])


def test_classes_that_d_does_not_learn() -> None:
    ignored = rows(2 * FLAT_TICKS, class_margin=0.02)
    verdict = diagnose(ignored)
    assert verdict is not None
    assert verdict.kind == "labels"
    assert "class_margin 0.02" in verdict.reason
    assert not kind(ignored[:FLAT_TICKS]), "a short run may still learn them"
    assert not kind(rows(FLAT_TICKS, class_margin=0.02), rows(3)), "it learns them"
    assert not kind(rows(1), rows(2 * FLAT_TICKS, class_margin=0.5))
    unconditional = {name: value for name, value in HEALTHY.items() if name != "class_margin"}
    assert diagnose([unconditional] * 40) is None


def test_a_chase() -> None:
    fooled = rows(2, real_logit_mean=1.2 * FOOLED_SEPARATION, fake_logit_mean=0.0)
    chase = [row for _ in range(MAX_OSCILLATIONS) for row in (*fooled, *rows(1))]
    verdict = diagnose([*rows(9), *chase])
    assert verdict is not None
    assert (verdict.kind, verdict.since) == ("oscillation", 9)
    assert not kind(rows(9), chase[3:]), "once too few"
    assert not kind(chase, rows(9)), "it is over"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_kinds_can_be_ignored(trouble: str) -> None:
    expected, bad = TROUBLES[trouble]
    assert expected in DETECTORS
    assert kind(rows(17), rows(3, **bad), ignore=[expected]) != expected


def test_the_gravest_is_told() -> None:
    bad = TROUBLES["loss"][1] | TROUBLES["low diversity"][1]
    assert kind(rows(17), rows(3, **bad)) == "divergence"
    assert kind(rows(17), rows(3, **bad), ignore=["divergence"]) == "mode-collapse"


@pytest.mark.parametrize("trouble", TROUBLES)
def test_one_grave_row_is_a_suspicion(trouble: str) -> None:
    """A single row must be beyond what single rows of healthy runs reach."""
    name = {"logits": 1.0, "negative logits": 1.0}.get(trouble)
    critical = ("weights-d", "weights-g", "gradient-d", "loss-d", "gradient-g", "low-diversity", "diversity")
    times = name or max(LIMITS[each].single / LIMITS[each].value for each in critical)
    expected, bad = troubles(1.05 * times)[trouble]
    ticks = [*rows(17), *rows(1, **bad), *rows(5)]
    assert not kind(ticks)
    assert first_suspect_tick(ticks) == (17 if expected in CRITICAL else len(ticks))
    assert first_suspect_tick(ticks, ignore=CRITICAL) == len(ticks)
    assert first_suspect_tick([*rows(17), *rows(9, **MILDER[trouble][1])]) == 26


def test_a_healthy_run_is_not_suspected() -> None:
    assert first_suspect_tick([]) == 0
    assert first_suspect_tick(rows(40)) == 40
    assert first_suspect_tick([*rows(3), HEALTHY | {"loss_g": math.nan}, *rows(3)]) == 3


def test_every_signal_has_its_limit_and_says_what_it_saw() -> None:
    assert LIMITS.keys() == SIGNALS.keys()
    for name, signal in SIGNALS.items():
        assert signal.floor - 1e-3 <= LIMITS[name].value <= LIMITS[name].single
        assert LIMITS[name].spread > 0
        numbers = HEALTHY | scores(20.0) | {"separation": 1.0, "value": 1.0, "times": 3.0}
        assert "{" not in signal.text.format(**numbers)
