"""Starts groups of replicas to be measured: by torchrun, or by Ray Train."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.speed.command import BenchError

LAST_WORDS = 2000
"""Characters of a failed command's output that are shown."""


def on_torchrun(request: dict[str, Any], workers: int, *, threads: int, timeout: float = 3600.0) -> dict[str, Any]:
    """Rank 0's answer to a request (`group.measure_group`), from `workers` processes of this machine.

    Args:
        request: what to measure.
        workers: processes.
        threads: of each.
        timeout: seconds until it is given up.

    Raises:
        BenchError: a process failed, or the time is over.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "request.json", Path(folder) / "answer.json"
        asked.write_text(json.dumps(request), encoding="utf-8")
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers))
        command = [sys.executable, *torchrun, "-m", "benchmarks.speed.group", str(asked), str(answered)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        run_command(command, environment, timeout)
        return json.loads(answered.read_text(encoding="utf-8"))


def run_command(command: list[str], environment: dict[str, str], timeout: float) -> str:
    """A command's output, stdout and stderr together.

    Raises:
        BenchError: it failed, or the time is over.
    """
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(command, env=environment, timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired:
        raise BenchError(f"no end within {timeout:.0f} s: {' '.join(command)}") from None
    if done.returncode:
        raise BenchError(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout[-LAST_WORDS:]}")
    return done.stdout


def on_ray(request: dict[str, Any]) -> dict[str, Any]:
    """The same from workers of Ray Train, on the cluster of the request's config.

    Raises:
        BenchError: a worker failed.
        ConfigError: the cluster cannot give the workers.
    """
    from ganscale.config import parse
    from ganscale.launch.cluster import connected, nodes
    from ganscale.launch.placement import place
    from ganscale.launch.worker_group import TrainingError, WorkerGroupSpec, run_worker_group

    config = parse(request["together"])
    with tempfile.TemporaryDirectory() as folder, connected(config):
        group = WorkerGroupSpec(config, place(config, nodes()), Path(folder), 0)
        try:
            return run_worker_group(_in_ray_worker, {"request": request}, group)
        except TrainingError as error:
            raise BenchError(str(error)) from error


def _in_ray_worker(settings: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.speed.group import measure_group
    from ganscale.launch.worker_group import prepare_worker

    _, device = prepare_worker(settings)
    return measure_group(settings["request"], device)
