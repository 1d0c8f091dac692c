"""The folder of a run: what lies where, who may write, and whether a config may go on in it.

<run.dir>/<run.name>/
    config.yaml       the resolved run
    train.log         what was shown on the screen
    metrics.jsonl     a row of numbers per log.every images
    health.jsonl      a row per health event, if there was one
    rollbacks.json    how often the run was rolled back, from where to where
    faults.jsonl      a row per life of the run that did not end in order
    abandoned.jsonl   rows of metrics that rollbacks took out of metrics.jsonl
    samples/          grids of fixed latents, <images>.png
    real.png          a grid of real examples
    environment.json  what the run's last life ran on: versions, git revision, devices
    evaluations/      scores of checkpoints, <images>-<samples>-<extractor>-<seed>.json
    checkpoints/      <images>/ each
    wandb/            W&B's own files
    tensorboard/      TensorBoard's files, if log.tensorboard is on
"""

import fcntl
import json
import math
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from ganscale.config import Config, ConfigError, differences, dump, load, parse
from ganscale.config.errors import shown
from ganscale.config.evaluation import METRICS
from ganscale.storage.checkpoint import CheckpointStore, Manifest, write_atomically


@dataclass(frozen=True)
class RunDir:
    """Paths of one run."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved run."""
        return self.path / "config.yaml"

    @property
    def log(self) -> Path:
        """What was shown on the screen."""
        return self.path / "train.log"

    @property
    def metrics(self) -> Path:
        """A JSON object per line."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """Health events, a JSON object per line."""
        return self.path / "health.jsonl"

    @property
    def rollbacks(self) -> Path:
        """Rollbacks so far, a JSON list."""
        return self.path / "rollbacks.json"

    @property
    def faults(self) -> Path:
        """Lives of the run that did not end in order, a JSON object per line."""
        return self.path / "faults.jsonl"

    @property
    def heartbeats(self) -> Path:
        """Folder of the workers' signs of life."""
        return self.path / ".alive"

    @property
    def stop(self) -> Path:
        """A file by which workers are asked to leave."""
        return self.path / ".stop"

    @property
    def interval(self) -> Path:
        """What `checkpoint.every: auto` came to."""
        return self.path / "checkpoint_every.json"

    @property
    def abandoned(self) -> Path:
        """Rows of metrics that rollbacks made void, a JSON object per line."""
        return self.path / "abandoned.jsonl"

    @property
    def samples(self) -> Path:
        """Grids of fixed latents."""
        return self.path / "samples"

    @property
    def real(self) -> Path:
        """Real examples, to compare the grids with."""
        return self.path / "real.png"

    @property
    def environment(self) -> Path:
        """What the run's last life ran on."""
        return self.path / "environment.json"

    @property
    def evaluations(self) -> Path:
        """Scores of checkpoints."""
        return self.path / "evaluations"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"


def locate(config: Config) -> RunDir:
    """The run's folder as an absolute path. In a Ray job a relative `run.dir` is taken from the home directory.

    (A job's working directory is a temporary copy that goes away with the cluster.)
    """
    try:
        base = Path(config.run.dir).expanduser()
        if not base.is_absolute():
            cwd = Path.cwd()
            base = (Path.home() if "runtime_resources" in cwd.parts else cwd) / base
    except (OSError, RuntimeError) as error:  # no such user, no home, or the working directory is gone
        reason = f"its place cannot be found ({str(error).rstrip('.')})"
        raise ConfigError(reason, key="run.dir", value=config.run.dir, remedy="name an absolute folder") from None
    return RunDir(base / config.run.name)


def checkpoint_store(config: Config, folder: RunDir) -> CheckpointStore:
    """The run's checkpoints, kept as the config says."""
    best = config.checkpoint.best_metric
    higher = METRICS[best].higher_is_better if best else False
    keep = config.checkpoint.keep
    return CheckpointStore(folder.checkpoints, keep=keep, best_metric=best, higher_is_better=higher)


def inspect(config: Config, folder: RunDir) -> Manifest | None:
    """Check that `config` may start or go on in its folder; return the newest valid checkpoint there, if any.

    Raises:
        ConfigError: another config lives there, or the folder cannot be written.
    """
    _check_writable(folder.path)
    newest = CheckpointStore(folder.checkpoints).newest(lambda _: None)
    old = _old_config(config, folder, newest)
    changed = differences(old, config) if old else {}
    if changed:
        rows = "".join(f"\n    {key}: {shown(a)} -> {shown(b)}" for key, (a, b) in changed.items())
        raise ConfigError(
            f"a run of this name with other settings lies in {folder.path}:{rows}",
            key="run.name",
            value=config.run.name,
            remedy="start anew under another run.name, give the old settings to resume, or move the folder away",
        )
    return newest


def _old_config(config: Config, folder: RunDir, newest: Manifest | None) -> Config | None:
    """The config that the folder was made with: its file or, if that is gone, the one that the checkpoint carries."""
    try:
        if folder.config.exists():
            return load(folder.config)
        return parse(newest.config) if newest else None
    except ConfigError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the config in this run's folder cannot be read: {reason}",
            key="run.name",
            value=config.run.name,
            remedy="start anew under another run.name, or move the folder away",
        ) from None


def prepare(config: Config, folder: RunDir) -> None:
    """Make the folder and write the resolved config."""
    folder.samples.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.config, dump(config))


def _check_writable(path: Path) -> None:
    existing = path
    try:
        while not _exists(existing):
            existing = existing.parent
        if existing.is_dir():
            probe = existing / f".ganscale-probe-{os.getpid()}"
            probe.mkdir()
            probe.rmdir()
            return
        reason = "is not a folder"
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        reason = f"cannot be written ({getattr(error, 'strerror', None) or error})"
    raise ConfigError(
        reason,
        key="run.dir",
        value=str(existing),
        remedy="name a folder on storage that you may write, e.g. run.dir=/tmp/runs",
    )


def _exists(path: Path) -> bool:
    """Whether something lies there, be it a link to nowhere; unlike `Path.exists`, a name that cannot be raises."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


class BusyError(ConfigError):
    """Somebody else writes to a run's folder."""


class LeaseLostError(RuntimeError):
    """Another process writes to the run's folder now, so this one must not."""


class WriterLock:
    """Holds a run's folder for one writing process; the system frees it when the process dies.

    Args:
        folder: the run's folder.
        patience: seconds to wait for another writer to end (a killed driver's workers need a moment).
        say: takes a sentence for the user when there is something to wait for.

    Raises:
        BusyError: somebody else writes there.
    """

    def __init__(self, folder: RunDir, *, patience: float, info: Callable[[str], None] = lambda _: None) -> None:
        self._path = folder.path / ".lock"
        self._file: TextIO = self._path.open("a+", encoding="utf-8")  # what another writer noted there stays
        self._own = ""
        until = time.monotonic() + patience
        told = time.monotonic() + 1.0
        while not self._try():
            if time.monotonic() >= told:
                info(f"another process is writing to {folder.path}; waiting up to {patience:.0f} s for it to end")
                told = math.inf
            if time.monotonic() >= until:
                self._file.close()
                raise BusyError(
                    f"another process is writing to {folder.path}",
                    key="run.name",
                    value=folder.path.name,
                    remedy="wait for it or stop it, or use another run.name",
                )
            time.sleep(0.2)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # storage without locks: go on unguarded, as any other tool does
            return True
        return True

    def claim(self) -> None:
        """Note who writes from now on, for a writer before that lost the lock without knowing (`check`)."""
        own = f"{socket.gethostname()} {os.getpid()} {uuid.uuid4().hex}\n"
        with suppress(OSError):  # full storage: the lock alone has to do
            self._file.truncate(0)
            self._file.write(own)
            self._file.flush()
            self._own = own

    def check(self) -> None:
        """Make sure, before writing, that nobody has taken the folder over.

        The lock holds wherever the storage knows locks. Where it does not, or gave the lock of a machine that it did
        not hear of for a while to another one, this still keeps two processes from writing.

        Raises:
            LeaseLostError: somebody has.
        """
        noted = self._own
        with suppress(OSError):
            noted = self._path.read_text(encoding="utf-8", errors="replace")
        if self._own and noted != self._own:
            raise LeaseLostError(f"another process has taken over {self._path.parent}: {noted.strip() or 'unknown'}")

    def release(self) -> None:
        """Let others write."""
        self._file.close()


def check_free(folder: RunDir, *, patience: float, info: Callable[[str], None]) -> None:
    """Wait, before anything expensive starts, until nobody writes to the folder. Arguments and errors: `WriterLock`."""
    if (folder.path / ".lock").exists():
        WriterLock(folder, patience=patience, info=info).release()


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one a line; lines that are none are left out.

    Raises:
        OSError: the file cannot be read.
    """
    rows = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            with suppress(ValueError, RecursionError):
                row = json.loads(line)
                if isinstance(row, dict):
                    rows.append(row)
    return rows
