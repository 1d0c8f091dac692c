"""Launchers without Ray: this process, or the processes that torchrun started."""

import os
from collections.abc import Callable, Sequence
from datetime import timedelta

import torch
import torch.distributed as dist

from ganscale.config import Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.parallel.process_group import destroy, release_ended
from ganscale.run.heartbeats import collective_timeout
from ganscale.run.live import run_live
from ganscale.run.outcome import Outcome
from ganscale.run.session import run_worker
from ganscale.run.stop_signal import SigtermFlag, StopReason, on_sigterm
from ganscale.storage.store import Place
from ganscale.training.loop import Tick


def pick_device(config: Config, *, local_rank: int = 0) -> torch.device:
    """The device of this process.

    Args:
        config: The run's config.
        local_rank: Rank of this process on its machine.

    Raises:
        ConfigError: A GPU is required and there is none for this process.
    """
    if config.train.device == "cpu":
        return torch.device("cpu")
    available = torch.cuda.device_count()
    if local_rank < available:
        torch.cuda.set_device(local_rank)
        return torch.device("cuda", local_rank)
    if config.train.device == "cuda":
        raise ConfigError(
            f"this machine has {available} GPUs, local rank {local_rank} needs one of its own",
            key="train.device",
            value="cuda",
            remedy="use train.device=auto or cpu, or start fewer processes",
        )
    return torch.device("cpu")


def _check_evaluation(config: Config) -> None:
    """Refuse a GPU for the evaluating process, which is on the CPU without Ray."""
    if config.eval.mode == "async" and config.eval.gpus:
        remedy = "use eval.gpus=0, eval.mode=inline, or --launcher ray"
        raise ConfigError(
            "without Ray, eval.mode = async is on the CPU", key="eval.gpus", value=config.eval.gpus, remedy=remedy
        )


def _fits(config: Config, num_workers: int) -> bool:
    """Whether the config allows this number of workers."""
    wanted = config.cluster.num_workers
    if isinstance(wanted, tuple):
        return wanted[0] <= num_workers <= wanted[1]
    return wanted in ("auto", num_workers)


def under_torchrun() -> bool:
    """Whether torchrun started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"))


def launch_local(config: Config, path: Place, callbacks: Sequence[Callable[[Tick], None]] = ()) -> Outcome:
    """Train in this process.

    Args:
        config: The run's config.
        path: The run's folder, or its place in a bucket.
        callbacks: Called on rank 0 with each tick.

    Raises:
        ConfigError: The config requires several workers or a missing GPU.
    """
    _check_evaluation(config)
    if config.cluster.recovery == "live":
        return _launch_live(config, path, callbacks)
    if not _fits(config, 1):
        wanted, remedy = config.cluster.num_workers, "use --launcher ray or torchrun, or cluster.num_workers=1"
        raise ConfigError("the local launcher runs one worker", key="cluster.num_workers", value=wanted, remedy=remedy)
    flag = SigtermFlag()
    with on_sigterm(flag.set):
        return run_worker(config, path, device=pick_device(config), echo=True, ask=flag, callbacks=callbacks)


def launch_torchrun(config: Config, path: Place, callbacks: Sequence[Callable[[Tick], None]] = ()) -> Outcome:
    """Train as one of the workers that torchrun started.

    Args:
        config: The run's config.
        path: The run's folder, or its place in a bucket.
        callbacks: Called on rank 0 with each tick.

    Raises:
        ConfigError: Not under torchrun, or the config requires another number of workers, or a GPU is missing.
    """
    if not under_torchrun():
        remedy = "start it with: torchrun --nproc-per-node 2 -m ganscale.train --launcher torchrun ..."
        raise ConfigError("torchrun did not start this process", key="--launcher", value="torchrun", remedy=remedy)
    _check_evaluation(config)
    if config.cluster.recovery == "live":
        if os.environ["WORLD_SIZE"] != "1":
            raise ConfigError(
                f"torchrun started {os.environ['WORLD_SIZE']} processes, and ends all of them with the first",
                key="cluster.recovery",
                value="live",
                remedy="start each worker by its own torchrun, with --nnodes=1 --nproc-per-node=1",
            )
        return _launch_live(config, path, callbacks)
    world_size, local_rank = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    if not _fits(config, world_size):
        raise ConfigError(
            f"torchrun started {world_size} processes",
            key="cluster.num_workers",
            value=config.cluster.num_workers,
            remedy=f"use cluster.num_workers=auto or {world_size}, or start as many processes",
        )
    check_workers(config, world_size)
    device = pick_device(config, local_rank=local_rank)
    if device.type == "cpu" and config.train.device == "auto" and torch.cuda.is_available():
        raise ConfigError(
            "some processes of this machine would compute on a GPU and others on the CPU",
            key="train.device",
            value="auto",
            remedy=f"start at most {torch.cuda.device_count()} processes here, or use train.device=cpu",
        )
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(seconds=collective_timeout(config)))
    flag = SigtermFlag()
    try:
        with on_sigterm(flag.set):
            outcome = run_worker(config, path, device=device, echo=True, ask=flag, callbacks=callbacks)
    finally:
        destroy()
    release_ended()  # not while an error's traceback refers to the networks
    return outcome


def _launch_live(config: Config, path: Place, callbacks: Sequence[Callable[[Tick], None]]) -> Outcome:
    """Train as one of the workers that reach the lighthouse; SIGTERM lets this one leave."""
    flag = SigtermFlag(StopReason.DRAIN)
    with on_sigterm(flag.set):
        return run_live(config, path, device=pick_device(config), echo=True, ask=flag, callbacks=callbacks)
