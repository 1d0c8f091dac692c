"""`cluster.recovery: live`: workers die, hang, come and go; the others keep their processes and the run its numbers."""

import math
import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cluster.machines import obstacle
from ganscale.config import load
from ganscale.run.session import run_worker
from ganscale.run.stop_signal import StopFile, StopReason
from ganscale.storage.run_dir import RunDir
from tests.chaos.live_campaign import RUN, Plan, history, outcome
from tests.live import Fault, Workers, struck

pytest.importorskip("torchft", reason="torchft has wheels for CPython 3.11 on Linux only")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The end of the run that one worker computes by itself."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_worker(load(overrides=RUN), folder, device=torch.device("cpu"), echo=False)
    return outcome(folder)


def check(folder: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]]) -> None:
    """The run has the numbers of the undisturbed one."""
    (state, rows), (expected, expected_rows) = outcome(folder), undisturbed
    torch.testing.assert_close(state, expected, rtol=1e-9, atol=1e-9)
    assert [row["images"] for row in rows] == [row["images"] for row in expected_rows]
    torch.testing.assert_close(rows, expected_rows, rtol=1e-9, atol=1e-9)
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "fault",
    [Fault("update", 25), pytest.param(Fault("row", 3), marks=pytest.mark.slow)],
    ids=["update", "row"],
)
def test_a_worker_is_killed_and_another_joins(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]], fault: Fault
) -> None:
    with Workers(RUN, tmp_path / "run", wanted=3) as workers:
        victim = workers.start(fault)
        workers.until(lambda: workers.members() == 1, "the first worker trains")
        survivors = [workers.start(), workers.start()]
        assert workers.wait(victim) == -signal.SIGKILL
        joined = workers.start()
        assert [workers.wait(each) for each in (*survivors, joined)] == [0, 0, 0]
        assert workers.members() == 3
        assert "resuming at" not in workers.log  # the state comes from memory, not from storage
        check(workers.folder, undisturbed)


@pytest.mark.multiprocess
def test_a_worker_that_is_to_leave_does_so_between_two_iterations(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    with Workers(RUN, tmp_path / "run", wanted=3) as workers:
        first, second = workers.start(), workers.start()
        workers.until(lambda: workers.members() == 2, "both workers train")
        assert first.pid is not None
        os.kill(first.pid, signal.SIGTERM)
        workers.want(1)
        assert workers.wait(first) == 75
        assert workers.wait(second) == 0
        assert "resuming at" not in workers.log
        check(workers.folder, undisturbed)


@pytest.mark.multiprocess
def test_the_number_of_workers_stays_within_its_bounds(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]]
) -> None:
    settings = (*RUN, "cluster.num_workers=[2,3]")
    with Workers(settings, tmp_path / "run", wanted=3, heartbeat_timeout=3.0) as workers:
        first = workers.start()
        second = workers.start()
        workers.until(lambda: workers.members() > 0, "the least number of workers trains")
        assert workers.members() == 2
        workers.want(4)  # there are never as many: worker 0 waits at each tick
        third = workers.start()
        workers.until(lambda: " / " in workers.log.partition("for 3 workers on cpu")[2], "the third one trains")
        spare = workers.start()
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        workers.until(lambda: len(re.findall(r"for 3 workers on cpu", workers.log)) > 1, "the spare one joins")
        workers.want(1)
        assert [workers.wait(each) for each in (second, third, spare)] == [0, 0, 0]
        assert "for 1 worker on cpu" not in workers.log
        assert "for 4 workers on cpu" not in workers.log
        check(workers.folder, undisturbed)


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.skipif(bool(obstacle()), reason="namespaces need root")
@pytest.mark.parametrize("place", [0, 1], ids=["with_the_lighthouse", "without"])
@pytest.mark.parametrize("fault", [Fault("update", 25, "cut", 20.0), Fault("update", 25, "off", 5.0)], ids=str)
def test_a_machine_is_lost(
    tmp_path: Path, undisturbed: tuple[dict[str, Any], list[dict[str, Any]]], fault: Fault, place: int
) -> None:
    planned = Plan([None, fault, None], [None], [1 - place, place, 2])
    killed, survivors, unchanged = history(planned, tmp_path / "run", hosts=True)
    assert len(struck(tmp_path / "run")) == 1
    assert (killed, survivors, unchanged) == ((1, 3, 3) if fault.what == "off" else (0, 3, 3))
    check(tmp_path / "run", undisturbed)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_workers_form_a_group_again_many_times(tmp_path: Path) -> None:
    """Freeing the old group while gloo's threads free the tensors of its last calls must not stop a worker."""
    settings = (*RUN, "train.images=120000000", "log.every=1200", "checkpoint.every=120000000")
    with Workers((*settings, "log.samples_every=120000000"), tmp_path / "run", wanted=1) as workers:
        for _ in range(3):
            workers.start()
        workers.until(lambda: workers.members() == 3, "all train")
        for count in range(400):
            StopFile(RunDir(workers.folder).stop).write(StopReason.RESIZE)
            workers.until(lambda before=count: workers.log.count("continuing at") > before, "a new group", 60.0)
            assert workers.members() == 3, f"a worker is missing after {count + 1} groups"
