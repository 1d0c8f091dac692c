"""A run that outlives its workers: who continues, who leaves, and when it is given up."""

from pathlib import Path

import pytest
import torch

from ganscale.config import ConfigError, load
from ganscale.parallel.members import FOLDER, Member, Quorum
from ganscale.run import live
from ganscale.run.live import MAX_FAILURES, _Failures, bounds, run_live
from ganscale.run.stop_signal import LiveStopSignal, RegroupError, StopFile, StopReason
from ganscale.storage.lease import BusyError
from ganscale.storage.run_dir import RunDir
from ganscale.training.transactions import Transactions
from tests.fleet import Fleet

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
    transactions.count = count
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


def test_one_that_finds_another_writer_again_and_again_ends() -> None:
    failures, error = _Failures(), BusyError("another process is writing")
    for _ in range(live.MAX_BUSY - 1):
        failures.add_busy(error)
    with pytest.raises(BusyError):
        failures.add_busy(error)
