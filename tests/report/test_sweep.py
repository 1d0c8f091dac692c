"""A sweep's results in the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganscale.config import ConfigError
from ganscale.report.__main__ import main
from ganscale.report.charts import charts
from ganscale.report.page import render
from ganscale.report.sweep import read_sweep, trial_runs
from ganscale.tracking.images import write_png
from tests.report.folders import Page, run, seed, sweep, trial

FAILED = seed(2, "collapse: <stuck>", modes=1.0)
TRIALS = [
    trial(0, {"lr": 0.1, "loss": "<hinge>"}, [seed(0, modes=5.0), seed(1, modes=7.0), FAILED]),
    trial(1, {"lr": 0.2, "loss": "hinge"}, [seed(0, modes=5.0)] * 3),
    trial(2, {"lr": 0.3, "loss": "minimax", "depth": 2}, [seed(0, modes=None)] * 3),
    trial(3, {"lr": 0.4, "loss": "minimax"}, [seed(0, "x", modes=1.0)] * 3, status="stopped"),
]
RATE = {"value": "<hinge>", "successes": 5, "runs": 6, "configs": 2, "interval": [0.25, 0.99], "share": 0.8}
PAIR = {"better": "<a>", "worse": "b", "share": 0.25, "interval": [-0.1, 0.6], "draws": 8}


def page_of(folder: Path, trials: list[dict[str, Any]] = TRIALS, **facts: Any) -> Page:
    return Page(render([], [read_sweep(sweep(folder, trials, **facts))]))


def test_trials_rates_pairs_and_importance_are_rows(tmp_path: Path) -> None:
    pairs = [PAIR, {**PAIR, "share": 1.0, "interval": None}]
    importance = [{"name": "lr<", "explained": 0.75, "by_chance": 0.5, "p": 0.01}]
    rates = {"loss": [RATE, {**RATE, "runs": 0}]}
    page = page_of(tmp_path / "s", success_by_setting=rates, differences={"x": pairs}, importance=importance)
    assert page.row("trial 0000") == [
        *("5 (no bound)", "2/3", "0.1", "<hinge>", "–", "20"),
        "complete; 1 failed: collapse: <stuck>",
    ]
    assert [row[0] for row in page.rows if "best" in row[0]] == ["trial 0000 best"]
    assert [row[1:] for row in page.rows if row[0] == "loss"] == [["<hinge>", "83% (25% to 99%)", "5/6", "2"]]
    found = [row[1:] for row in page.rows if row[0] == "x"]
    assert found[0] == ["<a>", "b", "+25%", "-10% to +60%", "8"]
    assert found[1][2] == "+100%"
    assert page.row("lr<")[:3] == ["75%", "50%", "0.010"]


def test_with_a_threshold_successes_are_counted(tmp_path: Path) -> None:
    reached = [{**one, "successes": 1, "rate_interval": [0.06, 0.79]} for one in TRIALS]
    assert page_of(tmp_path / "s", reached).row("trial 0001")[1] == "1/3 (6% to 79%)"


def test_a_trial_without_a_score_says_why_and_no_count_is_negative(tmp_path: Path) -> None:
    none = {"means": {"modes": None}}
    lost = trial(0, {}, [seed(0, "x", modes=1.0), seed(1, "x")], **none, status="stopped", reason="all seeds failed")
    unknown = trial(1, {}, [seed(0, modes=None)], **none)
    fresh = trial(2, {}, [], **none, status="")
    low = trial(3, {}, [seed(0, modes=1.0)] * 3, bounds={"modes": -2.5})
    page = page_of(tmp_path / "s", [lost, unknown, fresh, low])
    ended = "stopped: all seeds failed; 2 failed: x"
    assert page.row("trial 0000") == ["no score: all 2 seeds failed", "0/2", "20", ended]
    assert page.row("trial 0001")[0] == "no score: its samples were not finite"
    assert page.row("trial 0002")[0] == "no score: no evaluation yet"
    assert page.row("trial 0003")[0] == "8 (0)"


def test_the_winner_on_fresh_seeds_is_the_figure_to_quote(tmp_path: Path) -> None:
    confirmed = {"means": {"modes": 6.5}, "bounds": {"modes": 4.25}, "failures": 1, "successes": 4}
    confirmed |= {"rate_interval": [0.38, 0.96], "seeds": [{}] * 5}
    text = render([], [read_sweep(sweep(tmp_path / "s", TRIALS, confirmed=confirmed))])
    for part in ("trial 0000, on 5 fresh seeds", "Modes found 6.5 (bound 4.25)", "4 of 5", "(38% to 96%), 1 failed"):
        assert part in text


def test_false_alarms_of_verdicts_are_told(tmp_path: Path) -> None:
    audit = {"seeds": 12, "ended": 4, "images_saved": 2700, "continued": 4, "false_alarms": 1, "threshold": 7.5}
    audit |= {"interval": [0.05, 0.7]}
    text = render([], [read_sweep(sweep(tmp_path / "a", TRIALS, audit=audit))])
    for part in ("ended 4 of 12 seeds", "1 reached Modes found 7.5", "25% (5% to 70%)"):
        assert part in text
    unknown = {**audit, "continued": 0, "false_alarms": 0, "threshold": None}
    assert "sweep.audit_share" in render([], [read_sweep(sweep(tmp_path / "b", TRIALS, audit=unknown))])
    none = {**unknown, "ended": 0}
    assert "verdicts ended" not in render([], [read_sweep(sweep(tmp_path / "c", TRIALS, audit=none))])


def test_plots_of_the_sweep_are_embedded(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "s", TRIALS)
    write_png(folder / "plots" / "importance.png", np.zeros((8, 9, 3), np.uint8))
    (folder / "plots" / "success.png").write_bytes(b"damaged")
    images = [given for tag, given in Page(render([], [read_sweep(folder)])).tags if tag == "img"]
    assert [(given["width"], given["height"]) for given in images] == [("9", "8")]


def test_trials_become_curves_of_means_over_seeds_that_did_not_fail(tmp_path: Path) -> None:
    folder = sweep(tmp_path / "s", TRIALS)
    with (folder / "trials" / "0001" / "rows.jsonl").open("a") as file:
        file.write('{"images": 30}\n{"images": 40, "see')
    runs = trial_runs(read_sweep(folder), prefix="s")
    assert [run.name for run in runs] == ["s trial 0000", "s trial 0001", "s trial 0002", "s trial 0003"]
    assert runs[0].rows == [{"images": 10, "modes": 6.0}, {"images": 20, "modes": 6.0}]
    assert len(runs[1].rows) == 2
    (chart,) = charts(runs)
    assert [curve.run for curve in chart.curves] == [0, 1]


def test_a_sweep_and_a_run_share_a_page(tmp_path: Path) -> None:
    paths = [sweep(tmp_path / "s", TRIALS[:1]), run(tmp_path / "a")]
    assert main([*map(str, paths), "--out", str(tmp_path / "x.html")]) == 0
    assert Page((tmp_path / "x.html").read_text()).data["runs"] == ["a", "trial 0000"]


@pytest.mark.parametrize("content", ["{", "[]", '{"trials": 3}', '"x"', '{"trials": [{}]}'])
def test_damaged_results_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        read_sweep(tmp_path)
    assert caught.value.key == "path"


def test_results_of_a_sweep_that_has_just_begun(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps({"trials": [{"trial": 3}]}))
    record = read_sweep(tmp_path)
    assert record.name == tmp_path.name
    assert Page(render([], [record])).row("trial 0003") == ["0/0", "0", "running"]
    assert [run.rows for run in trial_runs(record)] == [[]]
