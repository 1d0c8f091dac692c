"""Configurations are functions of seed and number, follow their distributions, and are valid runs."""

import math
from collections import Counter

import pytest

from ganscale.config import ConfigError
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.sampler import OptunaSampler, Sampler, audited_seeds, uniform
from ganscale.sweep.space import Space
from tests.sweep.sweeps import space, sweep


def sampler(draws: dict, **settings) -> Sampler:
    whole = sweep(draws, **settings)
    return Sampler(whole, Space(whole, {}))


DRAWS = {
    "optim.lr_g": {"loguniform": [1e-5, 1e-1]},
    "optim.betas_g.0": {"uniform": [0.1, 0.7]},
    "optim.d_steps": {"randint": [1, 5]},
    "model.latent_dim": {"choice": [8, 16]},
}


def test_a_configuration_is_a_function_of_seed_and_number() -> None:
    one, other = sampler(DRAWS, seed=3), sampler(DRAWS, seed=3, num_configs=50)
    assert [one[i] for i in range(5)] == [other[i] for i in range(5)]
    assert one[0] != one[1]
    assert sampler(DRAWS, seed=4)[0] != one[0]


def test_draws_follow_their_distributions() -> None:
    drawn = [sampler(DRAWS, num_configs=2000)[i] for i in range(2000)]
    logs = [math.log10(row["optim.lr_g"]) for row in drawn]
    assert -5 <= min(logs) < -4.95
    assert -1.05 < max(logs) <= -1
    assert abs(sum(logs) / 2000 + 3) < 0.1  # the standard error is 0.026
    uniforms = [row["optim.betas_g.0"] for row in drawn]
    assert abs(sum(uniforms) / 2000 - 0.4) < 0.016
    assert set(Counter(row["optim.d_steps"] for row in drawn)) == {1, 2, 3, 4, 5}
    assert abs(Counter(row["model.latent_dim"] for row in drawn)[8] - 1000) < 100


def test_streams_are_independent() -> None:
    pairs = [(uniform(0, "a", i), uniform(0, "b", i)) for i in range(2000)]
    mean_a, mean_b = (sum(p[k] for p in pairs) / 2000 for k in (0, 1))
    covariance = sum((a - mean_a) * (b - mean_b) for a, b in pairs) / 2000
    assert abs(covariance * 12) < 0.1


def test_every_draw_meets_the_whole_grid_at_the_same_values() -> None:
    draws = {"loss.label_smoothing": {"grid": [0.0, 0.1, 0.2]}, "optim.lr_g": {"loguniform": [1e-5, 1e-2]}}
    found = sampler(draws, num_configs=4)
    assert len(found) == 12
    for draw in range(4):
        rows = [found[3 * draw + cell] for cell in range(3)]
        assert [row["loss.label_smoothing"] for row in rows] == [0.0, 0.1, 0.2]
        assert len({row["optim.lr_g"] for row in rows}) == 1
    assert len({found[3 * draw]["optim.lr_g"] for draw in range(4)}) == 4


def test_a_grid_has_each_combination_once() -> None:
    draws = {
        "loss.name": {"choice": ["non_saturating", "minimax"]},
        "loss.label_smoothing": {"choice": [0.0, 0.1]},
        "loss.fake_label_smoothing": {"grid": [0.0, 0.1], "when": {"loss.name": "minimax"}},
    }
    found = sampler(draws, search="grid")
    rows = [repr(sorted(found[i].items())) for i in range(len(found))]
    assert len(rows) == len(set(rows)) == 2 + 4


def test_a_range_has_no_grid() -> None:
    with pytest.raises(ConfigError) as caught:
        sampler({"optim.lr_g": {"uniform": [0.1, 0.2]}}, search="grid")
    assert caught.value.key == "space.optim.lr_g"


def test_contradictions_are_redrawn() -> None:
    """Batches of 12 cannot be packed by 8: only 4 fits."""
    draws = {"train.batch_size": {"choice": [12, 16]}, "model.packing": {"choice": [4, 8]}}
    found = sampler(draws, num_configs=60)
    pairs = {(found[i]["train.batch_size"], found[i]["model.packing"]) for i in range(60)}
    assert pairs == {(12, 4), (16, 4), (16, 8)}


def test_nothing_but_contradictions_is_an_error_that_names_them() -> None:
    found = sampler({"train.batch_size": {"choice": [12]}, "model.packing": {"choice": [8]}})
    with pytest.raises(ConfigError, match=r"train\.batch_size = 12"):
        _ = found[0]


def test_what_does_not_apply_is_not_drawn() -> None:
    draws = {
        "loss.name": {"choice": ["minimax", "non_saturating"]},
        "loss.fake_label_smoothing": {"uniform": [0.0, 0.4], "when": {"loss.name": "minimax"}},
    }
    found = sampler(draws, num_configs=30)
    for i in range(30):
        assert ("loss.fake_label_smoothing" in found[i]) == (found[i]["loss.name"] == "minimax")


OPTUNA = {
    "optim.lr_g": {"loguniform": [1e-5, 1e-1]},
    "loss.name": {"choice": ["minimax", "non_saturating"]},
    "optim.betas_g": {"choice": [[0.0, 0.9], [0.5, 0.999]]},
    "loss.fake_label_smoothing": {"uniform": [0.0, 0.4], "when": {"loss.name": "minimax"}},
    "optim.d_steps": {"randint": [1, 3]},
}


def value(drawn: dict) -> float:
    """Best at a rate of 1e-2 with the first betas."""
    return -abs(math.log10(drawn["optim.lr_g"]) + 2) - (drawn["optim.betas_g"] != [0.0, 0.9])


def run(optuna: OptunaSampler, numbers: range) -> list[dict]:
    found = []
    for number in numbers:
        found.append(optuna.ask(number))
        optuna.tell(number, found[-1], [value(found[-1])])
    return found


def test_optuna_improves() -> None:
    found = run(OptunaSampler(space(OPTUNA), seed=0, num_objectives=1), range(60))
    early, late = (sum(map(value, part)) / 15 for part in (found[:15], found[-15:]))
    assert late > early + 0.5


def test_proposals_lie_in_the_space() -> None:
    whole = space(OPTUNA)
    for drawn in run(OptunaSampler(whole, seed=1, num_objectives=1), range(20)):
        whole.config(drawn)
        assert ("loss.fake_label_smoothing" in drawn) == (drawn["loss.name"] == "minimax")
        assert drawn["optim.d_steps"] in (1, 2, 3)


def test_another_command_resumes_with_the_same_proposals() -> None:
    whole = OptunaSampler(space(OPTUNA), seed=2, num_objectives=1)
    found = run(whole, range(20))
    resumed = OptunaSampler(space(OPTUNA), seed=2, num_objectives=1)
    for number in range(14):
        resumed.tell(number, found[number], [value(found[number])])
    assert run(resumed, range(14, 20)) == found[14:]


def test_optuna_replaces_contradictions() -> None:
    draws = {"train.batch_size": {"choice": [12, 16]}, "model.packing": {"choice": [4, 8]}}
    optuna = OptunaSampler(space(draws), seed=0, num_objectives=1)
    pairs = set()
    for number in range(15):
        drawn = optuna.ask(number)
        optuna.tell(number, drawn, [0.0])
        pairs.add((drawn["train.batch_size"], drawn["model.packing"]))
    assert (12, 8) not in pairs
    assert len(pairs) > 1


def test_several_objectives() -> None:
    optuna = OptunaSampler(space(OPTUNA), seed=0, num_objectives=2)
    for number in range(12):
        drawn = optuna.ask(number)
        optuna.tell(number, drawn, [value(drawn), -value(drawn)])


def test_audited_seeds_are_a_random_share_that_only_grows() -> None:
    few, many = (
        {(number, seed) for number in range(1000) for seed in audited_seeds(settings, number, (5, 6, 7))}
        for settings in (SweepSettings(), SweepSettings(audit_share=0.3))
    )
    assert 240 < len(few) < 360, "0.1 of 3000, within 3.6 standard deviations"
    assert few < many
    assert {seed for _, seed in few} == {5, 6, 7}
    assert few != {(n, s) for n in range(1000) for s in audited_seeds(SweepSettings(seed=1), n, (5, 6, 7))}
    assert audited_seeds(SweepSettings(audit_share=0.0), 0, range(99)) == ()
    assert len(audited_seeds(SweepSettings(audit_share=1.0), 0, range(99))) == 99
