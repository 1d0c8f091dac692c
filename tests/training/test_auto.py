"""What a run sets by itself: which way it moves, the same for any number of workers, and exact under resume."""

import math

import pytest
import torch

from ganscale.config import load
from ganscale.training.auto import BOUNDS, FIRST_GAMMA, SPEED, GammaRule, lead, next_gamma
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.schedules import PenaltyWeights, Schedule
from ganscale.training.statistics import Statistics
from tests.fleet import Fleet
from tests.runs import MLP, RING, tiny
from tests.trajectories import assert_same, check_world, continued, load_state

GAMMA = ("penalty.auto=true", "loss.name=relativistic_pairing")
RULE = GammaRule(guessing_loss=2.0, length=1000, target=0.1, every=2)


def statistics(adversarial: float, rows: float) -> Statistics:
    zero = torch.zeros(())
    return Statistics(zero, zero, {}, {"adversarial": torch.tensor(adversarial), "rows": torch.tensor(rows)}, {})


def test_the_lead_is_the_share_of_the_guessing_loss_that_d_has_gained() -> None:
    assert lead(statistics(8.0, 4.0), 2.0) == 0.0
    assert lead(statistics(6.0, 4.0), 2.0) == pytest.approx(0.25)
    assert lead(statistics(0.0, 4.0), 2.0) == 1.0
    assert lead(statistics(12.0, 4.0), 2.0) == pytest.approx(-0.5)


def test_gamma_rises_where_d_leads_and_falls_where_it_does_not() -> None:
    assert next_gamma(3.0, 0.1, 10, RULE) == pytest.approx(3.0)
    assert next_gamma(3.0, 0.2, 10, RULE) == pytest.approx(3.0 * math.exp(SPEED * 0.01))
    assert next_gamma(3.0, 0.05, 10, RULE) == pytest.approx(3.0 * math.exp(-0.5 * SPEED * 0.01))
    assert next_gamma(3.0, 0.05, 5, RULE) == pytest.approx(3.0 * math.exp(-0.5 * SPEED * 0.005))


def test_a_single_batch_moves_gamma_only_so_far() -> None:
    assert next_gamma(3.0, 1.0, 10, RULE) == next_gamma(3.0, 0.9, 10, RULE) == pytest.approx(3.0 * math.exp(1.0))
    assert next_gamma(3.0, -9.0, 10, RULE) == next_gamma(3.0, 0.0, 10, RULE) == pytest.approx(3.0 * math.exp(-0.5))


@pytest.mark.parametrize("ahead", [math.nan, math.inf, -math.inf])
def test_gamma_stays_in_bounds_whatever_the_loss(ahead: float) -> None:
    low, high = BOUNDS
    assert low <= next_gamma(low, ahead, 1000, RULE) <= high
    assert low <= next_gamma(high, ahead, 1000, RULE) <= high


def test_gamma_is_the_weight_of_r1_and_r2() -> None:
    plan = Schedule(load(overrides=[*GAMMA, "penalty.r1_every=4", "penalty.drift=2", "health.penalty_factor=3"]))
    assert plan.penalties(0, gamma=0.5) == PenaltyWeights(r1=2.0, r2=0.5, drift=2.0)
    assert plan.penalties(64, gamma=0.5) == PenaltyWeights(r2=0.5, drift=2.0)
    assert plan.penalties(0, 1, gamma=0.5) == PenaltyWeights(r1=6.0, r2=1.5, drift=6.0)
    assert plan.controls(0, gamma=0.25).penalties[0].r2 == 0.25
    assert plan.controls(0).penalties[0].r2 == FIRST_GAMMA
    given = Schedule(load(overrides=["penalty.r1=3"]))
    assert given.balance is None
    assert given.penalties(0, gamma=0.5) == PenaltyWeights(r1=3.0)


def gammas(*overrides: str) -> list[float]:
    """Gamma after each iteration."""
    experiment = build(tiny(*RING, *GAMMA, "train.images=1200", *overrides))
    return [experiment.state.gamma for _ in train(experiment, intervals={"each": 12}, until=12 * 60)]


def test_gamma_follows_d() -> None:
    strong, weak = gammas("optim.lr_d=1e-2", "optim.lr_g=1e-5"), gammas("optim.lr_d=1e-6")
    assert strong[:3] == weak[:3] == [FIRST_GAMMA] * 3
    assert strong[3] != FIRST_GAMMA
    assert strong[3:6] == strong[3:4] * 3
    assert strong[-1] > 2 * FIRST_GAMMA
    assert weak[-1] < 0.5 * FIRST_GAMMA


AUTO = (*MLP, *GAMMA, "train.images=1200")


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_workers_trains_alike(fleet: Fleet, alone, world_size: int) -> None:
    check_world(fleet, alone, AUTO, world_size)


def test_a_resume_is_exact() -> None:
    straight = continued(AUTO, None, 12)
    stopped = continued(AUTO, None, 6)
    gamma = load_state(stopped)["gamma"]
    assert gamma not in (FIRST_GAMMA, load_state(straight)["gamma"])
    assert_same(load_state(continued(AUTO, stopped, 12)), load_state(straight))
