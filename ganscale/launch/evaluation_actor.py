"""The process of `eval.mode: async` on a Ray cluster: an actor with resources of its own, beside the workers'."""

import time
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from ganscale.config import Config, parse
from ganscale.config.register import ADDED, register
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.evaluation.worker import EvaluationFailedError, SnapshotEvaluator
from ganscale.launch.compat import root_cause
from ganscale.launch.placement import evaluation_resources


class _Evaluator:
    """What runs in the actor; data and network are built with the first snapshot, so that their errors are a task's."""

    def __init__(self, settings: dict[str, Any], extension: dict[str, Any]) -> None:
        self._settings, self._extension = settings, extension
        self._evaluator: SnapshotEvaluator | None = None

    def evaluate(self, images: int, snapshot: bytes) -> Evaluation:
        if self._evaluator is None:
            register(**self._extension)
            config = parse(self._settings)
            self._evaluator = SnapshotEvaluator(config, torch.device("cuda" if config.eval.gpus else "cpu"))
        return self._evaluator.evaluate(images, snapshot)


class ActorExecutor:
    """An actor that ends with the worker that made it (an `EvaluationExecutor`).

    Args:
        config: The run's config.
    """

    def __init__(self, config: Config) -> None:
        self._resources = evaluation_resources(config)
        self._patience = config.cluster.timeout
        threads = str(config.eval.cpus)
        environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        if config.train.deterministic:
            environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        actor: Any = ray.remote(_Evaluator).options(
            name=f"{config.run.name}-evaluation-{time.time_ns()}",
            num_cpus=self._resources["CPU"],
            num_gpus=self._resources.get("GPU", 0.0),
            max_restarts=0,
            scheduling_strategy="DEFAULT",  # not in the workers' placement group
            runtime_env={"env_vars": environment},
        )
        self._actor = actor.remote(config.model_dump(mode="json"), ADDED)
        self._ready = self._actor.__ray_ready__.remote()
        self._since, self._started = time.monotonic(), False
        self._result: Any = None

    def submit(self, images: int, snapshot: Path) -> None:
        """Send the file's content to the actor (part of `EvaluationExecutor`)."""
        try:
            self._result = self._actor.evaluate.remote(images, snapshot.read_bytes())
        except (RayError, OSError) as error:
            raise EvaluationFailedError(f"{type(error).__name__}: {error}") from error

    def poll(self, timeout: float) -> Evaluation | None:
        """Fetch the actor's result (part of `EvaluationExecutor`); an actor without room fails after a while."""
        try:
            ready, _ = ray.wait([self._result], timeout=timeout)
            if ready:
                return ray.get(self._result)
            self._started = self._started or bool(ray.wait([self._ready], timeout=0)[0])
        except RayError as error:
            cause = root_cause(error)
            raise EvaluationFailedError(f"{type(cause).__name__}: {cause}") from error
        if not self._started and time.monotonic() - self._since > self._patience:
            wanted = " and ".join(f"{number:g} {name}" for name, number in self._resources.items())
            raise EvaluationFailedError(f"no node of the cluster has had {wanted} to spare for {self._patience:.0f} s")
        return None

    def close(self) -> None:
        """Kill the actor (part of `EvaluationExecutor`)."""
        ray.kill(self._actor)
