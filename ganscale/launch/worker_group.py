"""A group of Ray Train workers that run one function in one torch.distributed process group."""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ray.exceptions import RayError
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    LoggingConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    WorkerGroupError,
)
from ray.train.backend import BackendConfig

from ganscale.config import Config, ConfigError
from ganscale.config.register import ADDED
from ganscale.launch.compat import root_cause
from ganscale.launch.controller import ControllerProcess
from ganscale.launch.placement import Placement, worker_resources
from ganscale.launch.process_group import ProcessGroup
from ganscale.launch.reporting import REPORTS_KEPT, SnapshotFileSystem
from ganscale.launch.trainer import LeanTrainer
from ganscale.launch.worker_setup import TrainingError
from ganscale.run.heartbeats import collective_timeout

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerGroupSpec:
    """The workers of a run."""

    config: Config  # the run's config
    placement: Placement  # number, devices and spread of the workers
    storage: Path  # folder for Ray's own files; each group gets one of its own below it
    max_restarts: int  # how often Ray restarts a failed group
    name: str = ""  # name in Ray's dashboard and results; empty: the run's
    joined: bool = True  # whether the cluster was there before, and may have other jobs and an autoscaler
    live: bool = False  # whether Ray replaces single workers, without limit, while the others continue
    controller: ControllerProcess | None = None  # runs Ray's controller; None: Ray starts a process for this group


def run_worker_group(loop: Callable[[dict[str, Any]], Any], settings: dict[str, Any], group: WorkerGroupSpec) -> Result:
    """Run a function in every worker of a group, restart all when one fails; `return_value` is what rank 0 returned.

    Args:
        loop: The function; returns a `ConfigError` or `TrainingError` that another worker in its place cannot help.
        settings: Its argument; the config and the user's own networks and losses are added.
        group: The workers.

    Raises:
        ConfigError: Rank 0 returned it.
        TrainingError: The workers failed more often than `max_restarts`, or rank 0 returned it.
    """
    config, placement = group.config, group.placement
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(max(60.0, config.cluster.node_wait))
    retries = -1 if group.live else group.max_restarts
    kind = "GPU" if placement.use_gpu else "CPU"
    _logger.info("starting %d workers on %s (this takes a moment)", placement.num_workers, kind)
    trainer = LeanTrainer(
        loop,
        alone=not group.joined,
        process=group.controller,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "extension": ADDED,  # cloudpickle includes classes of the user's script
            **settings,
        },
        backend_config=_backend_config(group),
        scaling_config=ScalingConfig(
            num_workers=placement.num_workers,
            use_gpu=placement.use_gpu,
            resources_per_worker=worker_resources(config, use_gpu=placement.use_gpu),
            placement_strategy=placement.strategy,
        ),
        run_config=RunConfig(
            name=group.name or config.run.name,
            # A folder per group: Ray resumes the snapshot of an earlier one, or refuses to start when it is damaged.
            storage_path=str(group.storage / f"{time.time_ns()}"),
            storage_filesystem=SnapshotFileSystem(),
            checkpoint_config=CheckpointConfig(num_to_keep=REPORTS_KEPT),
            failure_config=FailureConfig(
                max_failures=retries,
                controller_failure_limit=group.max_restarts,
                max_preemption_failures=retries,
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": _worker_environment(config)},
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        cause = _first_cause(error)
        raise TrainingError(f"{type(cause).__name__}: {cause}") from error
    except RayError as error:
        raise TrainingError(f"Ray failed: {type(error).__name__}: {error}") from error
    if isinstance(result.return_value, ConfigError | TrainingError):
        raise result.return_value
    return result


def _backend_config(group: WorkerGroupSpec) -> BackendConfig:
    if group.live:
        from ganscale.launch.live import LiveConfig  # it needs Ray 2.60

        return LiveConfig(max(60.0, group.config.cluster.node_wait))
    return ProcessGroup(collective_timeout(group.config))


def _worker_environment(config: Config) -> dict[str, str]:
    threads = str(config.cluster.cpus_per_worker)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if config.train.deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return environment


def worker_failure(error: TrainingError) -> BaseException:
    """The exception of the worker, or of Ray, that ended a group.

    Args:
        error: Raised by `run_worker_group`.
    """
    cause = error.__cause__
    return _first_cause(cause) if isinstance(cause, TrainingFailedError) else error


def _first_cause(error: TrainingFailedError) -> BaseException:
    """The first worker's own exception, or the controller's."""
    cause: BaseException = error
    if isinstance(error, WorkerGroupError) and error.worker_failures:
        cause = error.worker_failures[min(error.worker_failures)]
    elif isinstance(error, ControllerError):
        cause = error.controller_failure
    return root_cause(cause)
