"""How many workers a run has, for a resume with `cluster.num_workers: auto` that finds fewer nodes."""

import json
from contextlib import suppress
from typing import NamedTuple

from ganscale.config import Config
from ganscale.storage.files import write_atomically
from ganscale.storage.run_dir import RunDir


class WorkerRecord(NamedTuple):
    """The workers that a run asks for when it resumes with `cluster.num_workers: auto`."""

    num_workers: int  # at least 1
    use_gpu: bool  # whether each has a GPU of its own


def updated(record: WorkerRecord | None, config: Config, current: WorkerRecord) -> WorkerRecord:
    """The record once an attempt has started: a number that was set replaces it, otherwise the larger one stays.

    Args:
        record: The earlier one, if any.
        config: The run's config.
        current: Workers of the attempt.
    """
    if record is None or isinstance(config.cluster.num_workers, int) or current.use_gpu > record.use_gpu:
        return current
    if current.use_gpu < record.use_gpu:  # on the CPU while the nodes with GPUs are away
        return record
    return WorkerRecord(max(record.num_workers, current.num_workers), record.use_gpu)


def read_workers(folder: RunDir) -> WorkerRecord | None:
    """A run's record; None for a new run, and for one of an earlier version.

    Args:
        folder: The run's.
    """
    with suppress(OSError, ValueError, RecursionError, TypeError, KeyError):
        folder.fetch(folder.workers.name)
        found = json.loads(folder.workers.read_text(encoding="utf-8"))
        record = WorkerRecord(int(found["num_workers"]), bool(found["use_gpu"]))
        return record if record.num_workers >= 1 else None
    return None


def record_workers(folder: RunDir, config: Config, current: WorkerRecord) -> None:
    """Bring the record up to date; storage errors are ignored.

    Args:
        folder: The run's.
        config: Its config.
        current: Workers of the attempt that starts.
    """
    record = updated(read_workers(folder), config, current)
    with suppress(OSError):
        write_atomically(folder.workers, json.dumps(record._asdict()) + "\n")
