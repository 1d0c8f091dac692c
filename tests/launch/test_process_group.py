"""The process group of Ray Train's workers, with a worker that is this process."""

import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError

from ganscale.launch import process_group
from ganscale.launch.process_group import ProcessGroup

NAMES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "NODE_RANK")


class OneWorker:
    """A worker group of this process alone."""

    def execute_single(self, _: int, function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    def execute(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        return [function(*arguments)]

    execute_async = execute


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    places = {"world_rank": 0, "world_size": 1, "local_rank": 0, "local_world_size": 1, "node_rank": 0}
    context = SimpleNamespace(**{f"get_{name}": lambda value=value: value for name, value in places.items()})
    monkeypatch.setattr("ray.train.get_context", lambda: context)
    monkeypatch.setattr("ray.get", lambda found, timeout: found)
    monkeypatch.setattr("ray.get_gpu_ids", list)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    for name in NAMES:
        monkeypatch.setenv(name, "to be replaced")
    return OneWorker()


def test_workers_join_a_group_and_leave_it(worker: Any) -> None:
    config = ProcessGroup(77.0)
    backend = config.backend_cls()
    backend.on_start(worker, config)
    try:
        assert (dist.get_backend(), dist.get_rank(), dist.get_world_size()) == ("gloo", 0, 1)
        options = dist.group.WORLD._get_backend(torch.device("cpu")).options  # pyright: ignore
        assert options._timeout.total_seconds() == 77.0
        assert [os.environ[name] for name in NAMES if name != "MASTER_PORT"] == ["127.0.0.1", "0", "1", "0", "1", "0"]
    finally:
        backend.on_shutdown(worker, config)
    assert not dist.is_initialized()
    backend.on_shutdown(worker, config)


def test_workers_with_gpus_take_nccl(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.get_gpu_ids", lambda: [3])
    monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    monkeypatch.setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "")
    monkeypatch.delenv("TORCH_NCCL_ASYNC_ERROR_HANDLING")
    joined = []
    monkeypatch.setattr(dist, "init_process_group", lambda backend, timeout: joined.append((backend, timeout.seconds)))
    config = ProcessGroup(5.0)
    config.backend_cls().on_start(worker, config)
    assert joined == [("nccl", 5)]
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "1"
    assert config.backend_cls.share_cuda_visible_devices, "so that NCCL can use peer-to-peer copies"


def test_workers_that_do_not_leave_in_time_are_ended_by_ray(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(_: Any, timeout: float) -> None:
        assert timeout == process_group.LEAVE_TIMEOUT
        raise GetTimeoutError

    monkeypatch.setattr("ray.get", late)
    config = ProcessGroup(5.0)
    config.backend_cls().on_shutdown(worker, config)
