"""Curves, their ends, and what of them reaches the update."""

import math

import pytest
import torch

from ganscale.config import dump, load
from ganscale.config.objective import Scheduled
from ganscale.config.schedules import average_warning, early_weight, value
from ganscale.training.build import build
from ganscale.training.ema import MovingAverage
from ganscale.training.loop import train
from ganscale.training.schedules import PenaltyWeights, Schedule, rate_scale
from tests.runs import MLP, tiny

CURVES = {
    "linear": lambda t: 8.0 + (2.0 - 8.0) * t,
    "cosine": lambda t: 2.0 + (8.0 - 2.0) * (1.0 + math.cos(math.pi * t)) / 2.0,
    "exponential": lambda t: 8.0 * (2.0 / 8.0) ** t,
}


@pytest.mark.parametrize("curve", CURVES)
def test_a_curve_from_begin_to_end(curve) -> None:
    setting = Scheduled(start=8.0, end=2.0, begin=100, over=400, curve=curve)
    for images in (0, 50, 100):
        assert value(setting, images) == 8.0
    for images in (500, 501, 10**12):
        assert value(setting, images) == pytest.approx(2.0, rel=1e-15)
    for images in (101, 200, 300, 417, 499):
        assert value(setting, images) == pytest.approx(CURVES[curve]((images - 100) / 400), rel=1e-12)


def test_halfway() -> None:
    at = {curve: value(Scheduled(start=8.0, end=2.0, over=10, curve=curve), 5) for curve in CURVES}  # pyright: ignore
    assert at == {"linear": 5.0, "cosine": pytest.approx(5.0), "exponential": pytest.approx(4.0)}


def test_a_number_is_constant() -> None:
    assert [value(0.3, images) for images in (0, 10**9)] == [0.3, 0.3]


def test_a_schedule_may_rise_from_zero() -> None:
    assert value(Scheduled(start=0.0, end=1.0, over=4), 1) == 0.25


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0, 7.0])
def test_rates_fall_on_after_a_roll_back(share: float) -> None:
    assert rate_scale(0.1, 0, share) == 1.0
    assert rate_scale(0.1, 2, share) == pytest.approx(0.01 * 10 ** -min(share, 1.0))


SETTINGS = (
    "train.batch_size=10",
    "optim.d_steps=2",
    "optim.lr_g={start: 1e-3, end: 0.0005, over: 100}",
    "optim.lr_d=3e-4",
    "optim.betas_g=[0.1, 0.8]",
    "penalty.gp={start: 10, end: 0, over: 100}",
    "penalty.gp_every=4",
    "penalty.r1=2",
    "penalty.drift={start: 1, end: 3, begin: 20, over: 20}",
    "augment.noise={start: 1, end: 0, over: 50}",
)


def test_the_plan_of_a_run() -> None:
    plan = Schedule(load(overrides=SETTINGS))
    start, later = plan.controls(0), plan.controls(40)
    assert (start.lr_g, start.lr_d, start.noise) == (1e-3, 3e-4, 1.0)
    assert (later.lr_g, later.lr_d, later.noise) == pytest.approx((8e-4, 3e-4, 0.2))
    assert (start.betas_g, start.betas_d) == ((0.1, 0.8), (0.5, 0.999))
    assert plan.penalties(0) == PenaltyWeights(gp=40.0, r1=2.0, drift=1.0)
    for images in (10, 20, 30):
        assert plan.penalties(images).gp == 0.0, "due every fourth batch of 10"
    assert plan.penalties(10) == PenaltyWeights(gp=0.0, r1=2.0, drift=1.0)
    assert plan.penalties(40).gp == pytest.approx(24.0)
    assert plan.penalties(40).drift == 3.0
    assert plan.penalties(200).gp == 0.0


def test_roll_backs_lower_rates_and_raise_penalties() -> None:
    settings = ("train.images=64000", "health.rate_factor=0.5", "health.penalty_factor=3")
    plan = Schedule(load(overrides=[*SETTINGS, *settings]))
    calm = plan.controls(40, 2)
    done = 0.5 ** (40 / 64_000)
    assert (calm.lr_g, calm.lr_d, calm.noise) == pytest.approx((2e-4 * done, 7.5e-5 * done, 0.2))
    assert plan.penalties(0, 2) == PenaltyWeights(gp=360.0, r1=18.0, drift=9.0)
    assert plan.penalties(10, 2).gp == 0.0
    assert (plan.controls(40, 0), plan.penalties(40, 0)) == (plan.controls(40), plan.penalties(40))


def test_beta2_goes_above_both_networks_betas() -> None:
    plan = Schedule(load(overrides=[*SETTINGS, "optim.beta2={start: 0.9, end: 0.99, over: 10}"]))
    assert (plan.controls(0).betas_g, plan.controls(0).betas_d) == ((0.1, 0.9), (0.5, 0.9))
    assert plan.controls(99).betas_d == (0.5, 0.99)


def test_half_life_ramps_up_with_the_run() -> None:
    plan = Schedule(load(overrides=["ema.half_life=1000", "ema.rampup=0.05"]))
    assert [plan.half_life(images) for images in (0, 100, 20_000, 10**6)] == [0.0, 5.0, 1000.0, 1000.0]
    assert Schedule(load(overrides=["ema.half_life=1000", "ema.rampup=0"])).half_life(0) == 1000.0


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (("ema.half_life=30_000", "ema.rampup=0"), 0.5 ** (51_200 / 30_000)),
        (("ema.half_life=1e12", "ema.rampup=0.2"), 0.2 ** (math.log(2) / 0.2)),
        (("ema.half_life=6400", "ema.rampup=0.2"), 0.5 ** (math.log(2.5) / 0.2 + 32_000 / 6400)),
        (("ema.half_life={start: 0, end: 1, over: 9}",), 0.0),
        (("ema.half_life=0",), 0.0),
    ],
)
def test_the_weight_of_a_runs_first_fifth(settings: tuple[str, ...], expected: float) -> None:
    config = load(overrides=["train.images=64_000", *settings])
    assert early_weight(config) == pytest.approx(expected, rel=1e-3, abs=1e-9)


def test_the_first_fifth_has_that_weight_in_the_average() -> None:
    config = load(overrides=["train.images=1000", "ema.half_life=400", "ema.rampup=0.5"])
    schedule, source = Schedule(config), torch.nn.Linear(1, 1, bias=False)
    average = MovingAverage(source, 0.0)
    for images in range(1, 1001):
        source.weight.data.fill_(float(images <= 200))
        average.update(1, schedule.half_life(images))
    assert average.module.weight.item() == pytest.approx(early_weight(config), rel=0.01)  # pyright: ignore


@pytest.mark.parametrize(
    ("settings", "warns"),
    [
        (("train.images=64_000", "ema.rampup=0"), True),
        (("train.images=160_000", "ema.rampup=0"), True),
        (("train.images=64_000", "ema.rampup=0.2"), True),
        (("train.images=640_000", "ema.rampup=0"), False),
        (("train.images=640_000", "ema.rampup=0", "ema.half_life={start: 0, end: 2e6, over: 100}"), True),
        (("train.images=64_000",), False),
        (("train.images=1",), False),
    ],
)
def test_a_run_too_short_for_its_average_is_warned_of(settings: tuple[str, ...], warns: bool) -> None:
    config = load(overrides=settings)
    warning = average_warning(config)
    assert bool(warning) == warns
    for part in ("ema.half_life", f"train.images = {config.train.images:,}", "ema.rampup=0.05") if warns else ():
        assert part in warning


def test_the_schedules_reach_optimizers_and_average() -> None:
    rates = (
        "optim.lr_g={start: 1e-3, end: 2e-3, over: 48}",
        "optim.lr_d=7e-4",
        "optim.beta2={start: 0, end: 0.5, over: 48}",
    )
    experiment = build(tiny(*MLP, *rates, "ema.half_life={start: 0, end: 50, over: 24}"))
    state, seen = experiment.state, []
    for _ in train(experiment, intervals={"each": 12}, until=60):
        groups = [optimizer.param_groups[0] for optimizer in (state.optimizer_g, state.optimizer_d)]
        seen.append([(group["lr"], group["betas"][1]) for group in groups])
    at = [min(1.0, i / 4) for i in range(5)]  # each iteration takes the values of the images before it
    assert seen == [[(pytest.approx(1e-3 * (1 + t)), 0.5 * t), (7e-4, 0.5 * t)] for t in at]
    averaged, trained = (next(iter(net.parameters())) for net in (state.ema.module, state.generator))
    assert not averaged.equal(trained)


@pytest.mark.parametrize(
    "text",
    [
        "{start: 2e-4, end: 1e-5, over: 1_000_000}",
        "{start: 2e-4, end: 1e-5, over: 1e6, begin: 5, curve: cosine}",
        "{start: 2e-4, end: 1e-5, over: 1, curve: exponential}",
    ],
)
@pytest.mark.parametrize("key", ["optim.lr_g", "optim.beta2", "penalty.r1", "augment.noise", "ema.half_life"])
def test_a_schedule_survives_dump_and_load(key: str, text: str, tmp_path) -> None:
    config = load(overrides=[f"{key}={text}"])
    section, name = key.split(".")
    assert isinstance(getattr(getattr(config, section), name), Scheduled)
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config
    assert load(path, [f"{key}.over=7"]) != config
