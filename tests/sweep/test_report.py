"""What a sweep leaves behind."""

import csv
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ganscale.config import ConfigError, load
from ganscale.sweep.folder import SweepFolder, prepare
from ganscale.sweep.importance import importances
from ganscale.sweep.plan import make_plan
from ganscale.sweep.report import front, winner, write_report
from ganscale.sweep.score import SeedResult
from ganscale.sweep.statistics import wilson
from ganscale.sweep.success import success_curve
from ganscale.sweep.table import leaderboard, ranked, read_entries, short_names, title
from tests.sweep.made_up import made_up, write_trial
from tests.sweep.sweeps import RATES, RING, sweep


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


def test_only_fresh_seeds_make_the_winners_figure(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    best = winner(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
    assert best is not None
    for place, seed in enumerate(plan.fresh_seeds):
        write_trial(plan, folder.confirm / f"{best.index:04d}" / "tmp", best.index, (seed,))
        (folder.confirm / f"{best.index:04d}" / "tmp").rename(folder.confirm / f"{best.index:04d}" / f"{place:04d}")
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


def test_the_share_that_succeeds_is_a_function_of_the_threshold() -> None:
    found = [SeedResult(n, 10, {"modes": value, "frechet": value}) for n, value in enumerate((7.0, 3.0, 5.0))]
    found += [SeedResult(3, 10, {"modes": 9.0, "frechet": 1.0}, "collapse"), SeedResult(4, 10, {"modes": math.nan})]
    assert success_curve(found, "frechet") == ([3.0, 5.0, 7.0], [0.2, 0.4, 0.6])
    assert success_curve(found, "modes") == ([7.0, 5.0, 3.0], [0.2, 0.4, 0.6])


@pytest.mark.parametrize("num_configs", [0, 1])
def test_a_sweep_that_has_hardly_begun(tmp_path: Path, num_configs: int) -> None:
    plan, folder = made_up(tmp_path, num_configs=1)
    for trial in sorted(folder.trials.iterdir())[num_configs:]:
        for path in trial.iterdir():
            path.unlink()
    assert ("no configuration ran to its end" in write_report(plan, folder)) == (num_configs == 0)


def test_importance_finds_what_matters(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path, num_configs=40)
    entries = [e for e in read_entries(folder.trials, plan.metrics, plan.sweep.sweep) if e.status == "complete"]
    found = {row.name: row for row in importances(entries, plan.space.parameters)}
    assert set(found) == set(plan.names)
    assert [row.name for row in found.values()][:2] in (["objective", "optim.lr_g"], ["optim.lr_g", "objective"])
    for name in ("optim.lr_g", "objective"):
        assert found[name].explained > found[name].by_chance
        assert found[name].p < 0.01
    assert found["optim.lr_d"].p > 0.05
    assert found["optim.lr_d"].explained < found["optim.lr_d"].by_chance
    assert importances(entries, plan.space.parameters) == list(found.values())


def test_success_is_told_by_value(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    text = write_report(plan, folder)
    rates = json.loads((folder.path / "results.json").read_text(encoding="utf-8"))["success_by_setting"]
    assert [(row["value"], row["runs"], row["configs"]) for row in rates["objective"]] == [
        ("gan", 36, 12),
        ("wgan", 36, 12),
    ]
    for row in (row for rows in rates.values() for row in rows):
        low, high = wilson(row["share"] * row["configs"], row["configs"], 0.95)
        assert row["interval"] == [low, high]
    assert [row["runs"] for row in rates["penalty.gp"]] == [12, 12, 12]
    assert re.search(r"wgan +2/36 +0\.06 +0\.\d\d to 0\.\d\d +12", text)


def test_the_front_is_of_all_metrics(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    best = front(entries, plan.metrics)
    assert winner(entries) is not None
    for entry in best:
        for other in entries:
            if other.status == "complete" and other.standing.failures == 0:
                better = (
                    other.standing.bounds["frechet"] < entry.standing.bounds["frechet"],
                    other.standing.bounds["modes"] > entry.standing.bounds["modes"],
                )
                assert not all(better)


def test_who_ran_to_the_end_comes_first(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    entries = ranked(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
    states = [entry.status for entry in entries]
    assert states == sorted(states)
    scores = [entry.standing.score for entry in entries if entry.status == "complete"]
    assert scores == sorted(scores, reverse=True)
    assert all(math.isfinite(score) for score in scores)
    table = leaderboard(entries, plan.metrics, plan.names, seeds=3, most=4)
    assert len(table.splitlines()) == 5


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
            fail(folder.trials / f"{entry.index:04d}")
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    stopped = [entry for entry in entries if entry.status == "stopped"]
    assert [entry.status for entry in ranked(entries)] == sorted((e.status for e in entries), reverse=True)
    best = winner(entries)
    assert best is not None
    assert best.index == max(stopped, key=lambda entry: entry.standing.score).index
    assert "the best was stopped early" in write_report(plan, folder)
    assert json.loads((folder.path / "results.json").read_text(encoding="utf-8"))["winner"] == best.index
    for entry in stopped:
        fail(folder.trials / f"{entry.index:04d}")
    assert winner(read_entries(folder.trials, plan.metrics, plan.sweep.sweep)) is None
    assert "no configuration ran to its end with a seed" in write_report(plan, folder)


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    names = ["optim.lr_g", "model.generator.depth", "model.discriminator.depth", "a.b, c.d", "objective"]
    assert short_names(names) == ["lr_g", "generator.depth", "discriminator.depth", "b", "objective"]


def test_another_sweep_of_the_same_name_is_refused(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    more = make_plan(
        plan.sweep.model_copy(update={"sweep": plan.sweep.sweep.model_copy(update={"num_configs": 99})}), {}
    )
    prepare(folder, more.sweep, more.base)
    with pytest.raises(ConfigError) as caught:
        prepare(folder, sweep(RATES, run=RING, name="made"), {})
    assert caught.value.key == "sweep.name"
    assert "space" in str(caught.value)


def test_a_trials_name_says_what_differs(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    titles = [title(entry, plan.names) for entry in entries]
    assert len(set(titles)) == len(entries)
    for entry, text in zip(entries, titles, strict=True):
        number, *pairs = text.split(" ")
        assert number == f"{entry.index:04d}"
        short = dict(zip(plan.names, short_names(plan.names), strict=True))
        assert [pair.partition("=")[0] for pair in pairs] == [short[name] for name in plan.names if name in entry.drawn]


def test_a_sweep_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """Settings that did not exist then had their default; metrics beside the sweep's change nothing."""
    plan = make_plan(sweep(RATES, run={**RING, "cluster.address": "local"}, name="old", metrics=["modes"]), {})
    folder = SweepFolder(tmp_path)
    prepare(folder, plan.sweep, plan.base)
    old = yaml.safe_load(folder.sweep.read_text(encoding="utf-8"))
    del old["sweep"]["brackets"]
    folder.sweep.write_text(yaml.safe_dump(old), encoding="utf-8")
    prepare(folder, plan.sweep, {"eval": {"metrics": ["modes"]}})
    elsewhere = sweep(RATES, run={**RING, "cluster.node_wait": 9.0}, name="old", metrics=["modes"])
    prepare(folder, elsewhere, {"eval": {"metrics": ["modes"]}})
    with pytest.raises(ConfigError, match=r"base\.eval\.metrics differ"):
        prepare(folder, plan.sweep, {"eval": {"metrics": ["modes", "frechet"]}})
    halved = sweep(RATES, run=RING, name="old", metrics=["modes"], scheduler="asha", brackets=2)
    with pytest.raises(ConfigError, match=r"sweep\.brackets"):
        prepare(folder, halved, {})
