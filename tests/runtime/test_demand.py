"""Nodes that are not there yet: asked for as an autoscaler sees it, waited for, and given back."""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import ConfigError
from ganscale.config import load as load_config
from ganscale.config.sweep import SweepSettings
from ganscale.runfolder import RunFolder
from ganscale.runtime import demand
from ganscale.runtime.demand import when_placed
from ganscale.runtime.resources import Node, concurrent_trials, most_workers, worker_resources
from ganscale.tracking.local import read_metrics
from tests.processes import TRAIN, Command
from tests.runtime.cluster import Cluster
from tests.runtime.test_ray import QUIET

LIMIT = 300.0


class Asked:
    """A demand that only counts."""

    def __init__(self) -> None:
        self.times = self.withdrawn = 0

    def __call__(self, error: ConfigError) -> Any:
        self.times += 1
        return self

    def withdraw(self) -> None:
        self.withdrawn += 1


class Growing:
    """There is room from the n-th look on."""

    def __init__(self, looks: int) -> None:
        self.looks, self.seen = looks, 0

    def __call__(self) -> int:
        self.seen += 1
        if self.seen < self.looks:
            raise ConfigError("no room", key="cluster.num_workers", value=2)
        return self.seen


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demand, "AGAIN", 0.01)


def test_where_there_is_room_nothing_is_asked_for() -> None:
    asked = Asked()
    assert when_placed(Growing(1), seconds=9.0, ask=asked) == 1
    assert (asked.times, asked.withdrawn) == (0, 0)


def test_it_asks_once_and_gives_back() -> None:
    asked = Asked()
    assert when_placed(Growing(4), seconds=9.0, ask=asked) == 4
    assert (asked.times, asked.withdrawn) == (1, 1)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_what_never_fits_is_refused_in_the_end(seconds: float) -> None:
    asked, place = Asked(), Growing(10**9)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="no room"):
        when_placed(place, seconds=seconds, ask=asked)
    assert seconds <= time.monotonic() - started < 5.0
    assert asked.times == asked.withdrawn == (seconds > 0)


def test_whoever_is_stopped_waits_no_longer() -> None:
    asked = Asked()
    with pytest.raises(ConfigError):
        when_placed(Growing(10**9), seconds=60.0, ask=asked, given_up=lambda: asked.times > 0)
    assert asked.withdrawn == 1


@pytest.mark.parametrize(
    ("wanted", "use_gpu", "expected"), [(3, False, 3), ((2, 5), True, 5), ("auto", True, 1), ("auto", False, 2)]
)
def test_as_many_as_the_run_can_use(wanted: Any, use_gpu: bool, expected: int) -> None:
    assert most_workers(wanted, use_gpu=use_gpu) == expected


def test_what_a_worker_takes() -> None:
    config = load_config(overrides=["cluster.cpus_per_worker=3"])
    assert worker_resources(config, use_gpu=False) == {"CPU": 3}
    assert worker_resources(config, use_gpu=True) == {"CPU": 3, "GPU": 1}


def test_trials_wait_for_nodes_where_the_cluster_grows() -> None:
    sweep = SweepSettings(workers=2, max_concurrent=6)
    assert concurrent_trials(sweep, [Node(4)], use_gpu=False, grows=True) == 6
    assert concurrent_trials(sweep, [Node(4)], use_gpu=False) == 2
    with pytest.raises(ConfigError, match="no trial would ever start"):
        concurrent_trials(sweep, [Node(1)], use_gpu=False, grows=True)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node with room for one worker of three CPUs."""
    cluster = Cluster()
    yield cluster
    cluster.close()


def waiting(cluster: Cluster) -> list[dict[str, float]]:
    """Resources of what waits in the cluster's queue: what an autoscaler adds nodes for."""
    headers = {"Authorization": f"Bearer {cluster.environment['RAY_AUTH_TOKEN']}"}
    address = f"{cluster.dashboard}/api/v0/placement_groups?limit=100&detail=1"
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=30) as reply:
        groups = json.load(reply)["data"]["result"]["result"]
    pending = [group for group in groups if group["state"] in ("PENDING", "RESCHEDULING")]
    return [bundle["unit_resources"] for group in pending for bundle in group["bundles"]]


def train(cluster: Cluster, folder: Path, *overrides: str) -> Command:
    run = (*QUIET, "cluster.cpus_per_worker=3", "cluster.node_wait=200", f"run.dir={folder}", "run.name=run")
    return cluster.command([*TRAIN, *run, *overrides], "run", folder)


@pytest.mark.ray
def test_a_run_waits_for_the_node_that_it_asks_for(cluster: Cluster, tmp_path: Path) -> None:
    with train(cluster, tmp_path, "cluster.num_workers=2", "train.images=12800", "eval.every=0") as command:
        command.until(lambda: waiting(cluster) == [{"CPU": 3.0}], LIMIT)
        cluster.add_node()
        output = command.succeed(LIMIT)
    assert "the cluster can hold 1 workers of 3 CPUs" in output
    assert "asking for nodes and waiting up to 200 s" in output
    assert "starting 2 workers on CPU" in output
    assert waiting(cluster) == []


@pytest.mark.ray
def test_a_run_asks_for_what_it_can_grow_by(cluster: Cluster, tmp_path: Path) -> None:
    """It begins with the one worker that fits and asks only then, so that it does not stand in its own way."""
    run = RunFolder(tmp_path / "run")
    with train(cluster, tmp_path, "cluster.num_workers=[1,2]", "train.images=99999936", "log.every=640") as command:
        command.until(lambda: waiting(cluster) == [{"CPU": 3.0}], LIMIT)
        assert read_metrics(run) or "on mnist for 1 workers" in run.log.read_text(), "the group stands"
        cluster.add_node()
        command.until(lambda: "on mnist for 2 workers" in run.log.read_text(), LIMIT)
        assert waiting(cluster) == []
        command.kill()
    said = run.log.read_text()
    assert "the number of workers changes" in said
    assert "failed" not in said
