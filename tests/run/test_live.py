"""A run that outlives its workers: who continues, who leaves, and when it is given up."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from ganscale.config import ConfigError, load
from ganscale.config.errors import ExecutionError
from ganscale.parallel.members import FOLDER, Member, Quorum
from ganscale.parallel.quorum import QuorumError
from ganscale.parallel.replica import Replica
from ganscale.run import live
from ganscale.run.callback import Callback
from ganscale.run.live import MAX_FAILURES, _Failures, bounds, run_live
from ganscale.run.recovery import check_shared
from ganscale.run.session import Live, Session, _begin
from ganscale.run.stop_signal import LiveStopSignal, RegroupError, StopFile, StopReason, StopSignal
from ganscale.storage.lease import BusyError
from ganscale.storage.run_dir import RunDir
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.transactions import Transactions
from tests.fleet import Fleet
from tests.runs import MLP, tiny

CPU = torch.device("cpu")
NONE, RESIZE, DRAIN, STOP, STORAGE = StopReason


def quorum(names: str) -> Quorum:
    """Of members that have a state."""
    return Quorum("q", tuple(Member(name, "", 1, 0, 0, {}) for name in names), 0, 5)


def decided(reasons: tuple[StopReason, ...], least: int = 1) -> str:
    """What a replica does, each having a reason of its own."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    signal = LiveStopSignal(CPU, lambda: reasons[rank], least=least)
    try:
        return f"stops {signal.agreed.name}" if signal() else "trains"
    except RegroupError as change:
        return "leaves" if change.leaves else "regroups"


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ((NONE, NONE), ["trains", "trains"]),
        ((NONE, RESIZE), ["regroups", "regroups"]),
        ((DRAIN, NONE), ["leaves", "regroups"]),
        ((DRAIN, RESIZE), ["leaves", "regroups"]),
        ((DRAIN, DRAIN), ["stops STOP", "stops STOP"]),
        ((STOP, DRAIN), ["stops STOP", "stops STOP"]),
        ((STORAGE, NONE), ["stops STORAGE", "stops STORAGE"]),
    ],
)
def test_some_leave_and_the_others_regroup(fleet: Fleet, reasons: tuple[StopReason, ...], expected: list[str]) -> None:
    assert fleet.run(decided, 2, reasons) == expected


@pytest.mark.multiprocess
def test_the_run_stops_and_saves_when_too_few_would_remain(fleet: Fleet) -> None:
    assert fleet.run(decided, 2, (DRAIN, NONE), 2) == ["stops STOP", "stops STOP"]
    assert fleet.run(decided, 2, (NONE, RESIZE), 2) == ["regroups", "regroups"]


@pytest.mark.parametrize(
    ("reason", "expected"), [(NONE, "trains"), (RESIZE, "regroups"), (DRAIN, "stops STOP"), (STOP, "stops STOP")]
)
def test_the_last_worker_stops_the_run_when_it_is_to_leave(reason: StopReason, expected: str) -> None:
    assert decided((reason,)) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"), [("[2, 8]", (2, 8)), ("3", (1, 3)), ("auto", (1, 12)), ("[1, 12]", (1, 12))]
)
def test_bounds_of_the_number_of_workers(wanted: str, expected: tuple[int, int]) -> None:
    assert bounds(load(overrides=(f"cluster.num_workers={wanted}", "train.batch_size=12"))) == expected


def test_every_worker_has_rows() -> None:
    config = load(overrides=("train.batch_size=12", "train.accumulation=5", "cluster.num_workers=auto"))
    assert bounds(config) == (1, 2)


def test_gpus_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        run_live(load(), Path("nowhere"), device=torch.device("cuda"), echo=False)
    assert caught.value.key == "train.device"


def test_a_transaction_that_fails_though_no_worker_is_lost_ends_the_run() -> None:
    failures, error = _Failures(), RuntimeError("wrong shape")
    for count, names in ((5, "abc"), (5, "abc"), (5, "ab"), (5, "ab"), (6, "ab"), (6, "ab")):
        failures.add(count, quorum(names), error)
    with pytest.raises(RuntimeError, match="wrong shape"):
        failures.add(6, quorum("ba"), error)
    assert MAX_FAILURES == 3


def test_a_request_to_join_asks_for_a_new_group_but_leaves_a_stop_in_force(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    live._request_join(StopFile(folder.stop), folder, 2)
    asked = live._asking(lambda: NONE, StopFile(folder.stop))
    assert asked() == RESIZE
    StopFile(folder.stop).write(STOP)
    live._request_join(StopFile(folder.stop), folder, 2)
    assert asked() == STOP


def test_a_request_to_join_replaces_a_drain_of_an_earlier_attempt(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    StopFile(folder.stop).write(DRAIN)
    live._request_join(StopFile(folder.stop), folder, 2)
    assert StopFile(folder.stop).read() == RESIZE


@pytest.mark.parametrize(("size", "expected"), [(1, RESIZE), (2, NONE), (3, NONE)])
def test_no_worker_requests_to_join_a_full_group(tmp_path: Path, size: int, expected: StopReason) -> None:
    folder = RunDir(tmp_path)
    live._record(Transactions(), quorum("abc"[:size]), folder, StopFile(folder.stop))
    live._request_join(StopFile(folder.stop), folder, 2)
    assert StopFile(folder.stop).read() == expected


@pytest.mark.parametrize(
    ("left", "count", "expected"), [(STOP, 0, NONE), (DRAIN, 0, NONE), (RESIZE, 3, NONE), (STOP, 3, STOP)]
)
def test_a_stop_that_an_earlier_attempt_left_does_not_count(
    tmp_path: Path, left: StopReason, count: int, expected: StopReason
) -> None:
    folder, transactions = RunDir(tmp_path), Transactions()
    transactions.count, transactions.group = count, 5
    StopFile(folder.stop).write(left)
    live._record(transactions, quorum("a"), folder, StopFile(folder.stop))
    assert StopFile(folder.stop).read() == expected
    assert live._last_group(folder) == (5, 1)


def test_another_process_cannot_let_rank_0_leave(tmp_path: Path) -> None:
    requests = StopFile(tmp_path / "stop")
    requests.write(DRAIN)
    assert live._asking(lambda: NONE, requests)() == NONE
    assert live._asking(lambda: DRAIN, requests)() == DRAIN


def test_workers_of_a_run_have_its_folder_and_settings_in_common(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def facts(*overrides: str, path: Path = tmp_path / "run") -> dict[str, str]:
        return live.shared(load(overrides=overrides), RunDir(path))

    monkeypatch.chdir(tmp_path)
    same = ("cluster.timeout=77", "wandb.mode=offline", "data.num_workers=0", "train.device=cpu")
    assert facts() == facts(*same, path=Path("run"))
    assert facts()[FOLDER] == str(tmp_path / "run")
    for other in ("run.seed=1", "train.batch_size=12", "cluster.num_workers=3", "log.every=640"):
        key = other.partition("=")[0]
        assert facts()[key] != facts(other)[key]


def seen(path: Path) -> str:
    """What a replica does that sees the run's folder, or not: rank 1 does not."""
    replica = Replica.current()
    folder = RunDir(path if replica.is_rank_zero else path / "elsewhere")
    try:
        check_shared(folder, replica, live=True)
    except RegroupError as change:
        return "leaves" if change.leaves else "regroups"
    except ExecutionError as error:
        return str(error)
    return "trains"


@pytest.mark.multiprocess
def test_only_the_worker_that_does_not_see_the_folder_ends(fleet: Fleet, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    sighted, blind = fleet.run(seen, 2, tmp_path)
    assert sighted == "regroups"
    assert "1 of 2 workers do not see" in blind


@pytest.mark.parametrize(
    ("recorded", "count", "group"), [(3, 4, 5), (4, 4, 5), (7, 0, 8)], ids=["earlier", "own", "later"]
)
def test_a_group_is_later_than_the_recorded_one_whatever_a_lighthouses_clock_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorded: int, count: int, group: int
) -> None:
    folder, transactions = RunDir(tmp_path), Transactions()
    transactions.count, transactions.group = 4, 4
    monkeypatch.setattr(transactions, "synchronize", lambda source, time: setattr(transactions, "group", time))
    folder.group.write_text(f"{recorded} 1", encoding="utf-8")
    members = (Member("a", "", 4, 0, 4, {}),)
    live._synchronize(transactions, Quorum("q", members, 0, 5), folder)
    assert (transactions.count, transactions.group) == (count, group)
    live._record(transactions, quorum("a"), folder, StopFile(folder.stop))
    assert live._last_group(folder) == (group, 1)


@pytest.mark.parametrize(("rows", "expected"), [(0, 3), (1, 3), (2, 0)])
def test_a_recorded_rollback_that_the_copy_does_not_have_holds(tmp_path: Path, rows: int, expected: int) -> None:
    experiment, folder = build(tiny(*MLP)), RunDir(tmp_path)
    transactions = Transactions()
    for _ in train(experiment, intervals={}, until=2 * experiment.sampler.images_per_iteration):
        pass
    experiment.state.rollbacks = 1
    transactions._saved, transactions.count = {"state": experiment.state.state_dict()}, 3
    folder.rollbacks.write_text(json.dumps([{"at": 30, "to": 20}] * rows), encoding="utf-8")
    new, lines = build(tiny(*MLP)), []
    _begin(new, folder, Replica.current(), lines.append, Live(transactions, lambda: None, lambda: None))
    assert transactions.count == expected
    assert (new.state.images > 0) == bool(expected)
    assert new.state.rollbacks == max(rows, 1)
    assert "rolled back" in lines[0] or expected


@pytest.mark.parametrize(("error", "expected"), [(RegroupError(leaves=False), True), (RuntimeError(), False)])
def test_trackers_end_a_group_that_another_continues_without_a_failure(error: Exception, expected: bool) -> None:
    ends: list[bool] = []

    class Ends(Callback):
        def on_end(self, session: Session, *, completed: bool) -> None:
            ends.append(completed)

    class Changes(StopSignal):
        def __call__(self) -> bool:
            raise error

    session = Session(build(tiny(*MLP)), intervals={}, callbacks=[Ends()], stop_signal=Changes(CPU))
    with pytest.raises(type(error)):
        list(session.ticks())
    assert ends == [expected]


@pytest.mark.parametrize(("count", "waits"), [(0, False), (3, True)])
def test_a_worker_that_is_to_leave_while_it_waits_does_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int, waits: bool
) -> None:
    monkeypatch.setattr(live, "GRACE", 0.2)
    transactions, polls = Transactions(), 0

    class Waits:
        def quorum(self, *_: int, poll: Callable[[], None], **__: float) -> Quorum:
            nonlocal polls
            while True:
                poll()
                polls += 1
                time.sleep(0.01)

    transactions.count = count
    with pytest.raises(RegroupError) as caught:
        live._wait(load(), cast("Any", Waits()), transactions, 0, RunDir(tmp_path), lambda: DRAIN)
    assert caught.value.leaves
    assert (polls > 0) == waits


def test_a_spare_worker_waits_on_where_the_group_is_full(tmp_path: Path) -> None:
    folder, answers = RunDir(tmp_path), [QuorumError("none"), QuorumError("none"), quorum("ab")]

    class Answers:
        def quorum(self, *_: int, **__: float) -> Quorum:
            answer = answers.pop(0)
            if isinstance(answer, QuorumError):
                raise answer
            return answer

    config = load(overrides=("cluster.num_workers=2",))
    waiting = (config, cast("Any", Answers()), Transactions(), None, folder, lambda: NONE)
    with pytest.raises(QuorumError):
        live._wait(*waiting)
    live._record(Transactions(), quorum("ab"), folder, StopFile(folder.stop))
    assert live._wait(*waiting)[0] == quorum("ab")


def test_one_that_finds_another_writer_again_and_again_ends() -> None:
    failures, error = _Failures(), BusyError("another process is writing")
    for _ in range(live.MAX_BUSY - 1):
        failures.add_busy(error)
    with pytest.raises(BusyError):
        failures.add_busy(error)
