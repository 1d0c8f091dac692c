"""What a run sets by itself: which way it moves, the same for any number of workers, and exact under resume."""

import math

import pytest
import torch

from ganscale.config import load
from ganscale.health.diversity import spread_sums
from ganscale.training import loop
from ganscale.training.auto import RANGE, SPEED, STRENGTH, GammaRule, least_gamma, measure_lead, next_gamma
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.schedules import PenaltyWeights, Schedule
from ganscale.training.statistics import Statistics
from tests.fleet import Fleet
from tests.runs import MLP, RING, tiny
from tests.trajectories import assert_same, check_world, continued, load_state

GAMMA = ("penalty.auto=true", "loss.name=relativistic_pairing")
RULE = GammaRule(guessing_loss=2.0, length=1000, least=2.0, target=0.1, every=2)


def statistics(adversarial: float, rows: float, **penalties: float) -> Statistics:
    zero = torch.zeros(())
    sums = {"adversarial": torch.tensor(adversarial), "rows": torch.tensor(rows)}
    return Statistics(zero, zero, {name: torch.tensor(value) for name, value in penalties.items()}, sums, {})


def test_the_lead_is_the_share_of_the_guessing_loss_that_d_has_gained() -> None:
    found = [measure_lead(statistics(loss, 4.0, r1=1.0, r2=1.0), 2.0) for loss in (8.0, 6.0, 0.0, 12.0)]
    assert found == pytest.approx([0.0, 0.25, 1.0, -0.5])


def test_the_lead_counts_where_r1_and_r2_are_due() -> None:
    assert measure_lead(statistics(8.0, 4.0, r1=0.5, drift=9.0), 2.0) is None
    assert measure_lead(statistics(8.0, 4.0, r1=0.5, r2=1.5, drift=9.0), 2.0) == 0.0


def test_the_least_gamma_goes_with_the_squared_distance_of_two_examples() -> None:
    points = torch.randn(4096, 2, generator=torch.Generator().manual_seed(0))
    pairs = (points[:2048] - points[2048:]).square().sum(1).mean().item()
    found = least_gamma(spread_sums(points).tolist(), 2)
    assert found == pytest.approx(STRENGTH * pairs, rel=0.1)
    assert least_gamma(spread_sums(3 * points).tolist(), 2) == pytest.approx(9 * found, rel=1e-4)
    images = torch.randn(256, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert least_gamma(spread_sums(images).tolist(), 768) == pytest.approx(STRENGTH * 2 * 768, rel=0.3)
    assert least_gamma(spread_sums(torch.ones(64, 2)).tolist(), 2) > 0


def test_a_run_starts_with_the_least_gamma() -> None:
    experiment = build(tiny(*MLP, *GAMMA))
    rule = experiment.schedule.gamma_rule
    assert rule
    assert experiment.state.gamma == rule.least
    size = math.prod(experiment.sampler.source.shape)
    assert rule.least == least_gamma(experiment.reference, size) != 1.0


def moved(lead: float, images: int = 10) -> float:
    """What gamma is multiplied by."""
    return next_gamma(5.0, lead, images, RULE) / 5.0


def test_gamma_rises_where_d_leads_and_falls_where_it_does_not() -> None:
    assert moved(0.1) == pytest.approx(1.0)
    assert moved(0.2) == pytest.approx(math.exp(SPEED * 0.01))
    assert moved(0.05) == pytest.approx(math.exp(-0.5 * SPEED * 0.01))
    assert moved(0.05, images=5) == pytest.approx(math.exp(-0.5 * SPEED * 0.005))


def test_a_single_batch_moves_gamma_only_so_far() -> None:
    assert moved(1.0) == moved(0.9) == pytest.approx(math.exp(1.0))
    assert moved(-9.0) == moved(0.0) == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("lead", [math.nan, math.inf, -math.inf])
def test_gamma_stays_in_bounds_whatever_the_loss(lead: float) -> None:
    low, high = RULE.least, RANGE * RULE.least
    assert low <= next_gamma(low, lead, 1000, RULE) <= high
    assert low <= next_gamma(high, lead, 1000, RULE) <= high


def test_gamma_is_the_weight_of_r1_and_r2() -> None:
    plan = Schedule(load(overrides=[*GAMMA, "penalty.r1_every=4", "penalty.drift=2", "health.penalty_factor=3"]))
    assert plan.penalties(0, gamma=0.5) == PenaltyWeights(r1=2.0, r2=0.5, drift=2.0)
    assert plan.penalties(64, gamma=0.5) == PenaltyWeights(r2=0.5, drift=2.0)
    assert plan.penalties(0, 1, gamma=0.5) == PenaltyWeights(r1=6.0, r2=1.5, drift=6.0)
    assert plan.controls(0, gamma=0.25).penalties[0].r2 == 0.25
    given = Schedule(load(overrides=["penalty.r1=3"]))
    assert given.gamma_rule is None
    assert given.penalties(0, gamma=0.5) == PenaltyWeights(r1=3.0)


def gammas(share: float, *overrides: str) -> list[float]:
    """Gamma after each iteration, over the least, from `share` on."""
    experiment = build(tiny(*MLP, *GAMMA, "train.images=1200", *overrides))
    least = experiment.state.gamma
    experiment.state.gamma *= share
    return [experiment.state.gamma / least for _ in train(experiment, intervals={"each": 12}, until=12 * 60)]


def test_gamma_follows_d() -> None:
    strong, weak = gammas(1.0, "optim.lr_d=1e-2", "optim.lr_g=1e-5"), gammas(RANGE, "optim.lr_d=1e-6")
    assert strong[-1] > 9.0
    assert weak[-1] == 1.0
    changed = [index for index in range(1, 60) if strong[index] != strong[index - 1]]
    assert changed
    assert all(index % 4 == 0 for index in changed), "every fourth iteration"


@pytest.mark.parametrize(
    ("overrides", "every"),
    [
        ((), 4),
        (("penalty.r1_every=16",), 16),
        (("penalty.r1_every=6", "penalty.r2_every=4"), 12),
        (("penalty.r1_every=16", "optim.d_steps=2"), 8),
        (("penalty.r1_every=3", "penalty.r2_every=2", "optim.d_steps=3"), 4),
    ],
)
def test_gamma_moves_by_the_images_since_it_last_could(
    monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], every: int
) -> None:
    moves: list[int] = []

    def follow(gamma: float, lead: float, images: int, rule: GammaRule) -> float:
        moves.append(images)
        return next_gamma(gamma, lead, images, rule)

    monkeypatch.setattr(loop, "next_gamma", follow)
    experiment = build(tiny(*RING, *GAMMA, "train.images=4800", *overrides))
    size = experiment.sampler.images_per_iteration
    for _ in train(experiment, intervals={}, until=size * 48):
        pass
    assert moves == [every * size] * (48 // every)


AUTO = (*MLP, *GAMMA, "train.images=9600", "optim.lr_d=1e-2")


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_workers_trains_alike(fleet: Fleet, alone, world_size: int) -> None:
    check_world(fleet, alone, AUTO, world_size)


@pytest.mark.parametrize(
    ("lazy", "stop", "end"), [((), 6, 13), (("penalty.r1_every=3",), 14, 26)], ids=["plain", "lazy"]
)
def test_a_resume_is_exact(lazy: tuple[str, ...], stop: int, end: int) -> None:
    straight = continued((*AUTO, *lazy), None, end)
    stopped = continued((*AUTO, *lazy), None, stop)
    first = build(tiny(*AUTO, *lazy)).state.gamma
    assert load_state(stopped)["gamma"] not in (first, load_state(straight)["gamma"])
    assert_same(load_state(continued((*AUTO, *lazy), stopped, end)), load_state(straight))
