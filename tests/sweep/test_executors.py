"""Messages to a worker group: answered once, and sent again to workers that were restarted."""

import queue
import threading
from pathlib import Path
from typing import Any

import pytest

from ganscale.config import load
from ganscale.launch.placement import Placement
from ganscale.launch.worker_group import TrainingError, WorkerGroupSpec
from ganscale.storage.lease import NO_DRIVER
from ganscale.sweep import executors
from ganscale.sweep.executors import READY, TrialSpec, WorkerGroupExecutor

WORK = TrialSpec({}, {}, (0,), ("modes",), Path("folder"), True, (), 0, NO_DRIVER)


class FakeQueue(queue.Queue):
    """Stands in for Ray's queue."""

    def __init__(self, actor_options: dict[str, Any]) -> None:
        assert actor_options == {"num_cpus": 0}
        super().__init__()


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> WorkerGroupExecutor:
    monkeypatch.setattr(executors, "Queue", FakeQueue)
    monkeypatch.setattr(executors, "Empty", queue.Empty)
    return WorkerGroupExecutor(load(), Placement(2, False, "PACK"), tmp_path, "sweep-workers")


def serve(monkeypatch: pytest.MonkeyPatch, worker: Any) -> None:
    """Replace the workers by a function of (messages, answers)."""

    def run(loop: Any, settings: dict[str, Any], group: WorkerGroupSpec) -> None:
        assert (group.placement.num_workers, group.name) == (2, "sweep-workers")
        worker(settings["messages"], settings["answers"])

    monkeypatch.setattr(executors, "run_worker_group", run)


def test_messages_are_answered_in_turn(group: WorkerGroupExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def worker(messages: FakeQueue, answers: FakeQueue) -> None:
        answers.put((READY, None))
        while (message := messages.get())[2] != "stop":
            seen.append(message)
            answers.put((message[0], f"row {message[3]}"))

    serve(monkeypatch, worker)
    assert [group.run(WORK, "row", number) for number in range(3)] == ["row 0", "row 1", "row 2"]
    group.run(WORK, "save", "/tmp/x")
    assert [(verb, argument) for _, work, verb, argument in seen if work == WORK] == [
        ("row", 0),
        ("row", 1),
        ("row", 2),
        ("save", "/tmp/x"),
    ]
    threads = threading.active_count()
    group.close()
    assert threading.active_count() == threads - 1


def test_restarted_workers_get_the_message_again(group: WorkerGroupExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    def worker(messages: FakeQueue, answers: FakeQueue) -> None:
        answers.put((READY, None))
        messages.get()  # lost with the worker
        answers.put((READY, None))
        while (message := messages.get())[2] != "stop":
            answers.put((message[0], message[3]))

    serve(monkeypatch, worker)
    assert group.run(WORK, "row", 5) == 5
    assert group.run(WORK, "row", 6) == 6
    group.close()


@pytest.mark.parametrize("error", [None, TrainingError("the disk is full")])
def test_the_end_of_the_workers_is_an_error(
    group: WorkerGroupExecutor, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def worker(messages: FakeQueue, answers: FakeQueue) -> None:
        answers.put((READY, None))
        messages.get()
        if error:
            raise error

    serve(monkeypatch, worker)
    with pytest.raises(TrainingError, match="the disk is full" if error else "the workers ended"):
        group.run(WORK, "row", 0)
