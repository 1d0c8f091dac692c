"""Live recovery on Ray without a cluster: where the lighthouse is, who starts again, what a stop request means."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import ConfigError, load
from ganscale.launch import compat, live_loop, worker_group
from ganscale.launch.heartbeat_exchange import HeartbeatExchange
from ganscale.launch.placement import Placement
from ganscale.launch.worker_group import TrainingError, WorkerGroupSpec
from ganscale.parallel import members
from ganscale.parallel.members import LIGHTHOUSE
from ganscale.run.session import Outcome
from ganscale.run.stop_signal import StopReason

live = pytest.importorskip("ganscale.launch.live", reason="Ray 2.59 has no replica groups")
CONFIG = load(overrides=("train.images=720", "cluster.recovery=live", "cluster.num_workers=2", "train.device=cpu"))


class Workers:
    """A worker group as backends see it."""

    def execute(self, function: Callable[..., None], *arguments: Any) -> None:
        function(*arguments)

    def execute_single(self, rank: int, function: Callable[..., Any]) -> str:
        return "room"


@pytest.mark.parametrize(
    ("ip", "expected"), [("10.0.0.7", "http://10.0.0.7:4711"), ("fd00::7", "http://[fd00::7]:4711")]
)
def test_workers_find_the_lighthouse_by_its_nodes_address(
    ip: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(LIGHTHOUSE, "")
    monkeypatch.setattr(live, "get_node_ip_address", lambda: ip)
    monkeypatch.setattr(live, "placement_group_table", lambda room: {})
    backend = live.LiveBackend()
    backend._lighthouse = lambda settings: "http://head-pod:4711"
    backend.on_start(Workers(), live.LiveConfig(60.0))
    assert os.environ[LIGHTHOUSE] == expected


def test_ray_replaces_single_workers_without_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[dict[str, Any]] = []

    class Trainer:
        def __init__(self, loop: Any, **options: Any) -> None:
            made.append(options)

        def fit(self) -> Any:
            return type("Result", (), {"return_value": TrainingError("all workers died")})

    monkeypatch.setattr(worker_group, "LeanTrainer", Trainer)
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "")
    for is_live in (True, False):
        spec = WorkerGroupSpec(CONFIG, Placement(2, use_gpu=False, strategy="PACK"), tmp_path, 0, live=is_live)
        with pytest.raises(TrainingError, match="all workers died"):
            worker_group.run_worker_group(print, {}, spec)
    failures = [options["run_config"].failure_config for options in made]
    assert [(each.max_failures, each.controller_failure_limit) for each in failures] == [(-1, 0), (0, 0)]
    backends = [options["backend_config"].backend_cls for options in made]
    assert [backend.__name__ for backend in backends] == ["LiveBackend", "_ProcessGroupBackend"]
    assert backends[0].has_replica_groups
    assert made[0]["backend_config"].lighthouse_kwargs["min_replicas"] == 1


class Channel(HeartbeatExchange):
    """A worker's channel to an actor in this process."""

    def ask(self) -> StopReason:
        return StopReason.DRAIN


def train(monkeypatch: pytest.MonkeyPatch, folder: Path, channel: Any, run: Callable[..., Any]) -> Any:
    monkeypatch.setattr(live_loop, "run_live", lambda config, path, **options: run(**options))
    return live_loop.train_live(CONFIG, folder, channel, num_workers=2)


def begins(*, begin: Callable[[], None], ask: Callable[[], StopReason], **_: Any) -> Outcome:
    """A run that has to be read from storage."""
    begin()
    return Outcome(720, 0, stop_reason=ask())


def test_only_the_first_workers_of_an_attempt_begin_from_storage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    channel = Channel()
    for _ in range(2):
        assert train(monkeypatch, tmp_path, channel, begins) == Outcome(720, 0, stop_reason=StopReason.STOP)

    def fail(**_: Any) -> None:
        raise RuntimeError("the disk is full")

    with pytest.raises(RuntimeError, match="disk"):  # Ray replaces it
        train(monkeypatch, tmp_path, channel, fail)
    found = train(monkeypatch, tmp_path, channel, begins)
    assert isinstance(found, TrainingError)
    assert str(pickle.loads(pickle.dumps(found))) == "RuntimeError: the disk is full"
    joins = train(monkeypatch, tmp_path, channel, lambda **_: Outcome(720, 360))
    assert joins == Outcome(720, 360), "others have the state"


def test_who_comes_after_the_end_finds_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    channel = Channel()
    for _ in range(3):
        channel.start()
    assert isinstance(train(monkeypatch, tmp_path, channel, begins), TrainingError)
    (tmp_path / "checkpoints" / "000000000720").mkdir(parents=True)
    assert train(monkeypatch, tmp_path, channel, begins).images == 720


def test_invalid_settings_are_no_failure_of_the_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(**_: Any) -> None:
        raise ConfigError("not here", key="train.device", value="cuda")

    channel = Channel()
    with pytest.raises(ConfigError):
        train(monkeypatch, tmp_path, channel, refuse)
    assert channel.starts() == (1, "")


@pytest.mark.parametrize(
    ("states", "removed"),
    [(["CREATED"] * 9 + ["REMOVED"], False), (["CREATED", *["RESCHEDULING"] * 9], True), ([None], False)],
    ids=["stays", "lost", "unknown"],
)
def test_room_that_is_not_found_again_is_given_up(
    monkeypatch: pytest.MonkeyPatch, states: list[str | None], *, removed: bool
) -> None:
    left, calls = iter(states), list[object]()
    monkeypatch.setattr(live, "placement_group_table", lambda room: {"state": "REMOVED" if calls else next(left)})
    monkeypatch.setattr(live, "remove_placement_group", calls.append)
    live.give_up_without_room("room", 0.01, poll=0.005)
    assert calls == ["room"] * removed


def test_nobody_leaves_alone() -> None:
    expected = {StopReason.DRAIN: StopReason.STOP, StopReason.RESIZE: StopReason.NONE}
    assert {reason: live_loop.everyone(reason) for reason in StopReason} == {
        each: each for each in StopReason
    } | expected


def test_the_actor_forgets_workers_that_there_are_no_more() -> None:
    exchange = HeartbeatExchange()
    for rank in range(3):
        exchange.exchange({"rank": rank})
    exchange.open(2)
    assert [each["rank"] for each in exchange.read()] == [0, 1]


@pytest.mark.parametrize("what", ["ray", "torchft"])
def test_what_is_missing_is_refused_before_a_start(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    compat.check_live()
    if what == "ray":
        monkeypatch.setattr(compat, "LIVE", ("ray.train.v2.torch.torchft_config", ("Gone",)))
    else:
        monkeypatch.setattr(members, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        compat.check_live()
    assert (caught.value.key, caught.value.value) == ("cluster.recovery", "live")
    assert what in str(caught.value).lower()
