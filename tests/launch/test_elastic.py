"""Room that is requested, waited for and released; drained nodes; scaling up."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from typing import Any
from unittest.mock import Mock

import pytest

from ganscale.config import Config, ConfigError
from ganscale.config import load as load_config
from ganscale.launch import elastic, ray_train, workers
from ganscale.launch.elastic import wait_for_placement
from ganscale.launch.placement import NodeResources, Placement
from ganscale.run.heartbeats import Heartbeat
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.integration.cluster import Cluster
from tests.integration.test_ray import QUIET
from tests.processes import TRAIN, Command

LIMIT = 300.0


class FakeRequest:
    """A placement request that only counts."""

    def __init__(self) -> None:
        self.requests = self.cancels = 0

    def __call__(self, error: ConfigError) -> Any:
        self.requests += 1
        return self

    def cancel(self) -> None:
        self.cancels += 1


class GrowingCluster:
    """There is room from the n-th call on."""

    def __init__(self, looks: int) -> None:
        self.looks, self.seen = looks, 0

    def __call__(self) -> int:
        self.seen += 1
        if self.seen < self.looks:
            raise ConfigError("no room", key="cluster.num_workers", value=2)
        return self.seen


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "RETRY_INTERVAL", 0.01)


def test_no_request_where_there_is_room() -> None:
    request = FakeRequest()
    assert wait_for_placement(GrowingCluster(1), seconds=9.0, request=request) == 1
    assert (request.requests, request.cancels) == (0, 0)


def test_one_request_which_is_released() -> None:
    request = FakeRequest()
    assert wait_for_placement(GrowingCluster(4), seconds=9.0, request=request) == 4
    assert (request.requests, request.cancels) == (1, 1)


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_what_never_fits_is_an_error_in_the_end(seconds: float) -> None:
    request, place = FakeRequest(), GrowingCluster(10**9)
    with pytest.raises(ConfigError, match="no room"):
        wait_for_placement(place, seconds=seconds, request=request)
    assert request.requests == request.cancels == (seconds > 0)


def test_a_canceled_wait_ends() -> None:
    request = FakeRequest()
    with pytest.raises(ConfigError):
        wait_for_placement(
            GrowingCluster(10**9), seconds=60.0, request=request, is_canceled=lambda: request.requests > 0
        )
    assert request.cancels == 1


class FakeCluster:
    """Nodes of one CPU, some used by other jobs, and placement groups."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cpus: int, used: int) -> None:
        self.cpus, self.used, self.requests = cpus, used, []
        self.known = True
        outer = self

        class Held:
            def __init__(self, each: Any, workers: int) -> None:
                self.each, self.workers = each, workers
                outer.requests.append(self)

            def held(self) -> int | None:
                return min(self.workers, outer.cpus - outer.used) if outer.known else None

            def cancel(self) -> None:
                outer.requests.remove(self)

        monkeypatch.setattr(elastic, "PlacementRequest", Held)
        monkeypatch.setattr(elastic, "nodes", lambda: [NodeResources(1)] * self.cpus)
        monkeypatch.setattr(elastic, "unused", self.unused)
        monkeypatch.setattr(elastic.time, "monotonic", lambda: self.now)
        self.now = 0.0

    def unused(self) -> NodeResources:
        held = sum(each.held() or 0 for each in self.requests)
        return NodeResources(self.cpus - self.used - held)


def policy(cluster: FakeCluster, wanted: str, workers: int, *, autoscales: bool = True) -> elastic.ScaleUpPolicy:
    config = load_config(overrides=[f"cluster.num_workers={wanted}", "cluster.node_wait=60"])
    return elastic.ScaleUpPolicy(config, Placement(workers, False, "SPREAD"), autoscales=autoscales)


def polls(made: elastic.ScaleUpPolicy, count: int, *, started: bool = True) -> list[bool]:
    return [made.should_resize(has_started=lambda: started) for _ in range(count)]


def test_a_started_group_requests_room_and_grows_when_it_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, cpus=1, used=1)
    made = policy(cluster, "[1,3]", 1)
    assert not any(polls(made, 9, started=False))
    assert cluster.requests == []
    assert not any(polls(made, 99))
    (request,) = cluster.requests
    assert (request.each, request.workers) == ({"CPU": 1}, 2)
    cluster.cpus = 3
    assert polls(made, elastic.STABLE_POLLS) == [False] * (elastic.STABLE_POLLS - 1) + [True]
    made.cancel()
    assert cluster.requests == []


def test_it_waits_for_the_next_node_before_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, cpus=1, used=1)
    made = policy(cluster, "[1,8]", 1)
    for cluster.cpus in (2, 3, 4):
        assert not any(polls(made, elastic.SETTLED_POLLS - 1)), "another node came in time"
    assert polls(made, 1) == [True]


def test_useless_room_is_released_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other jobs use five of eight nodes: eight workers do not fit, and three nodes would be idle."""
    cluster = FakeCluster(monkeypatch, cpus=8, used=5)
    made = policy(cluster, "[1,8]", 1)
    assert not any(polls(made, elastic.USELESS_POLLS - 1))
    assert cluster.requests
    assert not any(polls(made, 9))
    assert cluster.requests == []
    cluster.now = elastic.REQUEST_PAUSE
    polls(made, 1)
    assert cluster.requests


def test_a_lost_request_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(monkeypatch, cpus=1, used=1)
    made = policy(cluster, "[1,2]", 1)
    polls(made, 2)
    (first,) = cluster.requests
    cluster.known = False
    polls(made, 1)
    cluster.known = True
    polls(made, 1)
    assert cluster.requests
    assert cluster.requests != [first]


@pytest.mark.parametrize(("wanted", "workers", "autoscales"), [("[1,2]", 2, True), ("2", 1, True), ("[1,2]", 1, False)])
def test_no_request_without_use(monkeypatch: pytest.MonkeyPatch, wanted: str, workers: int, autoscales: bool) -> None:
    cluster = FakeCluster(monkeypatch, cpus=1, used=1)
    assert not any(polls(policy(cluster, wanted, workers, autoscales=autoscales), 9))
    assert cluster.requests == []


class FakeDrain:
    """Draining nodes and heartbeats, as `ClusterMonitor` sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.draining: set[str] = set()
        self.heartbeats: list[Heartbeat] = [Heartbeat(0, "old", 1, 1, 0.0, 0, 0, "D forward", 0.0)]
        monkeypatch.setattr(elastic, "draining_nodes", lambda: self.draining)
        monkeypatch.setattr(elastic, "host_names", lambda ids: {name.partition("-")[2] for name in ids})
        config = load_config(overrides=["cluster.num_workers=2"])
        placement, actor = Placement(2, False, "SPREAD"), Mock()
        actor.read = actor.stored = lambda: self.heartbeats
        self.stop, self.actor = StopFile(tmp_path / "stop"), actor
        self.monitor = elastic.ClusterMonitor(config, placement, self.stop, actor)


@pytest.mark.parametrize(("recovery", "expected"), [("restart", StopReason.RESIZE), ("live", StopReason.DRAIN)])
def test_a_group_grows_by_a_restart_of_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recovery: str, expected: StopReason
) -> None:
    """RESIZE among workers that outlive their group means that another one joins."""
    monkeypatch.setattr(elastic, "draining_nodes", set)
    config = load_config(overrides=["cluster.num_workers=[2,4]", f"cluster.recovery={recovery}", "train.device=cpu"])
    actor = Mock(stored=list)
    monitor = elastic.ClusterMonitor(config, Placement(2, False, "SPREAD"), StopFile(tmp_path / "stop"), actor)
    monkeypatch.setattr(monitor._scale_up, "should_resize", lambda **_: True)
    assert monitor._poll() == expected


def test_only_a_draining_node_with_workers_stops_the_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An autoscaler drains idle nodes, on which this run has no workers."""
    world = FakeDrain(monkeypatch, tmp_path)
    assert world.monitor._poll() == StopReason.NONE
    world.heartbeats += [Heartbeat(rank, f"w{rank}", 2, 2, 0.0, 0, 0, "D forward", 0.0) for rank in range(2)]
    world.draining = {"node-w7"}
    assert world.monitor._poll() == StopReason.NONE
    world.draining = {"node-old"}
    assert world.monitor._poll() == StopReason.NONE, "its worker belongs to an earlier attempt"
    world.draining = {"node-w7", "node-w1"}
    assert world.monitor._poll() == StopReason.DRAIN


def test_before_the_first_heartbeats_any_draining_node_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    world = FakeDrain(monkeypatch, tmp_path)
    world.draining = {"node-w7"}
    assert world.monitor._poll() == StopReason.DRAIN


@contextmanager
def draining(world: FakeDrain, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FakeDrain, Queue[StopReason]]]:
    """A monitor that has passed on that a node drains, with what it passes on from then on."""
    monkeypatch.setattr(elastic, "POLL_INTERVAL", 0.01)
    passed_on = Queue[StopReason]()
    world.actor.request = passed_on.put
    world.draining = {"node-w1"}
    with world.monitor:
        assert passed_on.get(timeout=20) == StopReason.DRAIN
        yield world, passed_on


def test_stop_requests_go_to_the_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the monitor, and those that came otherwise, also before the workers."""
    with draining(FakeDrain(monkeypatch, tmp_path), monkeypatch) as (world, passed_on):
        world.stop.write(StopReason.STOP)
        while passed_on.get(timeout=20) != StopReason.STOP:
            pass
    assert world.stop.read() == StopReason.STOP


def test_storage_that_does_not_answer_holds_up_no_stop_request(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(StopFile, "write", Mock(side_effect=OSError("503")))
    with draining(FakeDrain(monkeypatch, tmp_path), monkeypatch) as (world, passed_on):
        world.stop.requested = StopReason.STOP  # a signal, whose write failed
        while passed_on.get(timeout=20) != StopReason.STOP:
            pass


def test_a_stop_that_came_while_the_group_resized_ends_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stop = StopFile(tmp_path / "stop")

    def attempt(*_: Any) -> ray_train.RayOutcome:
        stop.write(StopReason.STOP)
        return ray_train.RayOutcome(640, 0, stop_reason=StopReason.RESIZE)

    monkeypatch.setattr(ray_train._Supervisor, "_place", lambda _: Placement(1, False, "PACK"))
    monkeypatch.setattr(ray_train._Supervisor, "_attempt", attempt)
    outcome = ray_train._Supervisor(load_config(), RunDir(tmp_path), stop).run()
    assert (outcome.stop_reason, outcome.images) == (StopReason.STOP, 640)


def test_a_stop_request_ends_the_wait_for_room(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pending = FakeRequest()
    stop = StopFile(tmp_path / "stop")

    def request(_: Any, config: Config, seconds: float, error: ConfigError) -> Any:
        assert (config.cluster.num_workers, seconds) == (2, 60.0)
        stop.write(StopReason.STOP)
        return pending(error)

    monkeypatch.setattr(workers, "nodes", lambda: [NodeResources(1)])
    monkeypatch.setattr(workers.WorkerPlanner, "_request", request)
    config = load_config(overrides=["cluster.num_workers=2", "cluster.node_wait=60"])
    outcome = ray_train._Supervisor(config, RunDir(tmp_path), stop).run()
    assert (outcome.stop_reason, outcome.images) == (StopReason.STOP, 0)
    assert pending.cancels == 1


def test_a_local_cluster_does_not_grow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(workers, "nodes", lambda: [NodeResources(1)])
    config = load_config(overrides=["cluster.num_workers=2", "cluster.node_wait=60"])
    with pytest.raises(ConfigError, match="can hold 1 workers"):
        ray_train._Supervisor(config, RunDir(tmp_path), StopFile(tmp_path / "stop"), autoscales=False).run()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """One node with room for one worker of three CPUs."""
    cluster = Cluster()
    yield cluster
    cluster.close()


def waiting(cluster: Cluster) -> list[dict[str, float]]:
    """Resources pending in the cluster's queue, for which an autoscaler adds nodes."""
    groups = cluster.listed("placement_groups?limit=100&detail=1")
    pending = [group for group in groups if group["state"] in ("PENDING", "RESCHEDULING")]
    return [bundle["unit_resources"] for group in pending for bundle in group["bundles"]]


def train(cluster: Cluster, folder: Path, *overrides: str) -> Command:
    run = (*QUIET, "cluster.cpus_per_worker=3", "cluster.node_wait=200", f"run.dir={folder}", "run.name=run")
    return cluster.command([*TRAIN, *run, *overrides], "run", folder)


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_waits_for_the_node_that_it_requests(cluster: Cluster, tmp_path: Path) -> None:
    with train(cluster, tmp_path, "cluster.num_workers=2", "train.images=12800", "eval.every=0") as command:
        command.until(lambda: waiting(cluster) == [{"CPU": 3.0}], LIMIT)
        cluster.add_node()
        output = command.succeed(LIMIT)
    assert "the cluster can hold 1 workers of 3 CPUs" in output
    assert "starting 2 workers on CPU" in output
    assert waiting(cluster) == []


@pytest.mark.ray
def test_an_elastic_run_requests_the_missing_workers(cluster: Cluster, tmp_path: Path) -> None:
    """It starts with the one worker that fits and requests only then, so that it does not block itself."""
    run = RunDir(tmp_path / "run")
    with train(cluster, tmp_path, "cluster.num_workers=[1,2]", "train.images=99999936", "log.every=640") as command:
        command.until(lambda: waiting(cluster) == [{"CPU": 3.0}], LIMIT)
        assert read_metrics(run) or "on mnist for 1 worker on" in run.log.read_text(), "the group has started"
        cluster.add_node()
        command.until(lambda: "on mnist for 2 workers" in run.log.read_text(), LIMIT)
        assert waiting(cluster) == []
        command.kill()
    log = run.log.read_text()
    assert "the number of workers changes" in log
    assert "failed" not in log


def test_room_beside_the_workers_is_requested_and_released_with_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    requested: list[list[dict[str, float]]] = []
    removed: list[int] = []

    def request(bundles: list[dict[str, float]]) -> int:
        requested.append(bundles)
        return len(requested)

    monkeypatch.setattr(elastic, "placement_group", request)
    monkeypatch.setattr(elastic, "remove_placement_group", removed.append)
    monkeypatch.setattr(elastic, "placement_group_table", lambda group: {"state": "CREATED"})
    pending = elastic.PlacementRequest({"CPU": 1.0}, 2, {"CPU": 3.0})
    assert requested == [[{"CPU": 3.0}], [{"CPU": 1.0}], [{"CPU": 1.0}]]
    assert pending.held() == 2, "of workers"
    pending.cancel()
    assert sorted(removed) == [1, 2, 3]
