"""How a replica comes into a run: the folder's writer, its newest good checkpoint, what became of the life before."""

import shutil
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from ganscale.config import Config, ConfigError
from ganscale.parallel.collectives import Replica
from ganscale.run.health_monitor import read_rollbacks
from ganscale.run.watchdog import read_heartbeats
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.failures import Failure, note
from ganscale.storage.run_dir import BusyError, RunDir, WriterLock, inspect, prepare
from ganscale.tracking.console import Console
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.build import Experiment


def take(config: Config, folder: RunDir, replica: Replica, *, patience: float, echo: bool) -> WriterLock | None:
    """Make rank 0 the folder's writer; if that cannot be, all replicas raise."""
    lock, refusal = None, None
    if replica.is_rank_zero:
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            info = partial(print, flush=True) if echo else lambda _: None
            lock = WriterLock(folder, patience=patience, info=info)
            inspect(config, folder)  # again: another driver may have been faster
            prepare(config, folder)
            lock.claim()
        except ConfigError as error:
            refusal = error
            if lock:
                lock.release()
    busy = _count(isinstance(refusal, BusyError), replica)
    if _count(refusal is not None, replica):
        kind, problem = (BusyError, "another process writes to it") if busy else (ConfigError, "worker 0 refuses it")
        raise refusal or kind(problem, key="run.name", value=config.run.name)
    return lock


def check_shared(folder: RunDir, replica: Replica) -> None:
    """Every replica must see what rank 0 wrote; otherwise a resume would read another disk."""
    blind = _count(not folder.config.exists(), replica)
    if blind:
        raise RuntimeError(
            f"run.dir: {blind} of {replica.world_size} workers do not see {folder.path}; "
            "set run.dir to a folder on storage that every node mounts at the same path"
        )


def resume(experiment: Experiment, folder: RunDir, replica: Replica, console: Console | None) -> None:
    """Load the checkpoint that rank 0 finds newest and good, on every replica, with the rollbacks so far."""
    position = torch.tensor([-1, 0], dtype=torch.int64, device=experiment.device)
    if console:
        store = CheckpointStore(folder.checkpoints)
        store.clean()
        manifest = store.newest(console.info)
        if manifest:
            position[0] = manifest.images
        position[1] = len(read_rollbacks(folder))
    if replica.world_size > 1:
        dist.broadcast(position, 0)
    images, rollbacks = position.tolist()
    if images >= 0:
        _take_over(experiment, folder.checkpoints / f"{images:012d}")
        if console:
            console.info(f"resuming at {images:,} images")
    experiment.state.rollbacks = max(experiment.state.rollbacks, rollbacks)


def _take_over(experiment: Experiment, path: Path) -> None:
    """Load a checkpoint that was found good.

    Raises:
        ConfigError: it holds the state of other networks than this version builds from the config.
    """
    _, state = checkpoint.load(path)
    try:
        experiment.state.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"checkpoint {path.name} does not fit this run ({type(error).__name__})",
            key="run.name",
            value=experiment.config.run.name,
            remedy="go on with the version of ganscale that wrote it, start anew under another name, or move it away",
        ) from None


def record_failure(
    folder: RunDir, start: int, replica: Replica, previous_failure: str | None, console: Console
) -> None:
    """Rank 0: write down how the life before ended, if that was not in order."""
    heartbeats = read_heartbeats(folder.heartbeats)
    first = next((heartbeat for heartbeat in heartbeats if heartbeat.rank == 0), None)
    if first is None:
        return
    cause = previous_failure or "it ended without a word: killed, or its machine went"
    with suppress(OSError):
        cause = f"{(folder.heartbeats / 'hang.txt').read_text(encoding='utf-8')}"
    since = first.time
    with suppress(OSError):
        since = (folder.checkpoints / f"{start:012d}" / "manifest.json").stat().st_mtime
    reached = max([first.images, *(row["images"] for row in read_metrics(folder)[-1:])])
    fault = Failure(first.time, cause, len(heartbeats), reached, start, max(0.0, time.time() - since))
    with suppress(OSError):
        note(folder.faults, fault)
    forget(folder)
    console.info(f"the life before ended at about {reached:,} images: {cause}; {fault.images_lost:,} images lost")


def forget(folder: RunDir) -> None:
    """Remove the signs of life of a run that ended in order: whoever finds some knows of a fault."""
    shutil.rmtree(folder.heartbeats, ignore_errors=True)


def _count(fact: bool, replica: Replica) -> int:
    """On how many replicas it is so."""
    if replica.world_size == 1:
        return int(fact)
    number = torch.tensor([float(fact)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(number)
    return int(number)
