"""The torch.distributed process group of Ray Train's workers, made without torch in Ray's controller.

It does what `ray.train.torch.TorchConfig` does for CPUs and NVIDIA's GPUs. That class imports torch wherever it is
unpickled, and so in the controller, which needs none: several seconds of every start.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import ray
import ray.train
from ray.exceptions import GetTimeoutError
from ray.train.backend import Backend, BackendConfig

LEAVE_TIMEOUT = 30.0
"""Seconds in which the workers leave the group before they are ended."""


class _ProcessGroupBackend(Backend):
    """Runs in the controller; Ray calls it when the workers are there, and before it ends them."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Let all workers join one group, of which the first one keeps the store."""
        address, port = worker_group.execute_single(0, _free_address)
        worker_group.execute(_join, address, port, backend_config.timeout_s)

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Let all workers leave it."""
        try:
            ray.get(worker_group.execute_async(_leave), timeout=LEAVE_TIMEOUT)
        except GetTimeoutError:  # they are ended next
            return


@dataclass
class ProcessGroup(BackendConfig):
    """The default group of all workers: NCCL where they have GPUs, otherwise gloo.

    Args:
        timeout_s: seconds after which its collectives fail.
    """

    timeout_s: float

    @property
    def backend_cls(self) -> type[Backend]:
        """What makes it (part of `BackendConfig`)."""
        return _ProcessGroupBackend

    def to_dict(self) -> dict[str, Any]:
        """Its settings (part of `BackendConfig`)."""
        return {"timeout_s": self.timeout_s}


def _free_address() -> tuple[str, int]:
    """Address of this node, and a port that is free now."""
    address = ray.util.get_node_ip_address()
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind(("", 0))
        return address, listener.getsockname()[1]


def _join(address: str, port: int, timeout_s: float) -> None:
    """In each worker: set torchrun's variables, and join the group."""
    import torch.distributed as dist

    context = ray.train.get_context()
    places = {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ |= {name: str(value) for name, value in places.items()}
    if ray.get_gpu_ids() and "TORCH_NCCL_BLOCKING_WAIT" not in os.environ:
        # As Ray does; without it NCCL may wait for ever for a lost worker.
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "1")
    dist.init_process_group("nccl" if ray.get_gpu_ids() else "gloo", timeout=timedelta(seconds=timeout_s))


def _leave() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
