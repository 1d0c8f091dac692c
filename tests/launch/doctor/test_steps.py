"""Collection with threads in place of actors: facts arrive in the reports, and a node that hangs delays nothing."""

import concurrent.futures
import threading
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from ganscale.config import load
from ganscale.launch.doctor import collect
from ganscale.launch.doctor.checks import Facts

POOL = concurrent.futures.ThreadPoolExecutor(16)
STOP = threading.Event()


class Actor:
    """An actor of one node; some of its functions hang."""

    def __init__(self, hangs: str) -> None:
        self.call = SimpleNamespace(remote=lambda name, *rest: POOL.submit(self._call, name, *rest))
        self._hangs = hangs

    def _call(self, function: str, *arguments: Any) -> Any:
        if function == self._hangs:
            STOP.wait()
        return collect._Caller().call(function, *arguments)


def examine(monkeypatch: pytest.MonkeyPatch, folder: Path, hangs: str) -> Facts:
    """Two nodes, of which w1 trains; a function hangs on w1."""

    def get(call: concurrent.futures.Future[Any], timeout: float) -> Any:
        try:
            return call.result(timeout)
        except concurrent.futures.TimeoutError:
            raise GetTimeoutError from None

    actors = iter([Actor(""), Actor(hangs)])
    entry = {"Alive": True, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": 1, "NodeID": "ab" * 28}
    nodes = [
        entry | {"NodeManagerHostname": "head", "Resources": {}},
        entry | {"NodeManagerHostname": "w1", "Resources": {"CPU": 2.0, "GPU": 1.0}},
        {"Alive": False, "NodeName": "w2"},
    ]
    remote = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda: next(actors)))
    fake = SimpleNamespace(nodes=lambda: nodes, remote=lambda _: remote, get=get)
    monkeypatch.setattr(collect, "ray", fake)
    monkeypatch.setattr(collect, "connected", lambda _: nullcontext())
    return collect.collect(load(None, ["wandb.mode=offline"]), folder, timeout=3.0 if hangs else 60.0)


def test_all_steps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = examine(monkeypatch, tmp_path, "")
    head, worker = facts.nodes
    assert (head.name, head.trains, worker.trains, worker.ray_gpus, facts.dead) == ("head", False, True, 1, ("w2",))
    for node, other in ((head, "w1"), (worker, "head")):
        assert not node.problems
        assert node.versions["torch"]
        assert node.latency_ms.keys() == node.bandwidth_mb.keys() == {other}
        assert (node.clock is not None, node.free_gb is not None, node.unseen) == (True, True, ())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("function", "checks"),
    [
        ("describe", {"nodes"}),
        ("clock", {"clocks"}),
        ("write", {"storage", "free space"}),
        ("find_unseen", {"storage"}),
        ("listen", {"ports"}),
        ("connect", {"ports"}),
    ],
)
def test_a_node_that_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, function: str, checks: set[str]) -> None:
    try:
        head, worker = examine(monkeypatch, tmp_path, function).nodes
    finally:
        STOP.set()
        STOP.clear()
    assert worker.problems.keys() == checks
    assert head.problems.keys() <= {"links"}, "measured along a ring of the other nodes"
    assert head.free_gb
