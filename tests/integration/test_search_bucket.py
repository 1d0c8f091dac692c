"""Sweeps in a bucket: the results of the same sweep in a folder, one driver at a time, resumed after a kill."""

import csv
import io
import json
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import ray

from ganscale.launch.cluster import _init
from ganscale.report.__main__ import main as report
from ganscale.storage import lease
from ganscale.storage.lease import BusyError, LeaseLostError
from ganscale.storage.store import StorePath, folders, open_place
from ganscale.sweep import tuner
from ganscale.sweep.plan import SweepPlan, load_plan
from ganscale.sweep.results import read_end, read_entries
from ganscale.sweep.tuner import SearchError, search_on_ray, sweep_folder
from tests.buckets import Proxy, Server, proxied_moto
from tests.processes import ROOT, Command
from tests.sweep.sweeps import RATES, RING, ring_plan

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    with proxied_moto() as proxy:
        yield proxy


@pytest.fixture
def server(proxy: Proxy) -> Iterator[Server]:
    yield proxy.server
    proxy.disturb = lambda method, path: None


@pytest.fixture(scope="module")
def cluster(proxy: Proxy) -> Iterator[None]:
    """One cluster for the sweeps of this process; its workers have the credentials in their environment."""
    variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **proxy.server.environment}
    _init(address="local", num_cpus=4, include_dashboard=False, runtime_env={"env_vars": variables})
    yield
    ray.shutdown()


@pytest.fixture
def joined(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "connected", lambda config, dashboard: nullcontext())


def place_of(uri: str) -> StorePath:
    place = open_place(uri)
    assert isinstance(place, StorePath)
    return place


def table(place: Path | StorePath) -> list[list[str]]:
    return list(csv.reader(io.StringIO((place / "results.csv").read_text(encoding="utf-8"))))


def seeds_of(plan: SweepPlan) -> list[Any]:
    entries = read_entries(sweep_folder(plan).trials, plan.metrics, plan.sweep.sweep)
    return [(e.index, e.status, dict(e.drawn), [(row.images, row.drawn, row.seeds) for row in e.rows]) for e in entries]


def test_a_sweep_in_a_bucket_finds_what_one_in_a_folder_does(
    server: Server, joined: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = server.use(monkeypatch)
    there = ring_plan(Path(), dir=uri, confirm_seeds=2, max_concurrent=2)
    here = ring_plan(tmp_path, confirm_seeds=2, max_concurrent=2)
    summary, grid = search_on_ray(there)
    search_on_ray(here)
    assert seeds_of(there) == seeds_of(here)
    place = place_of(f"{uri}/try")
    assert table(place) == table(tmp_path / "try")
    found, expected = (json.loads((each / "results.json").read_text()) for each in (place, tmp_path / "try"))
    assert found == expected
    assert len(found["confirmed"]["seeds"]) == 2
    assert f"results: {uri}/try/results.json" in summary
    names = {entry.key.partition("/")[0] for entry in place.store.list()}
    assert names == {
        ".ray", "best.yaml", "confirm", "lease.json", "plots", "results.csv", "results.json", "sweep.yaml", "trials",
    }  # fmt: skip
    assert grid is not None
    for result in grid:
        assert result.checkpoint is not None
        assert result.checkpoint.get_metadata()["path"].startswith(f"{uri}/try/trials/")
    for entry in place.store.list():
        assert server.secret.encode() not in place.store.get(entry.key)[0], entry.key

    assert search_on_ray(there)[1] is None, "nothing was left to run"
    assert not any(entry.key.startswith(".ray/") for entry in place.store.list()), "of the attempt before"
    monkeypatch.chdir(tmp_path)
    assert report([f"{uri}/try"]) == 0
    assert "trial 0002" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report([f"{uri}/try", "--out", f"{uri}/try/report.html"]) == 0
    assert "trial 0002" in (place / "report.html").read_text(encoding="utf-8")


def test_a_population_exchanges_states_through_the_bucket(
    server: Server, joined: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = {"optim.lr_g, optim.lr_d": {"loguniform": [1e-7, 1e-1]}, "optim.betas_g.0": {"uniform": [0.0, 0.9]}}
    settings = {"scheduler": "pbt", "quantile": 0.5, "num_configs": 2, "metrics": ["frechet"]}
    there = ring_plan(Path(), draws, dir=server.use(monkeypatch), **settings)
    here = ring_plan(tmp_path, draws, **settings)
    for plan in (there, here):
        search_on_ray(plan)
    assert seeds_of(there) == seeds_of(here)
    pairs = [pair for *_, rows in seeds_of(there) for pair in pairwise(drawn for _, drawn, _ in rows)]
    assert any(before != after for before, after in pairs), "no trial was replaced"


def test_an_expired_token_leaves_the_trial_open(
    proxy: Proxy, server: Server, joined: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ring_plan(Path(), dir=server.use(monkeypatch), num_configs=2, max_concurrent=1)
    here = ring_plan(tmp_path, num_configs=2, max_concurrent=1)
    proxy.disturb = lambda method, path: "expired" if "trials/0000/seed-1/checkpoints/000000000640" in path else None
    with pytest.raises(SearchError, match=r"1 trials could not be stored.*ExpiredToken"):
        search_on_ray(there)
    proxy.disturb = lambda method, path: None
    (first, second) = seeds_of(there)
    assert (first[1], [images for images, *_ in first[3]]) == ("", [320])
    assert second[1] == "complete"
    for plan in (there, here):
        search_on_ray(plan)
    assert seeds_of(there) == seeds_of(here)


class Thief(tuner.ProgressCallback):
    """Takes the sweep over as soon as there is a result, as a driver on another host does."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        assert isinstance(self._trials, StorePath)
        path = self._trials.parent / "lease.json"
        facts = json.loads(path.read_text())
        if facts["fence"] == 1:
            path.write_text(json.dumps({**facts, "fence": 2, "holder": "process 7 on other", "id": "x"}))


def test_a_driver_that_lost_the_sweep_ends_and_records_nothing(
    server: Server, joined: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SECONDS", 0.9)
    monkeypatch.setattr(tuner, "ProgressCallback", Thief)
    plan = ring_plan(Path(), dir=server.use(monkeypatch), num_configs=4, max_concurrent=2)
    with pytest.raises(LeaseLostError, match=r"another process has taken over .*/try: process 7 on other"):
        search_on_ray(plan)
    assert not {status for _, status, *_ in seeds_of(plan)} & {"stopped", "failed"}
    assert not (sweep_folder(plan).root / "results.json").exists()


def test_a_killed_driver_resumes_and_a_second_one_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = server.use(monkeypatch)
    text = {
        "sweep": {"name": "try", "num_configs": 4, "confirm_seeds": 0, "metrics": ["modes"]},
        "set": {**RING, "train.images": 6400, "eval.every": 640},
        "space": RATES,
    }
    (tmp_path / "try.yaml").write_text(json.dumps(text), encoding="utf-8")
    environment = {**server.environment, "OMP_NUM_THREADS": "1", "RAY_ADDRESS": None, "WANDB_MODE": "disabled"}

    def start(folder: str, log: str) -> Command:
        command = (sys.executable, "-m", "ganscale.tune", "try.yaml", f"sweep.dir={folder}")
        return Command(command, tmp_path / log, environment=environment, cwd=tmp_path)

    with start(str(tmp_path / "whole"), "whole.out") as command:
        command.succeed(600)
    place = place_of(f"{uri}/try")
    trials = place / "trials"

    def ended() -> list[str]:
        return [name for name in folders(trials) if read_end(trials / name)[0]]

    monkeypatch.setattr(tuner, "PATIENCE", 3.0)
    with start(uri, "killed.out") as command:
        command.until(lambda: (place / "lease.json").exists(), 300)
        with pytest.raises(BusyError, match=rf"{uri}/try: process {command.process.pid} on .*, since 20") as caught:
            search_on_ray(load_plan(tmp_path / "try.yaml", [f"sweep.dir={uri}"]))
        assert caught.value.key == "sweep.name"
        command.until(lambda: bool(ended()), 600)
        command.kill()
    done = {name: (trials / name / "rows.jsonl").entry().etag for name in ended()}
    assert 0 < len(done) < 4
    with start(uri, "resumed.out") as command:
        command.succeed(600)
    assert table(place) == table(tmp_path / "whole" / "try")
    assert done == {name: (trials / name / "rows.jsonl").entry().etag for name in done}, "ended trials do not run again"
