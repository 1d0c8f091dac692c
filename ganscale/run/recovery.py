"""How a replica enters a run: the writer's lease, the newest valid checkpoint, the record of the last failure."""

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from ganscale import __version__
from ganscale.config import Config, ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.data import Source
from ganscale.data.identity import RULE
from ganscale.data.source import Finite
from ganscale.parallel.collectives import broadcast_ints
from ganscale.parallel.replica import Replica
from ganscale.run.heartbeats import clear_heartbeats, read_heartbeats
from ganscale.run.stop_signal import RegroupError
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointStore
from ganscale.storage.failures import Failure, append_failure
from ganscale.storage.files import write_atomically
from ganscale.storage.lease import BusyError, Lease, acquire
from ganscale.storage.run_dir import RunDir, inspect, prepare
from ganscale.storage.store import Place, modified
from ganscale.tracking.jsonl import read_attempts, read_metrics, read_rollbacks
from ganscale.training.build import Experiment


def take(config: Config, folder: RunDir, replica: Replica, *, patience: float, echo: bool) -> Lease | None:
    """Make rank 0 the folder's writer; if that is impossible, all replicas raise.

    Args:
        config: the run.
        folder: the run's.
        replica: this process among the replicas.
        patience: seconds to wait for another writer.
        echo: whether to print that it waits.

    Raises:
        ConfigError: another process writes there, or the folder does not fit the config.
    """
    lease, refusal = None, None
    if replica.is_rank_zero:
        folder.path.mkdir(parents=True, exist_ok=True)
        try:
            info = partial(print, flush=True) if echo else lambda _: None
            lease = acquire(folder, patience=patience, info=info)
            folder.pull()
            if folder.log.is_symlink():
                remedy = "remove it, or use another run.name"
                raise ConfigError("is a symbolic link", key="run.dir", value=str(folder.log), remedy=remedy)
            inspect(config, folder)  # once more: another driver may have been faster
            prepare(config, folder)
            lease.claim()
            folder.write_as(lease.confirm)
            folder.push()
        except ConfigError as error:
            refusal = error
            if lease:
                folder.close()
                lease.release()
    busy = _count(isinstance(refusal, BusyError), replica)
    if _count(refusal is not None, replica):
        kind, problem = (BusyError, "another process writes to it") if busy else (ConfigError, "worker 0 refuses it")
        raise refusal or kind(problem, key="run.name", value=config.run.name)
    return lease


def check_shared(folder: RunDir, replica: Replica, *, live: bool = False) -> None:
    """Check that every replica sees what rank 0 wrote; otherwise a resume would read another disk.

    Args:
        folder: the run's.
        replica: this process among the replicas.
        live: whether the other replicas continue without those that do not.

    Raises:
        RuntimeError: some replicas do not.
        RegroupError: others do not see it, and this one continues without them; only with `live`.
    """
    is_blind = not (folder.root / "config.yaml").exists()
    blind = _count(is_blind, replica)
    if blind and live and not is_blind:
        raise RegroupError(leaves=False)
    if blind:
        raise (ExecutionError if live else RuntimeError)(
            f"run.dir: {blind} of {replica.world_size} workers do not see {folder.root}; "
            "set run.dir to a folder on storage that every node mounts at the same path"
        )


def check_data(config: Config, folder: RunDir, source: Source, replica: Replica, info: Callable[[str], None]) -> None:
    """Compare the data with those that the run began with, or record them; rank 0 does, and all replicas raise.

    Args:
        config: the run.
        folder: the run's.
        source: its data; those without a finite set of examples are a function of the config.
        replica: this process among the replicas.
        info: takes a line for the log.

    Raises:
        ConfigError: the data are others, and `data.changed` does not accept them.
    """
    if not isinstance(source, Finite):
        return
    refusal = None
    if replica.is_rank_zero:
        try:
            _compare_data(config, folder, source, info)
        except ConfigError as error:
            refusal = error
    if _count(refusal is not None, replica):
        raise refusal or ConfigError("worker 0 refuses the data", key="data.name", value=config.data.name)


def _compare_data(config: Config, folder: RunDir, source: Finite, info: Callable[[str], None]) -> None:
    """Rank 0's part of `check_data`."""
    found = {"rule": RULE, "sha256": source.state_hash(), "num_images": source.num_images}
    newest = next((int(path.name) for path in CheckpointStore(folder.checkpoints).folders()), None)
    old: dict[str, Any] = {}
    with suppress(OSError, ValueError, RecursionError, TypeError, KeyError):
        read = json.loads(folder.data.read_text(encoding="utf-8"))
        old = {"rule": int(read["rule"]), "sha256": str(read["sha256"]), "num_images": int(read["num_images"])}
        old["earlier"] = list(read.get("earlier", []))
    if newest is None:  # nothing was trained on other data
        old = {}
    elif old.get("rule") != RULE:
        info("this run has no record of its data that this version can compare; they are taken for those it began with")
        old = {}
    elif old["sha256"] != found["sha256"]:
        images = f"{old['num_images']:,} examples" if old["num_images"] != found["num_images"] else "as many examples"
        problem = (
            f"these are not the data that the run began with: {images} with the hash {old['sha256']}; "
            f"now {found['num_images']:,} with {found['sha256']}"
        )
        if config.data.changed == "refuse":
            key, value = ("data.path", config.data.path) if config.data.path else ("data.name", config.data.name)
            remedy = "restore them, accept the new ones by data.changed=accept, or start under another run.name"
            raise ConfigError(problem, key=key, value=value, remedy=remedy)
        info(f"{problem}; data.changed = accept: the run continues with the new ones")
        old["earlier"] += [{"sha256": old["sha256"], "num_images": old["num_images"], "until": newest}]
    with suppress(OSError):
        write_atomically(folder.data, json.dumps(found | {"earlier": old.get("earlier", [])}, indent=1) + "\n")


def resume(experiment: Experiment, folder: RunDir, replica: Replica, info: Callable[[str], None]) -> bool:
    """Load the newest valid checkpoint, as rank 0 finds it, on every replica, and the number of rollbacks.

    Args:
        experiment: the run's objects, changed in place.
        folder: the run's.
        replica: this process among the replicas.
        info: takes a line for the log.

    Returns:
        Whether there was one.

    Raises:
        ConfigError: the checkpoint holds the state of other networks than this version builds from the config.
    """
    found, rollbacks = -1, 0
    if replica.is_rank_zero:
        store = CheckpointStore(folder.checkpoints)
        store.clean()
        manifest = store.newest(info)
        if manifest:
            found = manifest.images
        elif store.folders():
            info("warning: no checkpoint in this run's folder can be used; the run starts from image 0")
        rollbacks = len(read_rollbacks(folder))
    images, rollbacks = broadcast_ints([found, rollbacks], experiment.device)
    if images >= 0:
        _load(experiment, folder.checkpoints / f"{images:012d}")
        info(f"resuming at {images:,} images")
    experiment.state.rollbacks = max(experiment.state.rollbacks, rollbacks)
    return images >= 0


def _load(experiment: Experiment, path: Place) -> None:
    _, state = checkpoint.load(path)
    try:
        experiment.state.load_state_dict(state)
    except (KeyError, RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"checkpoint {path.name} does not fit the networks of ganscale {__version__} ({type(error).__name__})",
            key="run.name",
            value=experiment.config.run.name,
            remedy="resume with the version that wrote it, start under another name, or move it away",
        ) from None


def record_failure(folder: RunDir, start: int, previous_failure: str | None, info: Callable[[str], None]) -> None:
    """Rank 0: record how the previous attempt ended if it left heartbeats, and remove these.

    Args:
        folder: the run's.
        start: images at which this attempt starts.
        previous_failure: the cause, if the launcher knows it.
        info: takes a line for the log.
    """
    heartbeats = read_heartbeats(folder.heartbeats)
    first = next((heartbeat for heartbeat in heartbeats if heartbeat.rank == 0), None)
    if first is None:
        return
    cause = previous_failure or "no message: the process was killed or its machine failed"
    with suppress(OSError):
        cause = (folder.heartbeats / "hang.txt").read_text(encoding="utf-8")
    restarted = previous_failure is not None or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    reached = max([first.images, *(row["images"] for row in read_metrics(folder)[-1:])])
    lost = _seconds_lost(folder, start, first.time, restarted=restarted)
    failure = Failure(first.time, cause, len(heartbeats), reached, start, lost)
    with suppress(OSError):
        append_failure(folder.failures, failure)
        folder.push()
    clear_heartbeats(folder)
    info(f"the previous attempt failed at about {reached:,} images: {cause}; {failure.images_lost:,} images lost")


def _seconds_lost(folder: RunDir, start: int, last: float, *, restarted: bool) -> float:
    """Seconds of work of the previous attempt that are done again, and of waiting where a launcher restarted it.

    Args:
        folder: the run's.
        start: images at which this attempt starts.
        last: time of the previous attempt's last heartbeat, in seconds since the epoch.
        restarted: whether the same command has restarted; a pause before the next command is not lost.
    """
    begins = [float(row["time"]) for row in read_attempts(folder)[-1:]]
    with suppress(OSError):
        begins.append(modified(folder.checkpoints / f"{start:012d}" / "manifest.json"))
    work = max(0.0, last - max(begins, default=last))
    return work + (max(0.0, time.time() - last) if restarted else 0.0)


def _count(fact: bool, replica: Replica) -> int:
    """On how many replicas it holds."""
    if replica.world_size == 1:
        return int(fact)
    number = torch.tensor([float(fact)], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.all_reduce(number)
    return int(number)
