"""Starts groups of replicas to measure, by torchrun or by Ray Train."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.speed.command import BenchError

OUTPUT_TAIL = 2000
"""Characters of a failed command's output to show."""


def on_torchrun(request: dict[str, Any], workers: int, *, threads: int, timeout: float = 3600.0) -> dict[str, Any]:
    """Run `group.measure_group` in processes of this machine and return the answer of rank 0.

    Args:
        request: of `group.measure_group`.
        workers: number of processes.
        threads: per process.
        timeout: seconds.

    Raises:
        BenchError: a process failed or the time is up.
    """
    with tempfile.TemporaryDirectory() as folder:
        request_file, answer_file = Path(folder) / "request.json", Path(folder) / "answer.json"
        request_file.write_text(json.dumps(request), encoding="utf-8")
        torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers))
        command = [sys.executable, *torchrun, "-m", "benchmarks.speed.group", str(request_file), str(answer_file)]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        run_command(command, environment, timeout)
        return json.loads(answer_file.read_text(encoding="utf-8"))


def run_command(command: list[str], environment: dict[str, str], timeout: float) -> str:
    """Run a command and return its stdout and stderr.

    Args:
        command: words.
        environment: variables of the process.
        timeout: seconds.

    Raises:
        BenchError: it failed or the time is up.
    """
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    try:
        done = subprocess.run(command, env=environment, timeout=timeout, check=False, **options)
    except subprocess.TimeoutExpired:
        raise BenchError(f"timeout after {timeout:.0f} s: {' '.join(command)}") from None
    if done.returncode:
        raise BenchError(f"exit code {done.returncode}: {' '.join(command)}\n{done.stdout[-OUTPUT_TAIL:]}")
    return done.stdout


def on_ray(request: dict[str, Any]) -> dict[str, Any]:
    """As `on_torchrun`, in workers of Ray Train on the cluster of the request's config.

    Args:
        request: of `group.measure_group`.

    Raises:
        BenchError: a worker failed.
        ConfigError: the cluster has no room for the workers.
    """
    from ganscale.config import parse
    from ganscale.launch.cluster import connected, nodes
    from ganscale.launch.placement import place
    from ganscale.launch.worker_group import TrainingError, WorkerGroupSpec, run_worker_group

    config = parse(request["together"])
    with tempfile.TemporaryDirectory() as folder, connected(config) as joined:
        group = WorkerGroupSpec(config, place(config, nodes()), Path(folder), 0, joined=joined)
        try:
            found = run_worker_group(_in_ray_worker, {"request": request}, group).return_value
        except TrainingError as error:
            raise BenchError(str(error)) from error
    assert found is not None, "rank 0 returns its figures"
    return found


def _in_ray_worker(settings: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.speed.group import measure_group
    from ganscale.launch.worker_setup import prepare_worker

    _, device = prepare_worker(settings)
    return measure_group(settings["request"], device)
