"""Runs whose curves the figures show; each writes what it measured to a JSON file beside this one."""

import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.figures.usual import curve
from ganscale import Trainer
from ganscale.config import load
from ganscale.storage.checkpoint import read_manifest
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics

HERE = Path(__file__).parent
WORLDS = (1, 2, 3, 4, 5)
QUIET = (
    "train.device=cpu",
    "wandb.mode=disabled",
    "log.details=false",
    "log.samples_every=1e9",
    "checkpoint.every=1e9",
)
WORLD_RUN = (
    *QUIET,
    *("model.generator.norm=batch", "loss.label_smoothing=0", "optim.lr_g=1e-3", "optim.lr_d=1e-3"),
    *("train.batch_size=60", "train.images=10_800", "log.every=540", "eval.every=0"),
)
"""On configs/mnist_mlp.yaml: batch norm in G, so that rows of a batch meet; 60 rows are whole shares of all worlds."""
FAULT_RUN = (
    *QUIET[:-1],
    *("model.generator.norm=batch", "loss.label_smoothing=0", "optim.lr_g=5e-4", "optim.lr_d=5e-4", "train.shards=3"),
    *("train.images=28_800", "log.every=320", "checkpoint.every=3_200", "checkpoint.mode=inline", "eval.every=0"),
)
KILL, STOP = 9_000, 18_000
"""Images from which on the group of two workers is killed, and the single one stopped."""
LIMIT = 1800.0
"""Seconds that a run may take on a busy machine."""


def worlds() -> dict[str, Any]:
    """D's losses on 1 to 5 workers: of the package with `train.shards=5`, and of the usual loop.

    Returns:
        `ganscale` and `usual`: by number of workers, `[images, loss]` pairs. `sha256`: of the package's last states.
    """
    found: dict[str, Any] = {"ganscale": {}, "usual": {}, "sha256": {}}
    with TemporaryDirectory() as name:
        for workers in WORLDS:
            out = Path(name) / f"usual{workers}.json"
            _join(_start(workers, _usual, str(out)))
            found["usual"][workers] = json.loads(out.read_text(encoding="utf-8"))
            run = RunDir(Path(name) / f"workers{workers}")
            _join(_start(workers, _ganscale, *WORLD_RUN, "train.shards=5", *_place(run)))
            found["ganscale"][workers], found["sha256"][workers] = _curve(run, "loss_d"), _last_state(run)
    return found


def faults() -> dict[str, Any]:
    """The losses of a run that is killed on two workers, resumed on one and grown to three; and of the undisturbed one.

    Returns:
        `disturbed` and `undisturbed`: `[images, loss of D]` pairs. `attempts`: `[images, workers]` at their start.
        `killed`: images of the last row before SIGKILL. `sha256`: of both last states.
    """
    with TemporaryDirectory() as name:
        undisturbed, disturbed = RunDir(Path(name) / "undisturbed"), RunDir(Path(name) / "disturbed")
        _join(_start(1, _ganscale, *FAULT_RUN, *_place(undisturbed)))
        settings = (*FAULT_RUN, *_place(disturbed))
        killed = _until(disturbed, KILL, signal.SIGKILL, _start(2, _ganscale, *settings))
        _until(disturbed, STOP, signal.SIGTERM, _start(1, _ganscale, *settings))
        _join(_start(3, _ganscale, *settings))
        return {
            "disturbed": _curve(disturbed, "loss_d"),
            "undisturbed": _curve(undisturbed, "loss_d"),
            "attempts": attempts(disturbed.log.read_text(encoding="utf-8")),
            "killed": killed,
            "sha256": {"disturbed": _last_state(disturbed), "undisturbed": _last_state(undisturbed)},
        }


def _start(workers: int, function: Callable[..., None], *words: str) -> list[BaseProcess]:
    """Start so many copies of this process, as torchrun would, that call a function with texts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    common = {"TORCHELASTIC_RUN_ID": "figures", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": str(workers), "LOCAL_WORLD_SIZE": str(workers), "GROUP_RANK": "0"}
    started: list[BaseProcess] = []
    for rank in map(str, range(workers)):
        environment = {**common, "RANK": rank, "LOCAL_RANK": rank}
        process = get_context("fork").Process(target=_as_rank, args=(environment, function, words))
        process.start()
        started.append(process)
    return started


def _as_rank(environment: Mapping[str, str], function: Callable[..., None], words: Sequence[str]) -> None:
    os.environ |= environment
    torch.set_num_threads(1)
    function(*words)


def _usual(out: str) -> None:
    dist.init_process_group("gloo")
    found = curve(load("mnist_mlp", WORLD_RUN))
    if dist.get_rank() == 0:
        Path(out).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def _ganscale(*settings: str) -> None:
    Trainer("mnist_mlp", settings, launcher="torchrun").fit()


def _place(run: RunDir) -> tuple[str, str]:
    return f"run.dir={run.path.parent}", f"run.name={run.path.name}"


def _join(processes: Sequence[BaseProcess]) -> None:
    """Wait until all have ended well."""
    for process in processes:
        process.join(LIMIT)
    if any(process.exitcode for process in processes):
        raise RuntimeError(f"a process failed: exit codes {[process.exitcode for process in processes]}")


def _until(run: RunDir, images: int, number: signal.Signals, processes: Sequence[BaseProcess]) -> int:
    """Send a signal to all processes once a run has a row of at least so many images; return the images then."""
    deadline = time.monotonic() + LIMIT
    while (reached := _reached(run)) < images:
        if time.monotonic() > deadline or not all(process.is_alive() for process in processes):
            raise RuntimeError(f"the run ended or took too long at {reached} images")
        time.sleep(0.05)
    for process in processes:
        os.kill(process.pid or 0, number)
    for process in processes:
        process.join(LIMIT)
    return reached


def _reached(run: RunDir) -> int:
    return max((row["images"] for row in read_metrics(run)), default=0) if run.metrics.exists() else 0


def attempts(log: str) -> list[list[int]]:
    """`[images, workers]` of each attempt of a run.

    Args:
        log: `train.log`.
    """
    found = []
    for part in re.split(r"(?= on mnist for \d+ worker)", log)[1:]:
        workers = int(re.findall(r"on mnist for (\d+) worker", part)[0])
        begins = re.findall(r"resuming at ([\d,]+)", part)
        found.append([int(begins[0].replace(",", "")) if begins else 0, workers])
    return found


def _curve(run: RunDir, column: str) -> list[list[float]]:
    return [[row["images"], row[column]] for row in read_metrics(run) if row.get(column) is not None]


def _last_state(run: RunDir) -> str:
    """SHA-256 of the newest state."""
    newest = max(path for path in (run.path / "checkpoints").iterdir() if path.name.isdigit())
    return read_manifest(newest).sha256
