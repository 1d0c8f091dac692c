"""Decisions of the schedulers for given scores."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
from ray.tune.schedulers import TrialScheduler

from ganscale.config import ConfigError
from ganscale.sweep.plan import SweepPlan, make_plan
from ganscale.sweep.schedulers import make_scheduler
from ganscale.sweep.trainable import IMAGES, SCORE
from tests.sweep.sweeps import RING, ring_plan, sweep

ENDS = (320, 640, 960, 1280)
"""Images at which the trials are evaluated."""


def scheduler(plan: SweepPlan) -> TrialScheduler:
    made = make_scheduler(plan.sweep.sweep, plan.space, images=ENDS[-1], every=ENDS[0])
    made.set_search_properties(SCORE, "max")
    return made


ALONE: Any = SimpleNamespace(get_live_trials=list)
"""A controller with no other trial."""


class FakeTrial:
    """The attributes of a trial that schedulers read."""

    def __init__(self, number: int) -> None:
        self.trial_id, self.config = f"{number:04d}", {"index": number}


def trial(number: int) -> Any:
    return FakeTrial(number)


def reached(made: TrialScheduler, scores: list[float], first: int = 0) -> dict[int, int]:
    """Images that each trial gets, one after another; a trial has the same score all the time."""
    images_by_trial, result = {}, {}
    for number, score in enumerate(scores, first):
        one = trial(number)
        made.on_trial_add(ALONE, one)
        for images in ENDS:
            images_by_trial[number] = images
            result = {SCORE: score, IMAGES: images, "training_iteration": 1}
            if made.on_trial_result(ALONE, one, result) == TrialScheduler.STOP:
                break
        else:
            made.on_trial_complete(ALONE, one, result)
    return images_by_trial


def test_none_stops_no_trial(tmp_path: Path) -> None:
    assert set(reached(scheduler(ring_plan(tmp_path)), [3.0, 1.0, 2.0, 0.0]).values()) == {1280}


def test_halving_stops_what_is_in_the_worse_half_at_a_rung(tmp_path: Path) -> None:
    plan = ring_plan(tmp_path, scheduler="asha", reduction=2.0)
    assert reached(scheduler(plan), [5.0, 1.0, 4.0, 6.0]) == {0: 1280, 1: 320, 2: 640, 3: 1280}


def test_grace_is_the_first_rung(tmp_path: Path) -> None:
    plan = ring_plan(tmp_path, scheduler="asha", reduction=2.0, grace=640)
    assert reached(scheduler(plan), [5.0, 1.0, 4.0, 2.0]) == {0: 1280, 1: 640, 2: 1280, 3: 640}


def brackets(plan: SweepPlan, numbers: list[int]) -> dict[int, int]:
    """The first rung of each trial, as a poor one shows it."""
    made = scheduler(plan)
    for image in ENDS:  # a good trial in each bracket
        made._brackets[min(2, ENDS.index(image))].on_result(trial(9999), image, 1e9)  # pyright: ignore
    return {number: reached(made, [-float(place)], number)[number] for place, number in enumerate(numbers)}


def test_brackets_differ_in_when_they_begin_to_stop(tmp_path: Path) -> None:
    plan = ring_plan(tmp_path, scheduler="asha", reduction=2.0, brackets=3)
    first = brackets(plan, list(range(200)))
    counts = Counter(first.values())
    assert set(counts) == {320, 640, 1280}
    assert counts[320] > counts[640] > counts[1280] > 5, "most trials are in the cheapest bracket"


def test_a_trial_keeps_its_bracket_whatever_came_before(tmp_path: Path) -> None:
    """A resumed sweep reports the same trials again."""
    plan = ring_plan(tmp_path, scheduler="asha", reduction=2.0, brackets=3)
    whole = brackets(plan, list(range(30)))
    numpy.random.seed(3)
    state = numpy.random.get_state()[1].copy()  # pyright: ignore
    assert brackets(plan, list(range(29, -1, -1))) == whole
    assert (numpy.random.get_state()[1] == state).all(), "numpy's global generator is untouched"  # pyright: ignore
    other = ring_plan(tmp_path, scheduler="asha", reduction=2.0, brackets=3, seed=1)
    assert brackets(other, list(range(30))) != whole


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"scheduler": "asha", "grace": 1281}, "sweep.grace"),
        ({"scheduler": "asha", "brackets": 4, "reduction": 2.0}, "sweep.brackets"),
        ({"scheduler": "median", "brackets": 2}, "sweep.brackets"),
    ],
)
def test_rungs_that_cannot_be_are_refused(tmp_path: Path, settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ring_plan(tmp_path, **settings)
    assert caught.value.key == key
    assert caught.value.remedy


@pytest.mark.parametrize("settings", [{"grace": 1280}, {"brackets": 3, "reduction": 2.0}])
def test_the_last_that_can_be_are_taken(tmp_path: Path, settings: dict[str, Any]) -> None:
    ring_plan(tmp_path, scheduler="asha", **settings)


def test_the_median_stops_what_is_below_it(tmp_path: Path) -> None:
    plan = ring_plan(tmp_path, scheduler="median")
    made = scheduler(plan)
    images = reached(made, [1.0, 2.0, 3.0, 0.5, 9.0])
    assert images[3] < 1280
    assert images[4] == 1280


LOSS = {"loss.name": "relativistic_pairing"}
MIXED: dict[str, tuple[dict[str, Any], str]] = {
    "bound": ({"penalty.centering": {"uniform": [0.0, 0.1]}}, "penalty.centering"),
    "option": ({"penalty.lecam": {"choice": [0.0, 0.1]}}, "penalty.lecam"),
    "bundle": ({"hold": {"choice": {"no": {"penalty.r1": 1.0}, "yes": {"penalty.drift": 0.1}}}}, "hold"),
    "second": (
        {"penalty.centering": {"choice": [0.1, 0.0]}, "penalty.drift": {"choice": [0.0, 0.2]}},
        "penalty.centering",
    ),
}
ALIKE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "positive": ({"penalty.centering": {"loguniform": [0.01, 0.1]}}, LOSS),
    "another one holds": ({"penalty.centering": {"uniform": [0.0, 0.1]}}, {**LOSS, "penalty.drift": 0.001}),
    "one or the other": (
        {"hold": {"choice": {"one": {"penalty.lecam": 0.1}, "other": {"penalty.drift": 0.1}}}},
        LOSS,
    ),
    "another loss": ({"penalty.drift": {"uniform": [0.0, 0.1]}}, {"loss.name": "hinge"}),
}


def plan(draws: dict[str, Any], run: dict[str, Any], scheduler: str = "pbt") -> SweepPlan:
    given = {**RING, "loss.label_smoothing": 0.0, **run}
    return make_plan(sweep(draws, run=given, name="try", scheduler=scheduler, metrics=["modes"]), {})


@pytest.mark.parametrize(("draws", "name"), MIXED.values(), ids=MIXED)
def test_a_population_has_a_bias_of_ds_logits_in_all_trials_or_in_none(draws: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(draws, LOSS)
    assert caught.value.key == f"space.{name}"
    assert caught.value.remedy
    plan(draws, LOSS, "none")


@pytest.mark.parametrize(("draws", "run"), ALIKE.values(), ids=ALIKE)
def test_penalties_that_leave_d_its_bias_may_change(draws: dict[str, Any], run: dict[str, Any]) -> None:
    plan(draws, run)
