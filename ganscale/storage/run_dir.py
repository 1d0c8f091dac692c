"""The folder of a run: what lies where, and whether a config may start or resume in it.

<run.dir>/<run.name>/
    config.yaml       the resolved run
    train.log         the log as on the console
    metrics.jsonl     a row of numbers per log.every images
    health.jsonl      a row per health event, if there was one
    rollbacks.json    how often the run was rolled back, from where to where
    failures.jsonl    a row per attempt that failed
    attempts.jsonl    a row per attempt: when it started, at which images, with how many workers
    abandoned.jsonl   rows of metrics that rollbacks took out of metrics.jsonl
    samples/          grids of fixed latents, <images>.png, and tables of them, <images>.npz (log.table_samples)
    real.png          a grid of real examples
    data.json         hash of the data that the run trains on
    environment.json  what the last attempt ran on: versions, git revision, devices
    workers.json      the number of workers that a resume with cluster.num_workers=auto asks for
    evaluations/      scores of checkpoints, <images>-<samples>-<extractor>-<seed>.json
    pending_evaluations/    <images>.pt, averages that are still to be evaluated (eval.mode = async)
    averages/         <images>.safetensors, snapshots of the averages in ema.profiles
    checkpoints/      <images>/ each
    checkpoint_every.json   the interval that `checkpoint.every: auto` chose
    logs/             logs of the last commands on Ray and of their workers (`ganscale.launch.history`)
    wandb/            W&B's own files
    tensorboard/      TensorBoard's files, if log.tensorboard is on
    .heartbeats/      the workers' heartbeats while the run trains
    .lock, .stop      the writer; a request to stop
    .group            the last group of workers (`cluster.recovery: live`)

In a bucket (`run.dir=s3://bucket/runs`) the same names are objects, or folders of segments (`ganscale.storage.mirror`),
and `lease.json` names the writer.
"""

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ganscale.config import Config, ConfigError, differences, dump, parse
from ganscale.config.errors import shown
from ganscale.config.evaluation import METRICS
from ganscale.config.load import recorded
from ganscale.storage.checkpoint import CheckpointError, CheckpointStore, Manifest, SchemaError, read_manifest
from ganscale.storage.files import write_atomically
from ganscale.storage.mirror import Mirror
from ganscale.storage.store import BucketStore, Place, StorePath, is_uri, open_place


class RunDir:
    """Paths of one run, as listed above.

    Checkpoints, heartbeats and stop requests are read and written where the run lies. All else is files in a local
    folder: the run's, or a temporary copy of a run in a bucket, which its writer keeps in step.

    Args:
        root: where the run lies: a folder, or a place in a bucket, also as a text.

    Attributes:
        root: where the run lies.
        path: the local folder.
    """

    def __init__(self, root: Place | str) -> None:
        self.root = open_place(root, key="run.dir")
        self._mirror: Mirror | None = None
        if isinstance(self.root, StorePath):
            self._temporary = tempfile.TemporaryDirectory(prefix="ganscale-", ignore_cleanup_errors=True)
            path = Path(self._temporary.name) / self.root.name
            path.mkdir()
            self._mirror = Mirror(self.root, path)
        else:
            path = self.root
        self.path = path
        self.heartbeats, self.stop = self.root / ".heartbeats", self.root / ".stop"
        self.group = self.root / ".group"
        self.checkpoints = self.root / "checkpoints"
        self.config, self.log = path / "config.yaml", path / "train.log"
        self.metrics, self.abandoned, self.events = (
            path / f"{name}.jsonl" for name in ("metrics", "abandoned", "health")
        )
        self.rollbacks, self.failures = path / "rollbacks.json", path / "failures.jsonl"
        self.attempts = path / "attempts.jsonl"
        self.samples, self.real = path / "samples", path / "real.png"
        self.data, self.workers = path / "data.json", path / "workers.json"
        self.environment, self.evaluations = path / "environment.json", path / "evaluations"
        self.pending_evaluations = path / "pending_evaluations"
        self.averages = path / "averages"
        self.interval = path / "checkpoint_every.json"
        self._confirm: Callable[[], int] = lambda: 0

    def fetch(self, name: str) -> None:
        """Bring a local file up to date with the bucket; nothing to do for a run in a folder.

        Args:
            name: of the file.

        Raises:
            OSError: the storage fails.
        """
        if self._mirror:
            self._mirror.fetch(name)

    def pull(self, below: str = "") -> "RunDir":
        """Bring all local files up to date with the bucket, and return this object.

        Args:
            below: a folder of the run's, to which it is limited; empty for all.

        Raises:
            OSError: the storage fails.
        """
        if self._mirror:
            self._mirror.pull(below)
        return self

    def write_as(self, confirm: Callable[[], int], *, periodic: bool = True) -> None:
        """Keep the bucket up to date with the local files from now on.

        Args:
            confirm: `Lease.confirm` of the run's writer.
            periodic: False uploads at each `push` only.
        """
        self._confirm = confirm
        if self._mirror:
            self._mirror.start(confirm, periodic=periodic)

    def push(self) -> None:
        """Wait until the bucket has all local files; nothing to do for a run in a folder.

        Raises:
            OSError: the storage fails.
            LeaseLostError: another process is the run's writer.
        """
        if self._mirror:
            self._mirror.push()

    def close(self) -> None:
        """Keep the bucket up to date no more."""
        if self._mirror:
            self._mirror.stop()

    def committing(self) -> int:
        """Before a checkpoint counts: rows up to it are stored, and this process is the writer, with this fence."""
        self.push()
        return self._confirm()


def locate(config: Config) -> RunDir:
    """The run's folder as an absolute path.

    In a Ray job a relative `run.dir` lies below the home directory: the job's working directory is a temporary copy.

    Args:
        config: the run.

    Raises:
        ConfigError: there is no such home or working directory, or the URI is no place.
    """
    return locate_in(config.run.dir, config.run.name, key="run.dir")


def locate_in(parent: str, name: str, *, key: str) -> RunDir:
    """The folder of a run or a sweep as an absolute path, or its place in a bucket. Raises: `locate`.

    Args:
        parent: path or URI of the folder in which it lies.
        name: of the run or the sweep.
        key: the setting that holds `parent`, for messages.
    """
    if is_uri(parent):
        return RunDir(open_place(parent, key=key) / name)
    try:
        base = Path(parent).expanduser()
        if not base.is_absolute():
            cwd = Path.cwd()
            base = (Path.home() if "runtime_resources" in cwd.parts else cwd) / base
    except (OSError, RuntimeError) as error:  # no such user, no home, or the working directory is gone
        reason = f"its place cannot be found ({str(error).rstrip('.')})"
        raise ConfigError(reason, key=key, value=parent, remedy="name an absolute folder") from None
    return RunDir(base / name)


def open_run(text: str) -> RunDir:
    """A run to read: where it lies in a bucket, its files are downloaded to a temporary folder.

    Args:
        text: the run's folder or URI.

    Raises:
        ConfigError: there is no such run in the bucket.
        OSError: the storage fails.
    """
    folder = RunDir(text).pull()
    if isinstance(folder.root, StorePath) and not any(folder.path.iterdir()):
        remedy = "name the place of a run, e.g. s3://bucket/runs/mnist_mlp"
        raise ConfigError("no such run", key="path", value=text, remedy=remedy)
    return folder


def checkpoint_store(config: Config, folder: RunDir) -> CheckpointStore:
    """The run's checkpoints, kept as the config says.

    Args:
        config: the run.
        folder: the run's.
    """
    best = config.checkpoint.best_metric
    higher = METRICS[best].higher_is_better if best else False
    keep = config.checkpoint.keep
    return CheckpointStore(
        folder.checkpoints, keep=keep, best_metric=best, higher_is_better=higher, confirm=folder.committing
    )


def migrate(folder: RunDir) -> None:
    """Rename the files of a run folder of an earlier version, where they have other names now.

    Args:
        folder: the run's; on read-only storage it stays as it is.
    """
    for old, new in ((".alive", folder.heartbeats), ("faults.jsonl", folder.failures)):
        with suppress(OSError):
            if isinstance(new, Path) and not new.exists():
                (folder.path / old).rename(new)


def inspect(config: Config, folder: RunDir) -> Manifest | None:
    """Check that `config` may start or resume in its folder; return the newest valid checkpoint there, if any.

    Args:
        config: the run.
        folder: the run's.

    Raises:
        ConfigError: another config or another run's checkpoint lies there, or the folder cannot be written.
    """
    if isinstance(folder.root, StorePath):
        if isinstance(folder.root.store, BucketStore):
            folder.root.store.check("run.dir")
        folder.fetch("config.yaml")
    else:
        _check_writable(folder.path)
        migrate(folder)
    store, unreadable = CheckpointStore(folder.checkpoints), None
    _check_config(config, folder, lambda: recorded(folder.config) if folder.config.exists() else None, "settings")
    for path in store.folders():
        try:
            manifest = read_manifest(path)
        except CheckpointError as error:  # not used
            unreadable = unreadable or (f"{path.name}: {error}" if isinstance(error, SchemaError) else None)
            continue
        _check_config(config, folder, lambda manifest=manifest: parse(manifest.config), f"checkpoint {path.name}")
    newest = store.newest(lambda _: None)
    if unreadable and not newest:
        remedy = "resume with that version of ganscale, or start under another run.name"
        raise ConfigError(f"checkpoint {unreadable}", key="run.name", value=config.run.name, remedy=remedy)
    return newest


def _check_config(config: Config, folder: RunDir, read: Callable[[], Config | None], what: str) -> None:
    """Refuse a folder whose settings, or a checkpoint whose config, are of another run."""
    try:
        old = read()
    except ConfigError as error:
        reason = str(error).partition("\n")[0]
        raise ConfigError(
            f"the config in this run's folder cannot be read ({what}): {reason}",
            key="run.name",
            value=config.run.name,
            remedy="start under another run.name, or move the folder away",
        ) from None
    changed = differences(old, config) if old else {}
    if changed:
        rows = "".join(f"\n    {key}: {shown(a)} -> {shown(b)}" for key, (a, b) in changed.items())
        raise ConfigError(
            f"{folder.root} holds a run with other settings ({what}):{rows}",
            key="run.name",
            value=config.run.name,
            remedy="start under another run.name, give the old settings to resume, or move the folder away",
        )


def prepare(config: Config, folder: RunDir) -> None:
    """Make the folder and write the resolved config.

    Args:
        config: the run.
        folder: the run's.
    """
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
    """Whether something lies there, also a dangling link; unlike `Path.exists`, an impossible name raises."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def read_objects(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file, one per line; other lines are skipped.

    Args:
        path: of the file, which may be missing.

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
