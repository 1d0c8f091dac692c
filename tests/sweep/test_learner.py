"""Optuna's search: it learns, remembers what earlier commands found, and keeps to the space."""

import pytest

from ganscale.sweep.optuna_sampler import OptunaSampler
from tests.sweep.sweeps import space

pytest.importorskip("optuna")

DRAWS = {
    "optim.lr_g": {"loguniform": [1e-5, 1e-1]},
    "loss.name": {"choice": ["minimax", "non_saturating"]},
    "optim.betas_g": {"choice": [[0.0, 0.9], [0.5, 0.999]]},
    "loss.fake_label_smoothing": {"uniform": [0.0, 0.4], "when": {"loss.name": "minimax"}},
    "optim.d_steps": {"randint": [1, 3]},
}


def value(drawn: dict) -> float:
    """Best at a rate of 1e-2 with the first betas."""
    import math

    return -abs(math.log10(drawn["optim.lr_g"]) + 2) - (drawn["optim.betas_g"] != [0.0, 0.9])


def run(learner: OptunaSampler, numbers: range) -> list[dict]:
    found = []
    for number in numbers:
        found.append(learner.ask(number))
        learner.tell(number, found[-1], [value(found[-1])])
    return found


def test_it_learns() -> None:
    found = run(OptunaSampler(space(DRAWS), seed=0, num_objectives=1), range(60))
    early, late = (sum(map(value, part)) / 15 for part in (found[:15], found[-15:]))
    assert late > early + 0.5


def test_proposals_keep_to_the_space() -> None:
    whole = space(DRAWS)
    for drawn in run(OptunaSampler(whole, seed=1, num_objectives=1), range(20)):
        whole.config(drawn)
        assert ("loss.fake_label_smoothing" in drawn) == (drawn["loss.name"] == "minimax")
        assert drawn["optim.d_steps"] in (1, 2, 3)


def test_another_command_goes_on_with_the_same_proposals() -> None:
    whole = OptunaSampler(space(DRAWS), seed=2, num_objectives=1)
    found = run(whole, range(20))
    again = OptunaSampler(space(DRAWS), seed=2, num_objectives=1)
    for number in range(14):
        again.tell(number, found[number], [value(found[number])])
    assert run(again, range(14, 20)) == found[14:]


def test_contradictions_are_asked_again() -> None:
    draws = {"train.batch_size": {"choice": [12, 16]}, "model.packing": {"choice": [4, 8]}}
    learner = OptunaSampler(space(draws), seed=0, num_objectives=1)
    pairs = set()
    for number in range(15):
        drawn = learner.ask(number)
        learner.tell(number, drawn, [0.0])
        pairs.add((drawn["train.batch_size"], drawn["model.packing"]))
    assert (12, 8) not in pairs
    assert len(pairs) > 1


def test_several_objectives() -> None:
    learner = OptunaSampler(space(DRAWS), seed=0, num_objectives=2)
    for number in range(12):
        drawn = learner.ask(number)
        learner.tell(number, drawn, [value(drawn), -value(drawn)])
