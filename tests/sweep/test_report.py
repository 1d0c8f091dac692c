"""The report of a sweep."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganscale.config import load
from ganscale.storage.store import LocalStore, StorePath
from ganscale.sweep import plots
from ganscale.sweep.report import winner, write_report
from ganscale.sweep.results import SweepFolder, ranked, read_entries
from tests.sweep.made_up import made_up, write_trial


def test_the_report(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    text = write_report(plan, folder)
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    results = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))
    assert len(results["trials"]) == len(entries) == 24
    assert [(each["better"], each["draws"]) for each in results["differences"]["objective"]] == [("wgan", 12)]
    assert "  wgan over gan: +" in text
    complete = [entry for entry in entries if entry.status == "complete"]
    best = max(complete, key=lambda entry: entry.standing.score)
    assert results["winner"] == best.index
    assert best.drawn["objective"] == "wgan"
    assert best.standing.failures == 0
    assert results["images"] == sum(seed["images"] for trial in results["trials"] for seed in trial["seeds"])
    assert results["confirmed"] is None
    assert results["audit"]["ended"] == sum(bool(s["failure"]) for t in results["trials"] for s in t["seeds"])
    assert f"health verdicts ended {results['audit']['ended']} of 72 seeds" in text
    assert f"trial {best.index:04d}" in text
    with (folder.path / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["trial"] == str(best.index)
    assert float(rows[0]["frechet_mean"]) == pytest.approx(best.standing.means["frechet"])
    assert [row["status"] for row in rows] == sorted((row["status"] for row in rows), key=["complete", "stopped"].index)


def test_the_best_is_a_run(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    write_report(plan, folder)
    best = winner(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
    assert best is not None
    config = load(folder.best)
    assert config.run.name == "made-best"
    assert config.optim.lr_g == best.drawn["optim.lr_g"]
    assert config.loss.name == "wasserstein"
    assert config.penalty.gp == best.drawn["penalty.gp"]


def test_only_fresh_seeds_give_the_winners_quality(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    best = winner(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
    assert best is not None
    for number, seed in enumerate(plan.fresh_seeds):
        trials = folder.path / "confirm" / f"{best.index:04d}"
        write_trial(plan, trials / "tmp", best.index, (seed,))
        (trials / "tmp").rename(trials / f"{number:04d}")
    text = write_report(plan, folder)
    confirmed = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))["confirmed"]
    assert [seed["seed"] for seed in confirmed["seeds"]] == [1000, 1001]
    values = [seed["values"]["frechet"] for seed in confirmed["seeds"]]
    assert confirmed["means"]["frechet"] == pytest.approx(sum(values) / 2)
    assert "on 2 fresh seeds (this is its quality): frechet" in text


def test_plots_are_drawn(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    write_report(plan, folder)
    names = {path.stem for path in folder.plots.glob("*.png")}
    assert names == {"learning_curves", "success", "parallel_coordinates", "importance", "pareto", "success_curves"}
    for path in folder.plots.glob("*.png"):
        pixels = np.asarray(Image.open(path).convert("RGB"))
        assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20, path


@pytest.mark.parametrize("num_configs", [0, 1])
def test_a_sweep_that_has_hardly_begun(tmp_path: Path, num_configs: int) -> None:
    plan, folder = made_up(tmp_path, num_configs=1)
    for trial in sorted((folder.path / "trials").iterdir())[num_configs:]:
        for path in trial.iterdir():
            path.unlink()
    assert ("no configuration has a valid seed" in write_report(plan, folder)) == (num_configs == 0)


def test_the_front_is_of_all_metrics(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    write_report(plan, folder)
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    found = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))["pareto_front"]
    assert found
    for bounds in (entries[index].standing.bounds for index in found):
        for other in (e.standing for e in entries if e.status == "complete" and e.standing.failures == 0):
            assert other.bounds["frechet"] >= bounds["frechet"] or other.bounds["modes"] <= bounds["modes"]


def fail(folder: Path) -> None:
    """Make all seeds of a trial failures."""
    rows = [json.loads(line) for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["seeds"] = [{**seed, "failure": "collapse: made up"} for seed in row["seeds"]]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")


def test_a_configuration_whose_seeds_all_failed_is_no_winner(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    for entry in read_entries(folder.trials, plan.metrics, plan.sweep.sweep):
        if entry.status == "complete":
            fail(folder.path / "trials" / f"{entry.index:04d}")
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    stopped = [entry for entry in entries if entry.status == "stopped"]
    assert [entry.status for entry in ranked(entries)] == sorted((e.status for e in entries), reverse=True)
    best = winner(entries)
    assert best is not None
    assert best.index == max(stopped, key=lambda entry: entry.standing.score).index
    assert "the best was stopped early" in write_report(plan, folder)
    assert json.loads((folder.path / "results.json").read_text(encoding="utf-8"))["winner"] == best.index
    for entry in stopped:
        fail(folder.path / "trials" / f"{entry.index:04d}")
    assert winner(read_entries(folder.trials, plan.metrics, plan.sweep.sweep)) is None
    assert "no configuration has a valid seed" in write_report(plan, folder)


def test_the_report_lies_in_the_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(*arguments: Any) -> None:
        arguments[-1].mkdir(exist_ok=True)
        (arguments[-1] / "success.png").write_bytes(b"drawn")

    monkeypatch.setattr(plots, "save_all", draw)
    plan, here = made_up(tmp_path, num_configs=2)
    there = SweepFolder(StorePath(LocalStore(tmp_path), "made"))
    text = write_report(plan, here)
    names = ("results.json", "results.csv", "best.yaml", "plots/success.png")
    expected = [(here.path / name).read_bytes() for name in names]
    for name in names:
        (here.path / name).unlink()
    there.files.write_as(lambda: 1, periodic=False)
    assert write_report(plan, there) == text
    assert [(there.root / name).read_bytes() for name in names] == expected
