"""A run that outlives its workers: who continues, who leaves, and when it is given up."""

import json
from pathlib import Path

import pytest
import torch

from ganscale.config import ConfigError, load
from ganscale.parallel.quorum import Member, Quorum
from ganscale.run import live
from ganscale.run.live import MAX_FAILURES, _Failures, bounds, run_live
from ganscale.run.stop_signal import LiveStopSignal, RegroupError, StopFile, StopReason
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import drop_rollbacks, read_rollbacks
from tests.fleet import Fleet

CPU = torch.device("cpu")
NONE, RESIZE, DRAIN, STOP, STORAGE = StopReason


def decided(reasons: tuple[StopReason, ...]) -> str:
    """What a replica does, each having a reason of its own."""
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    try:
        return f"stops {signal.agreed.name}" if (signal := LiveStopSignal(CPU, lambda: reasons[rank]))() else "trains"
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
    def quorum(*names: str) -> Quorum:
        return Quorum("q", tuple(Member(name, "", 1, 0, 0) for name in names), 0, 0)

    failures, error = _Failures(), RuntimeError("wrong shape")
    for count, names in ((5, "abc"), (5, "abc"), (5, "ab"), (5, "ab"), (6, "ab"), (6, "ab")):
        failures.add(count, quorum(*names), error)
    with pytest.raises(RuntimeError, match="wrong shape"):
        failures.add(6, quorum("b", "a"), error)
    assert MAX_FAILURES == 3


def test_the_bell_asks_for_a_new_group_but_leaves_a_stop_in_force(tmp_path: Path) -> None:
    bell = StopFile(tmp_path / "stop")
    live._ring(bell)
    asked = live._asking(lambda: NONE, bell)
    assert asked() == RESIZE
    StopFile(tmp_path / "stop").write(STOP)
    live._ring(bell)
    assert asked() == STOP


def test_another_process_cannot_let_rank_0_leave(tmp_path: Path) -> None:
    bell = StopFile(tmp_path / "stop")
    bell.write(DRAIN)
    assert live._asking(lambda: NONE, bell)() == NONE
    assert live._asking(lambda: DRAIN, bell)() == DRAIN


def test_rollbacks_of_a_tick_that_is_done_again_are_forgotten(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    rows = [{"at": 30, "to": 20}, {"at": 50, "to": 40}]
    folder.rollbacks.write_text(json.dumps(rows), encoding="utf-8")
    drop_rollbacks(folder, 2)
    assert read_rollbacks(folder) == rows
    drop_rollbacks(folder, 1)
    assert read_rollbacks(folder) == rows[:1]
