"""Configurations are functions of seed and number, spread as asked, and always valid runs."""

import math
from collections import Counter

import pytest

from ganscale.config import ConfigError
from ganscale.sweep.sampler import Sampler, uniform
from ganscale.sweep.space import Space
from tests.sweep.sweeps import sweep


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


def test_draws_are_spread_as_asked() -> None:
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


def test_contradictions_are_drawn_again() -> None:
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
