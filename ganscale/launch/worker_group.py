"""A group of Ray Train workers that run one function together, in one process group of torch.distributed."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray.exceptions import RayError
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from ganscale.config import Config, ConfigError, parse
from ganscale.config.register import ADDED, register
from ganscale.launch.placement import Placement, worker_resources
from ganscale.run.session import collective_timeout


class TrainingError(RuntimeError):
    """The run ended before its end; the message is the root cause."""


@dataclass(frozen=True)
class WorkerGroupSpec:
    """The workers of a run.

    Attributes:
        config: the run's.
        placement: number, devices and spread of the workers.
        storage: folder for Ray's own files.
        max_restarts: times that a failed group is started again.
    """

    config: Config
    placement: Placement
    storage: Path
    max_restarts: int


def run_worker_group(loop: Callable[[dict[str, Any]], Any], settings: dict[str, Any], group: WorkerGroupSpec) -> Any:
    """Run a function in every worker of a group, restarting all of them when one fails, and return rank 0's result.

    Args:
        loop: the function; it returns a `ConfigError` for the user to mend instead of raising it, as that is not
            worth a restart.
        settings: its argument, and what the user registered.
        group: the workers.

    Raises:
        ConfigError: rank 0 returned it.
        TrainingError: the workers failed more often than `max_restarts`.
    """
    config, placement = group.config, group.placement
    kind = "GPU" if placement.use_gpu else "CPU"
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # the driver itself looks for nodes that go
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")  # it is also how late ends and deaths are seen
    # how long Ray waits for the workers' room before it calls the start failed
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(max(60.0, config.cluster.node_wait))
    print(f"starting {placement.num_workers} workers on {kind} (this takes a moment)", flush=True)
    trainer = TorchTrainer(
        loop,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "extension": ADDED,  # cloudpickle takes classes of the user's script along
            **settings,
        },
        torch_config=TorchConfig(timeout_s=max(1, round(collective_timeout(config)))),
        scaling_config=ScalingConfig(
            num_workers=placement.num_workers,
            use_gpu=placement.use_gpu,
            resources_per_worker=worker_resources(config, use_gpu=placement.use_gpu),
            placement_strategy=placement.strategy,
        ),
        run_config=RunConfig(
            name=f"{time.time_ns()}",  # never resumed: a damaged snapshot of Ray's would keep a run from starting
            storage_path=str(group.storage),
            failure_config=FailureConfig(
                max_failures=group.max_restarts,
                controller_failure_limit=group.max_restarts,
                max_preemption_failures=group.max_restarts,
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": _worker_environment(config)},
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        cause = _root_cause(error)
        raise TrainingError(f"{type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise TrainingError(f"Ray gave up: {type(error).__name__}: {error}") from error
    if isinstance(result.return_value, ConfigError):
        raise result.return_value
    return result.return_value


def prepare_worker(settings: dict[str, Any]) -> tuple[Config, torch.device]:
    """In a worker: its device, and the run's config, with what the user registered.

    Raises:
        ConfigError: the config does not fit what is installed here.
    """
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    register(**settings["extension"])
    return parse(settings["config"]), device


def _worker_environment(config: Config) -> dict[str, str]:
    threads = str(config.cluster.cpus_per_worker)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if config.train.deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return environment


def _root_cause(error: TrainingFailedError) -> BaseException:
    """The first worker's own exception, or the controller's."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = error.worker_failures[min(error.worker_failures)]
    elif isinstance(error, ControllerError):
        cause = error.controller_failure
    while isinstance(inner := getattr(cause, "cause", None) or getattr(cause, "_base_exc", None), BaseException):
        cause = inner
    return cause
