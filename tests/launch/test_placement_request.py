"""Nodes that are not there yet: asked for as an autoscaler sees it, waited for, and given back."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import ConfigError
from ganscale.config import load as load_config
from ganscale.launch import cluster_monitor, elastic, placement_request, ray_train
from ganscale.launch.placement import NodeResources, Placement, concurrent_trials, max_workers, worker_resources
from ganscale.launch.placement_request import wait_for_placement
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.run.watchdog import Heartbeat
from ganscale.storage.run_dir import RunDir
from ganscale.sweep import tuner
from ganscale.sweep.config import SweepSettings
from ganscale.tracking.jsonl import read_metrics
from tests.integration.cluster import Cluster
from tests.integration.test_ray import QUIET
from tests.processes import TRAIN, Command
from tests.sweep.sweeps import ring_plan

LIMIT = 300.0


class Asked:
    """A demand that only counts."""

    def __init__(self) -> None:
        self.times = self.withdrawn = 0

    def __call__(self, error: ConfigError) -> Any:
        self.times += 1
        return self

    def cancel(self) -> None:
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
    monkeypatch.setattr(placement_request, "AGAIN", 0.01)


def test_where_there_is_room_nothing_is_asked_for() -> None:
    asked = Asked()
    assert wait_for_placement(Growing(1), seconds=9.0, ask=asked) == 1
    assert (asked.times, asked.withdrawn) == (0, 0)


def test_it_asks_once_and_gives_back() -> None:
    asked = Asked()
    assert wait_for_placement(Growing(4), seconds=9.0, ask=asked) == 4
    assert (asked.times, asked.withdrawn) == (1, 1)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_what_never_fits_is_refused_in_the_end(seconds: float) -> None:
    asked, place = Asked(), Growing(10**9)
    started = time.monotonic()
    with pytest.raises(ConfigError, match="no room"):
        wait_for_placement(place, seconds=seconds, ask=asked)
    assert seconds <= time.monotonic() - started < 5.0
    assert asked.times == asked.withdrawn == (seconds > 0)


def test_whoever_is_stopped_waits_no_longer() -> None:
    asked = Asked()
    with pytest.raises(ConfigError):
        wait_for_placement(Growing(10**9), seconds=60.0, ask=asked, given_up=lambda: asked.times > 0)
    assert asked.withdrawn == 1


@pytest.mark.parametrize(
    ("wanted", "use_gpu", "expected"), [(3, False, 3), ((2, 5), True, 5), ("auto", True, 1), ("auto", False, 2)]
)
def test_as_many_as_the_run_can_use(wanted: Any, use_gpu: bool, expected: int) -> None:
    assert max_workers(wanted, use_gpu=use_gpu) == expected


def test_what_a_worker_takes() -> None:
    config = load_config(overrides=["cluster.cpus_per_worker=3"])
    assert worker_resources(config, use_gpu=False) == {"CPU": 3}
    assert worker_resources(config, use_gpu=True) == {"CPU": 3, "GPU": 1}


def test_trials_wait_for_nodes_where_the_cluster_grows() -> None:
    sweep = SweepSettings(workers=2, max_concurrent=6)
    assert concurrent_trials(sweep, [NodeResources(4)], use_gpu=False, grows=True) == 6
    assert concurrent_trials(sweep, [NodeResources(4)], use_gpu=False) == 2
    with pytest.raises(ConfigError, match="no trial would ever start"):
        concurrent_trials(sweep, [NodeResources(1)], use_gpu=False, grows=True)


class Cluster8:
    """What Growth asks of a cluster: nodes of one CPU, some used by others, and placement groups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpus: int, used: int) -> None:
        self.cpus, self.used, self.demands = cpus, used, []
        self.known = True
        outer = self

        class Held:
            def __init__(self, each: Any, workers: int) -> None:
                self.each, self.workers = each, workers
                outer.demands.append(self)

            def held(self) -> int | None:
                return min(self.workers, outer.cpus - outer.used) if outer.known else None

            def cancel(self) -> None:
                outer.demands.remove(self)

        monkeypatch.setattr(elastic, "PlacementRequest", Held)
        monkeypatch.setattr(elastic, "nodes", lambda: [NodeResources(1)] * self.cpus)
        monkeypatch.setattr(elastic, "free", self.free)
        monkeypatch.setattr(elastic.time, "monotonic", lambda: self.now)
        self.now = 0.0

    def free(self) -> NodeResources:
        held = sum(each.held() or 0 for each in self.demands)
        return NodeResources(self.cpus - self.used - held)


def growing(cluster: Cluster8, wanted: str, workers: int, *, asks: bool = True) -> elastic.ScaleUpPolicy:
    config = load_config(overrides=[f"cluster.num_workers={wanted}", "cluster.node_wait=60"])
    return elastic.ScaleUpPolicy(config, Placement(workers, False, "SPREAD"), asks=asks)


def looks(made: elastic.ScaleUpPolicy, count: int, *, started: bool = True) -> list[bool]:
    return [made.look(started=lambda: started) for _ in range(count)]


def test_a_group_asks_once_it_stands_and_grows_when_all_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster8(monkeypatch, cpus=1, used=1)
    made = growing(cluster, "[1,3]", 1)
    assert not any(looks(made, 9, started=False))
    assert cluster.demands == []
    assert not any(looks(made, 99))
    (placement_request,) = cluster.demands
    assert (placement_request.each, placement_request.workers) == ({"CPU": 1}, 2)
    cluster.cpus = 3
    assert looks(made, elastic.STEADY) == [False] * (elastic.STEADY - 1) + [True]
    made.cancel()
    assert cluster.demands == []


def test_it_waits_for_the_next_node_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster8(monkeypatch, cpus=1, used=1)
    made = growing(cluster, "[1,8]", 1)
    for cluster.cpus in (2, 3, 4):
        assert not any(looks(made, elastic.SETTLED - 1)), "another node came in time"
    assert looks(made, 1) == [True]


def test_room_that_is_of_no_use_is_given_back_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others have four of eight nodes: there is no room for eight workers, and three nodes would stand idle."""
    cluster = Cluster8(monkeypatch, cpus=8, used=5)
    made = growing(cluster, "[1,8]", 1)
    assert not any(looks(made, elastic.IN_VAIN - 1))
    assert cluster.demands
    assert not any(looks(made, 9))
    assert cluster.demands == []
    cluster.now = elastic.PAUSE
    looks(made, 1)
    assert cluster.demands


def test_a_demand_that_the_head_forgot_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster8(monkeypatch, cpus=1, used=1)
    made = growing(cluster, "[1,2]", 1)
    looks(made, 2)
    (first,) = cluster.demands
    cluster.known = False
    looks(made, 1)
    cluster.known = True
    looks(made, 1)
    assert cluster.demands
    assert cluster.demands != [first]


@pytest.mark.parametrize(("wanted", "workers", "asks"), [("[1,2]", 2, True), ("2", 1, True), ("[1,2]", 1, False)])
def test_nothing_is_asked_for_in_vain(monkeypatch: pytest.MonkeyPatch, wanted: str, workers: int, asks: bool) -> None:
    cluster = Cluster8(monkeypatch, cpus=1, used=1)
    assert not any(looks(growing(cluster, wanted, workers, asks=asks), 9))
    assert cluster.demands == []


class Leaving:
    """A ClusterMonitor's world: nodes that are about to go, and beats."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.going: set[str] = set()
        self.heartbeats: list[Heartbeat] = [Heartbeat(0, "old", 1, 1, 0.0, 0, 0, "D forward", 0.0)]
        monkeypatch.setattr(cluster_monitor, "draining", lambda: self.going)
        monkeypatch.setattr(cluster_monitor, "hosts", lambda ids: {name.partition("-")[2] for name in ids})
        config = load_config(overrides=["cluster.num_workers=2"])
        placement = Placement(2, False, "SPREAD")
        self.cluster_monitor = cluster_monitor.ClusterMonitor(
            config, placement, StopFile(tmp_path / "stop"), lambda: self.heartbeats
        )


def test_only_a_node_with_workers_makes_the_group_leave(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An autoscaler drains idle nodes: those of this run are none of them."""
    world = Leaving(monkeypatch, tmp_path)
    assert world.cluster_monitor._look() == StopReason.NONE
    world.heartbeats += [Heartbeat(rank, f"w{rank}", 2, 2, 0.0, 0, 0, "D forward", 0.0) for rank in range(2)]
    world.going = {"node-w7"}
    assert world.cluster_monitor._look() == StopReason.NONE
    world.going = {"node-old"}
    assert world.cluster_monitor._look() == StopReason.NONE, "there was a worker in another life"
    world.going = {"node-w7", "node-w1"}
    assert world.cluster_monitor._look() == StopReason.DRAIN


def test_before_the_workers_are_known_any_node_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = Leaving(monkeypatch, tmp_path)
    world.going = {"node-w7"}
    assert world.cluster_monitor._look() == StopReason.DRAIN


def test_a_run_that_is_told_to_stop_while_it_waits_leaves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = Asked()
    stop = StopFile(tmp_path / "stop")

    def ask(_: Any, seconds: float, error: ConfigError) -> Any:
        assert seconds == 60.0
        stop.write(StopReason.STOP)
        return asked(error)

    monkeypatch.setattr(ray_train, "nodes", lambda: [NodeResources(1)])
    monkeypatch.setattr(ray_train._Supervisor, "_ask", ask)
    config = load_config(overrides=["cluster.num_workers=2", "cluster.node_wait=60"])
    outcome = ray_train._Supervisor(config, RunDir(tmp_path), stop).run()
    assert (outcome.stop_reason, outcome.images) == (StopReason.STOP, 0)
    assert asked.withdrawn == 1


def test_a_cluster_of_our_own_gets_no_nodes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray_train, "nodes", lambda: [NodeResources(1)])
    config = load_config(overrides=["cluster.num_workers=2", "cluster.node_wait=60"])
    started = time.monotonic()
    with pytest.raises(ConfigError, match="can hold 1 workers"):
        ray_train._Supervisor(config, RunDir(tmp_path), StopFile(tmp_path / "stop"), grows=False).run()
    assert time.monotonic() - started < 5.0


def test_what_a_sweep_asks_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[Any, int]] = []
    monkeypatch.setattr(tuner, "PlacementRequest", lambda each, workers: asked.append((each, workers)))
    said: list[str] = []
    plan = ring_plan(tmp_path, workers=2, max_concurrent=3, cpus_per_worker=4)
    tuner._ask(plan, ConfigError("no room"), said.append)
    assert asked == [({"CPU": 4}, 6)]
    assert said == ["no room; asking for nodes and waiting up to 0 s for them"]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node with room for one worker of three CPUs."""
    cluster = Cluster()
    yield cluster
    cluster.close()


def waiting(cluster: Cluster) -> list[dict[str, float]]:
    """Resources of what waits in the cluster's queue: what an autoscaler adds nodes for."""
    groups = cluster.listed("placement_groups?limit=100&detail=1")
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
    run = RunDir(tmp_path / "run")
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
