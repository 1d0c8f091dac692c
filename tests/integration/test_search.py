"""Sweeps through Ray Tune: settings reach the optimizers, early stops, exploits, and resuming after a kill."""

import csv
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from ganscale.launch.cluster import _init
from ganscale.sweep import tuner
from ganscale.sweep.plan import SweepPlan
from ganscale.sweep.results import Entry, read_entries
from ganscale.sweep.sampler import audited_seeds
from ganscale.sweep.trial import MultiSeedTrial
from ganscale.sweep.tuner import search_on_ray, sweep_folder
from tests.processes import ROOT, Command
from tests.sweep.sweeps import RATES, RING, ring_plan

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for all sweeps of this file."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    runtime = {"env_vars": environment}
    _init(address="local", num_cpus=4, include_dashboard=False, runtime_env=runtime)  # retries on a busy machine
    yield
    ray.shutdown()


@pytest.fixture
def joined(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "connected", lambda config, dashboard: nullcontext())


def run(plan: SweepPlan) -> list[Entry]:
    search_on_ray(plan)
    return read_entries(sweep_folder(plan).trials, plan.metrics, plan.sweep.sweep)


def results(entries: list[Entry]) -> list[tuple[Any, ...]]:
    return [(e.index, dict(e.drawn), e.status, [(row.images, row.seeds) for row in e.rows]) for e in entries]


def live_rates(plan: SweepPlan, entry: Entry, seed: int) -> list[tuple[int, float, float]]:
    """Images and the learning rates of G and D in the optimizers of a seed, at each tick."""
    path = sweep_folder(plan).trials / f"{entry.index:04d}" / f"seed-{seed}" / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [(row["images"], row["lr_g"], row["lr_d"]) for row in rows]


@pytest.mark.slow
def test_what_was_drawn_is_what_trained(joined: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan = ring_plan(tmp_path / "sweep", confirm_seeds=2, audit_share=0.5)
    entries = run(plan)
    assert [entry.status for entry in entries] == ["complete"] * 3
    assert len({entry.drawn["optim.lr_g"] for entry in entries}) == 3
    for entry in entries:
        for seed in plan.seeds:
            ticks = live_rates(plan, entry, seed)
            assert {(g, d) for _, g, d in ticks} == {(entry.drawn["optim.lr_g"], entry.drawn["optim.lr_d"])}
    alone = MultiSeedTrial(
        plan.space.config(entries[1].drawn),
        entries[1].drawn,
        plan.seeds,
        plan.metrics,
        tmp_path / "alone",
        device=torch.device("cpu"),
        audited=audited_seeds(plan.sweep.sweep, 1, plan.seeds),
    )
    assert len({seed.audited for entry in entries for seed in entry.rows[-1].seeds}) == 2
    assert [alone.row(n).seeds for n in range(4)] == [row.seeds for row in entries[1].rows]
    found = json.loads((sweep_folder(plan).path / "results.json").read_text(encoding="utf-8"))
    assert [seed["seed"] for seed in found["confirmed"]["seeds"]] == list(plan.fresh_seeds)
    assert not any(seed["audited"] for seed in found["confirmed"]["seeds"])
    assert not set(plan.fresh_seeds) & set(plan.seeds)
    with caplog.at_level(logging.INFO, "ganscale"):
        assert results(run(plan)) == results(entries), "the same command trains nothing again"
    assert "3 done" in caplog.text
    assert not any(message.startswith("[") for message in caplog.messages)


@pytest.mark.slow
def test_tunes_own_result_shows_names_metrics_and_checkpoints(joined: None, tmp_path: Path) -> None:
    plan = ring_plan(tmp_path, {"optim.lr_g": {"grid": [2e-3, 1e-3]}}, max_concurrent=1, metrics=["frechet"])
    _, grid = search_on_ray(plan)
    assert grid is not None
    assert Path(grid.experiment_path).name == "try"
    entries = read_entries(sweep_folder(plan).trials, plan.metrics, plan.sweep.sweep)
    frame = grid.get_dataframe().sort_values("config/index")
    assert list(frame["settings/optim.lr_g"]) == [entry.drawn["optim.lr_g"] for entry in entries]
    assert list(frame["frechet"]) == [entry.standing.means["frechet"] for entry in entries]
    assert [trial.custom_trial_name for trial in grid._experiment_analysis.trials] == [
        f"{number:04d} lr_g={rate:.3g}" for number, rate in enumerate([2e-3, 1e-3])
    ]
    for result in grid:
        assert result.metrics is not None
        assert result.checkpoint is not None
        assert result.metrics["images"] == 1280
        runs = [Path(run) for run in result.checkpoint.get_metadata()["runs"]]
        assert [run.name for run in runs] == [f"seed-{seed}" for seed in plan.seeds]
        assert all((run / "metrics.jsonl").exists() for run in runs)
    assert search_on_ray(plan)[1] is None, "nothing was left to run"


@pytest.mark.slow
def test_asha_stops_what_lags(joined: None, tmp_path: Path) -> None:
    draws = {"optim.lr_g, optim.lr_d": {"grid": [2e-3, 1e-6, 1e-7, 1e-7, 1e-7, 1e-6]}}
    plan = ring_plan(tmp_path, draws, scheduler="asha", reduction=2.0, max_concurrent=1, metrics=["frechet"])
    entries = run(plan)
    status = [entry.status for entry in entries]
    assert set(status) == {"complete", "stopped"}
    assert all(entry.rows[-1].images < 1280 for entry in entries if entry.status == "stopped")
    assert entries[0].status == "complete"
    assert sum(entry.spent for entry in entries) < plan.images


@pytest.fixture
def other_file_system(tmp_path: Path) -> Iterator[Path]:
    """A folder outside the file system of the workers' temporary folders, where there is one: renames fail across."""
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("one file system only")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def test_a_population_exchanges_states_and_keeps_its_own_rates(joined: None, other_file_system: Path) -> None:
    draws = {"optim.lr_g, optim.lr_d": {"loguniform": [1e-7, 1e-1]}, "optim.betas_g.0": {"uniform": [0.0, 0.9]}}
    plan = ring_plan(other_file_system, draws, scheduler="pbt", quantile=0.5, num_configs=2, metrics=["frechet"])
    entries = run(plan)
    changed = 0
    for entry in entries:
        rows = [row.drawn for row in entry.rows]
        changed += sum(before != after for before, after in pairwise(rows))
        for seed in plan.seeds:
            last = {images: (g, d) for images, g, d in live_rates(plan, entry, seed)}
            for row in entry.rows:
                rate = row.drawn["optim.lr_g, optim.lr_d"]
                assert last[row.images] == (rate, rate)
    assert changed, "no trial was replaced"
    assert [entry.status for entry in entries] == ["complete"] * 2


@pytest.mark.slow
def test_a_trial_whose_process_is_killed_resumes(joined: None, tmp_path: Path) -> None:
    plan = ring_plan(tmp_path / "a", num_configs=2, max_concurrent=1)
    expected = results(run(plan))
    other = ring_plan(tmp_path / "b", num_configs=2, max_concurrent=1)
    killed: list[int] = []

    class Killer(tuner.ProgressCallback):
        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
            if not killed and result["images"] >= 640:
                killed.append(result["pid"])
                os.kill(result["pid"], signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuner, "ProgressCallback", Killer)
        entries = run(other)
    assert killed
    assert results(entries) == expected


@pytest.mark.slow
def test_workers_of_a_group_find_what_one_finds(joined: None, tmp_path: Path) -> None:
    one = run(ring_plan(tmp_path / "one", num_configs=2))
    two = run(ring_plan(tmp_path / "two", num_configs=2, workers=2))
    assert [e.status for e in two] == ["complete"] * 2
    for a, b in zip(one, two, strict=True):
        for seed in (0, 1, 2):
            assert live_rates(ring_plan(tmp_path / "two"), b, seed) == live_rates(ring_plan(tmp_path / "one"), a, seed)
        assert [row.images for row in a.rows] == [row.images for row in b.rows]


@pytest.mark.slow
def test_a_killed_sweep_resumes_to_the_same_table(tmp_path: Path) -> None:
    text = {
        "sweep": {"name": "try", "num_configs": 4, "confirm_seeds": 0, "metrics": ["modes"]},
        "set": RING,
        "space": RATES,
    }
    text["set"] = {**RING, "train.images": 6400, "eval.every": 640}
    (tmp_path / "try.yaml").write_text(json.dumps(text), encoding="utf-8")
    environment = {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": None, "WANDB_MODE": "disabled"}

    def start(folder: str) -> Command:
        command = (sys.executable, "-m", "ganscale.tune", "try.yaml", f"sweep.dir={tmp_path / folder}")
        return Command(command, tmp_path / f"{folder}-{time.time_ns()}.out", environment=environment, cwd=tmp_path)

    def table(folder: str) -> list[list[str]]:
        with (tmp_path / folder / "try" / "results.csv").open(encoding="utf-8") as file:
            return list(csv.reader(file))

    with start("whole") as command:
        command.succeed(240)
    trials = tmp_path / "killed" / "try" / "trials"
    with start("killed") as command:
        command.until(lambda: bool(list(trials.glob("*/end.json"))), 240)
        command.kill()
    done = {path.parent: (path.parent / "rows.jsonl").stat().st_mtime_ns for path in trials.glob("*/end.json")}
    assert 0 < len(done) < 4
    with start("killed") as command:
        command.succeed(240)
    assert table("killed") == table("whole")
    assert done == {folder: (folder / "rows.jsonl").stat().st_mtime_ns for folder in done}
