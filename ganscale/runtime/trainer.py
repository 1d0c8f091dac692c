"""A run as a Ray Train job: join or start the cluster, place the workers, show their progress, report how it ended."""

import logging
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

_SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how often the controller looks at its workers; 2 s wastes 4 s a run
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # under `uv run`, workers use the cluster's environment, not one of their own
}
logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)  # says that tokens are on, as they should be
for _name, _value in _SETTINGS.items():  # before ray is imported: it reads some of them then
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
import torch  # noqa: E402
from ray.exceptions import RayError  # noqa: E402
from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig  # noqa: E402
from ray.train.torch import TorchConfig, TorchTrainer, get_device  # noqa: E402
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError  # noqa: E402

from ganscale.config import Config, ConfigError, parse  # noqa: E402
from ganscale.config.checks import check_workers  # noqa: E402
from ganscale.extension import ADDED, extend  # noqa: E402
from ganscale.runfolder import RunFolder, check_free  # noqa: E402
from ganscale.runtime.address import reach  # noqa: E402
from ganscale.runtime.resources import Node, Placement, place  # noqa: E402
from ganscale.runtime.worker import Outcome, run_worker  # noqa: E402
from ganscale.tracking.console import LogFollower  # noqa: E402

_SLOW = (
    "the Ray cluster at {address} does not answer yet; if it is no longer there, stop this (Ctrl-C), then run "
    "`ray stop`, or train on this machine alone with cluster.address=local"
)


class TrainingError(RuntimeError):
    """The run ended before its end; the message is the root cause."""


def train_on_ray(config: Config, folder: RunFolder) -> Outcome:
    """Run to the end on a Ray cluster, restarting failed workers from their last checkpoint.

    Raises:
        ConfigError: the cluster cannot give what the config asks for, or another process writes to the folder.
        TrainingError: the workers failed more often than `cluster.max_restarts`.
    """
    check_free(folder, patience=min(30.0, config.cluster.timeout / 2), say=lambda line: print(line, flush=True))
    _connect(config)
    try:
        placement = place(config, _nodes())
        check_workers(config, placement.num_workers)
        return _fit(config, folder, placement)
    finally:
        ray.shutdown()


def _connect(config: Config) -> None:
    """Join the cluster of `cluster.address`, or start one on this machine."""
    address = config.cluster.address
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or "auto"
    if address == "auto":
        address = _running_cluster() or "local"
    if address != "local":
        print(f"joining the Ray cluster at {address}", flush=True)
        reach(address)
        patience = threading.Timer(20.0, print, [_SLOW.format(address=address)], {"flush": True})
        patience.daemon = True
        patience.start()
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError) as error:  # RuntimeError: it runs another version of Ray or Python
            raise ConfigError(
                f"the Ray cluster there does not let this process in ({' '.join(str(error).split())[:300]})",
                key="cluster.address",
                value=address,
                remedy="use the cluster's token (RAY_AUTH_TOKEN or ~/.ray/auth_token), Ray and Python",
            ) from None
        finally:
            patience.cancel()
        return
    print("starting Ray on this machine", flush=True)
    workers, each = config.cluster.num_workers, config.cluster.cpus_per_worker
    wanted = (2 if workers == "auto" else workers) * each
    cpus = os.cpu_count() or 1
    most = max(8, 4 * cpus) // each
    if wanted > max(8, 4 * cpus):
        raise ConfigError(
            f"{wanted} CPUs are asked for, this machine has {cpus}",
            key="cluster.num_workers" if most else "cluster.cpus_per_worker",
            value=workers if most else each,
            remedy=f"use at most {most or cpus} {'workers' if most else 'CPUs per worker'}, or join a cluster",
        )
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody drains a cluster of our own
    ray.init(
        address="local",
        num_cpus=max(cpus, wanted),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def _running_cluster() -> str | None:
    """Address of a cluster that `ray start` left on this machine, if it is alive."""
    from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address

    address = find_bootstrap_address(None)
    return canonicalize_bootstrap_address(address) if address else None


def _nodes() -> list[Node]:
    return [
        Node(float(node["Resources"].get("CPU", 0)), float(node["Resources"].get("GPU", 0)))
        for node in ray.nodes()
        if node["Alive"]
    ]


def _fit(config: Config, folder: RunFolder, placement: Placement) -> Outcome:
    kind = "GPU" if placement.use_gpu else "CPU"
    print(f"starting {placement.num_workers} workers on {kind} (this takes a moment)", flush=True)
    resources: dict[str, float] = {"CPU": config.cluster.cpus_per_worker}
    if placement.use_gpu:
        resources["GPU"] = 1
    trainer = TorchTrainer(
        _train_loop,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "path": str(folder.path),
            "extension": ADDED._asdict(),  # cloudpickle takes classes of the user's script along
        },
        torch_config=TorchConfig(timeout_s=max(1, round(config.cluster.timeout))),
        scaling_config=ScalingConfig(
            num_workers=placement.num_workers,
            use_gpu=placement.use_gpu,
            resources_per_worker=resources,
            placement_strategy=placement.strategy,
        ),
        run_config=RunConfig(
            name=f"{time.time_ns()}",  # never resumed: a damaged snapshot of Ray's would keep a run from starting
            storage_path=str(folder.path / ".ray"),
            failure_config=FailureConfig(max_failures=config.cluster.max_restarts),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": _worker_environment(config)},
        ),
    )
    with _Following(folder.log):
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            cause = _root_cause(error)
            raise TrainingError(f"{type(cause).__name__}: {cause}") from error
        except RayError as error:
            raise TrainingError(f"Ray gave up: {type(error).__name__}: {error}") from error
    outcome = result.return_value
    if isinstance(outcome, ConfigError):
        raise outcome
    assert isinstance(outcome, Outcome), "rank 0 returns how the run ended"
    return outcome


def _worker_environment(config: Config) -> dict[str, str]:
    threads = str(config.cluster.cpus_per_worker)
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    if config.train.deterministic:
        environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return environment


def _train_loop(settings: dict[str, Any]) -> Outcome | ConfigError:
    """Runs in each Ray Train worker, in its process group. An error for the user to mend is returned, not retried."""
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        extend(**settings["extension"])
        return run_worker(parse(settings["config"]), Path(settings["path"]), device=device, echo=False)
    except ConfigError as error:
        return error


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


class _Following:
    """Shows the run's log while the block runs."""

    def __init__(self, path: Path) -> None:
        self._follower = LogFollower(path)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            with suppress(OSError):
                self._follower.show()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(OSError):
            self._follower.show()
