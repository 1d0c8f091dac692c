"""The number of workers over a run's attempts: recorded, waited for, and grown back to."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import Config, ConfigError
from ganscale.config import load as load_config
from ganscale.launch import elastic, workers
from ganscale.launch.elastic import may_grow
from ganscale.launch.placement import NodeResources, Placement, place_recorded, place_recorded_or_fewer, recorded
from ganscale.launch.workers import SETTLE_LIMIT, SETTLE_TIME, WorkerPlanner, applicable, settled
from ganscale.storage.run_dir import RunDir
from ganscale.storage.workers import WorkerRecord, read_workers, record_workers, updated
from tests.buckets import moto

ONE, GPU = NodeResources(1), NodeResources(8, 1)
CPU_2, GPU_2 = WorkerRecord(2, False), WorkerRecord(2, True)


def config(*overrides: str) -> Config:
    return load_config(overrides=overrides)


@pytest.mark.parametrize(
    ("before", "wanted", "current", "after"),
    [
        (None, "auto", CPU_2, CPU_2),
        (CPU_2, "auto", WorkerRecord(1, False), CPU_2),
        (CPU_2, "[1,8]", WorkerRecord(1, False), CPU_2),
        (CPU_2, "auto", WorkerRecord(3, False), WorkerRecord(3, False)),
        (WorkerRecord(8, False), "1", WorkerRecord(1, False), WorkerRecord(1, False)),
        (GPU_2, "auto", WorkerRecord(4, False), GPU_2),
        (WorkerRecord(4, False), "auto", GPU_2, GPU_2),
    ],
)
def test_a_record_keeps_the_largest_number_unless_one_is_set(
    before: WorkerRecord | None, wanted: str, current: WorkerRecord, after: WorkerRecord
) -> None:
    assert updated(before, config(f"cluster.num_workers={wanted}"), current) == after


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"num_workers": 0, "use_gpu": false}', '{"num_workers": "x"}'])
def test_a_damaged_record_is_none(content: str, tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    record_workers(folder, config(), CPU_2)
    assert read_workers(folder) == CPU_2
    folder.workers.write_text(content)
    assert read_workers(folder) is None


def test_a_record_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver reads what a worker wrote on another machine."""
    with moto() as server:
        uri = f"{server.use(monkeypatch)}/run"
        assert read_workers(RunDir(uri)) is None
        writer = RunDir(uri)
        writer.write_as(lambda: 1, periodic=False)
        record_workers(writer, config(), CPU_2)
        writer.push()
        writer.close()
        assert read_workers(RunDir(uri)) == CPU_2


@pytest.mark.parametrize(
    ("overrides", "record", "applies"),
    [
        ((), CPU_2, True),
        ((), GPU_2, True),
        ((), None, False),
        (("cluster.num_workers=2",), CPU_2, False),
        (("cluster.num_workers=[1,2]",), CPU_2, False),
        (("train.device=cpu",), GPU_2, False),
        (("train.device=cpu",), CPU_2, True),
        (("train.device=cuda",), CPU_2, False),
        (("train.device=cuda",), GPU_2, True),
    ],
)
def test_a_record_decides_only_for_auto_on_its_own_kind_of_device(
    overrides: tuple[str, ...], record: WorkerRecord | None, applies: bool
) -> None:
    assert (applicable(config(*overrides), record) is not None) is applies


@pytest.mark.parametrize(
    ("nodes", "record", "expected"),
    [
        ([ONE, ONE], CPU_2, Placement(2, False, "SPREAD")),
        ([ONE], CPU_2, None),
        ([], CPU_2, None),
        ([NodeResources(2)], CPU_2, Placement(2, False, "PACK")),
        ([ONE] * 3, CPU_2, Placement(3, False, "SPREAD")),
        ([GPU], CPU_2, Placement(1, True, "PACK")),
        ([GPU, GPU], GPU_2, Placement(2, True, "SPREAD")),
        ([GPU], GPU_2, None),
        ([NodeResources(64)], GPU_2, None),
    ],
)
def test_no_fewer_than_recorded(
    nodes: Sequence[NodeResources], record: WorkerRecord, expected: Placement | None
) -> None:
    if expected is not None:
        assert place_recorded(config(), record, nodes) == expected
        return
    with pytest.raises(ConfigError):
        place_recorded(config(), record, nodes)


@pytest.mark.parametrize(
    ("nodes", "record", "expected"),
    [
        ([ONE], CPU_2, Placement(1, False, "PACK")),
        ([ONE, ONE], WorkerRecord(3, False), Placement(2, False, "SPREAD")),
        ([ONE, ONE], CPU_2, Placement(2, False, "SPREAD")),
        ([GPU], GPU_2, Placement(1, True, "PACK")),
        ([NodeResources(64)], WorkerRecord(8, True), Placement(2, False, "PACK")),
    ],
)
def test_fewer_than_recorded(nodes: Sequence[NodeResources], record: WorkerRecord, expected: Placement) -> None:
    assert place_recorded_or_fewer(config(), record, nodes) == expected


def test_a_smaller_group_grows_up_to_the_record() -> None:
    range_config = recorded(config(), WorkerRecord(3, False))
    assert not may_grow(range_config, 1, [ONE], NodeResources(0))
    assert may_grow(range_config, 1, [ONE] * 2, NodeResources(1))
    assert may_grow(range_config, 2, [ONE] * 9, NodeResources(7))
    assert not may_grow(range_config, 3, [ONE] * 9, NodeResources(6))


class Clock:
    """A clock that runs while something sleeps, and a cluster whose nodes come at given seconds."""

    def __init__(self, *comes: float) -> None:
        self.now, self.comes = 0.0, comes

    def look(self) -> list[NodeResources]:
        return [ONE for each in self.comes if each <= self.now]

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("comes", "waited"),
    [((0, 0), SETTLE_TIME), ((0, 3), 3 + SETTLE_TIME), ((0, 9), SETTLE_TIME), (range(99), SETTLE_LIMIT)],
)
def test_nodes_are_counted_when_no_more_come(comes: Sequence[float], waited: float) -> None:
    clock = Clock(*comes)
    assert settled(clock.look, clock=lambda: clock.now, sleep=clock.sleep) is (waited != SETTLE_LIMIT)
    assert clock.now == waited


class World:
    """A planner's cluster: nodes that come while it waits, and what it requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: RunDir, count: int) -> None:
        self.count, self.folder, self.waits, self.requests = count, folder, list[float](), list[int]()
        monkeypatch.setattr(workers, "nodes", lambda: [ONE] * self.count)
        monkeypatch.setattr(workers, "settled", lambda look, **_: True)
        monkeypatch.setattr(workers, "PlacementRequest", self.request)
        monkeypatch.setattr(elastic.time, "monotonic", lambda: sum(self.waits))
        monkeypatch.setattr(elastic.time, "sleep", self.waits.append)

    def request(self, each: dict[str, float], number: int, beside: Any) -> Any:
        self.requests.append(number)
        return self

    def cancel(self) -> None:
        pass

    def planner(self, *overrides: str, joins: bool = True) -> WorkerPlanner:
        return WorkerPlanner(config(*overrides), self.folder, joins=joins)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> World:
    """A cluster with one node left, and a run that had two workers."""
    world = World(monkeypatch, RunDir(tmp_path), 1)
    record_workers(world.folder, config(), CPU_2)
    return world


def test_a_resume_asks_and_waits_for_the_recorded_number(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def sleep(seconds: float) -> None:
        world.waits.append(seconds)
        world.count = 2

    monkeypatch.setattr(elastic.time, "sleep", sleep)
    assert world.planner("cluster.node_wait=60").next(0.0).num_workers == 2
    assert (world.requests, len(world.waits)) == ([2], 1)
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]


@pytest.mark.parametrize(("wait", "joins", "waited"), [(0, True, 0.0), (60, True, 60.0), (60, False, 0.0)])
def test_it_starts_with_fewer_after_the_wait_and_warns_once(
    wait: int, joins: bool, waited: float, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    planner = world.planner(f"cluster.node_wait={wait}", joins=joins)
    placement = planner.next(0.0)
    assert (placement.num_workers, sum(world.waits)) == (1, waited)
    assert len([each for each in caplog.records if each.levelno >= logging.WARNING]) == 1
    assert planner.growth(placement).cluster.num_workers == (1, 2), "it grows when nodes come"
    assert planner.next(60.0).num_workers == 1
    assert sum(world.waits) == waited, "it has waited once"
    world.count = 2
    assert planner.next(60.0) == Placement(2, False, "SPREAD")
    world.count = 1
    planner.next(60.0)
    assert sum(world.waits) == 2 * waited, "a node was lost since"


def test_a_stop_while_it_waits_starts_no_attempt(world: World) -> None:
    settings = config("cluster.node_wait=60")
    with pytest.raises(ConfigError):
        WorkerPlanner(settings, world.folder, joins=True, is_canceled=lambda: True).next(0.0)


def test_a_failure_in_the_first_attempt_returns_to_its_number(world: World) -> None:
    """The record is the driver's own where the workers have written none."""
    world.folder.workers.unlink()
    world.count = 3
    planner = world.planner()
    assert planner.next(0.0).num_workers == 3
    assert planner.growth(Placement(3, False, "SPREAD")).cluster.num_workers == (1, 3)
    world.count = 2
    assert planner.next(60.0).num_workers == 2
    world.count = 3
    assert planner.next(60.0).num_workers == 3


@pytest.mark.parametrize("joins", [True, False])
def test_a_first_start_says_how_to_fix_the_number(joins: bool, world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.folder.workers.unlink()
    assert world.planner(joins=joins).next(0.0).num_workers == 1
    assert ("cluster.num_workers=N" in caplog.text) is joins


def test_a_number_is_waited_for_as_ever(world: World) -> None:
    with pytest.raises(ConfigError, match="can hold 1 workers"):
        world.planner("cluster.num_workers=2", "cluster.node_wait=60").next(0.0)
    assert (world.requests, sum(world.waits)) == ([2], 60.0)
    planner = world.planner("cluster.num_workers=1")
    assert planner.growth(planner.next(0.0)).cluster.num_workers == 1
