"""A sweep's results in the report."""

import json
from pathlib import Path

import pytest

from ganscale.config import ConfigError
from ganscale.report.charts import charts
from ganscale.report.sweep import read_sweep, shares, trial_runs
from ganscale.report.sweep_tables import section
from tests.report.folders import seed, sweep, trial

TRIALS = [
    trial(
        0,
        {"lr": 0.1, "loss": "hinge"},
        [seed(0, modes=5.0), seed(1, modes=7.0), seed(2, "collapse: <stuck>", modes=1.0)],
    ),
    trial(1, {"lr": 0.2, "loss": "hinge"}, [seed(0, modes=5.0)] * 3),
    trial(2, {"lr": 0.3, "loss": "minimax", "depth": 2}, [seed(0, modes=None)] * 3),
    trial(3, {"lr": 0.4, "loss": "minimax"}, [seed(0, "x", modes=1.0)] * 3, status="stopped"),
]


RATES = {
    "lr": [{"value": "0.1 to 0.2", "successes": 5, "runs": 6, "configs": 2, "interval": [0.25, 0.99], "share": 0.8}],
    "loss": [
        {"value": "<hinge>", "successes": 3, "runs": 6, "configs": 2, "interval": [0.1, 0.9]},
        {"value": "minimax", "successes": 0, "runs": 0, "configs": 0, "interval": [0.0, 1.0]},
        {"value": "damaged"},
    ],
}


def test_success_is_shown_as_the_sweep_counted_it(tmp_path: Path) -> None:
    record = read_sweep(sweep(tmp_path / "s", TRIALS, success_by_setting=RATES))
    assert [(s.setting, s.value, s.trials, s.good, s.seeds, s.interval) for s in shares(record)] == [
        ("lr", "0.1 to 0.2", 2, 5, 6, (0.25, 0.99)),
        ("loss", "<hinge>", 2, 3, 6, (0.1, 0.9)),
    ]
    text = section(record)
    assert "<td>83% (25% to 99%)</td>" in text
    assert "&lt;hinge&gt;" in text
    assert "did not fail" in text


def test_values_of_a_grid_are_compared(tmp_path: Path) -> None:
    pairs = [
        {"better": "<a>", "worse": "b", "share": 0.25, "interval": [-0.1, 0.6], "draws": 8},
        {"better": "a", "worse": "c", "share": 1.0, "interval": None, "draws": 7},
        {"better": "damaged"},
    ]
    text = section(read_sweep(sweep(tmp_path / "s", TRIALS, differences={"loss": pairs})))
    assert "<td>&lt;a&gt;</td><td>b</td><td>+25%</td><td>-10% to +60%</td><td>8</td>" in text
    assert "<td>+100%</td><td>all alike</td><td>7</td>" in text
    assert "damaged" not in text


def test_with_a_threshold_success_is_to_reach_it(tmp_path: Path) -> None:
    reached = [{**one, "successes": 1, "rate_interval": [0.06, 0.79]} for one in TRIALS]
    record = read_sweep(sweep(tmp_path / "s", reached, success_by_setting=RATES))
    assert "1/3 (6% to 79%)" in section(record)
    assert "reached the threshold" in section(record)


def test_trials_become_curves_of_means_over_sound_seeds(tmp_path: Path) -> None:
    runs = trial_runs(read_sweep(sweep(tmp_path / "s", TRIALS)))
    assert [run.name for run in runs] == ["trial 0000", "trial 0001", "trial 0002", "trial 0003"]
    assert runs[0].rows == [{"images": 10, "modes": 6.0}, {"images": 20, "modes": 6.0}]
    (chart,) = charts(runs)
    assert [curve.run for curve in chart.curves] == [0, 1]


def test_the_section_names_winner_quality_and_importance(tmp_path: Path) -> None:
    confirmed = {"means": {"modes": 6.5}, "bounds": {"modes": 4.25}, "failures": 1, "successes": 4}
    confirmed |= {"rate_interval": [0.38, 0.96], "seeds": [{}] * 5}
    importance = [{"name": "lr<", "explained": 0.75, "by_chance": 0.5, "p": 0.01}]
    text = section(read_sweep(sweep(tmp_path / "s", TRIALS, confirmed=confirmed, importance=importance)))
    assert "trial 0000, on 5 fresh seeds (this is its quality): modes 6.5 (bound 4.25), 4 of 5 succeeded" in text
    assert "(38% to 96%), 1 failed." in text
    assert text.count('class="best"') == 1
    assert "lr&lt;" in text
    assert "more than chance" in text
    assert "5 (–)" in text


@pytest.mark.parametrize("content", ["{", "[]", '{"trials": 3}', '"x"'])
def test_damaged_results_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError, match="run the sweep's command again"):
        read_sweep(tmp_path)


def test_results_with_little_in_them_are_still_shown(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"trials": [{"trial": 3}, {}, 5]}))
    record = read_sweep(tmp_path)
    assert record.name == tmp_path.name
    assert "trial 0003" in section(record)
    assert shares(record) == []
    assert [run.rows for run in trial_runs(record)] == [[], []]
