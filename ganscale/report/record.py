"""Reads a run's folder: settings, rows, evaluations, sample grids and health events; damaged parts are left out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from ganscale.config import ConfigError, parse
from ganscale.config.errors import did_you_mean
from ganscale.config.load import flat
from ganscale.config.yaml12 import Loader
from ganscale.evaluation.compare import read_evaluations
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.storage.failures import Failure, read_failures
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_environment, read_events, read_metrics
from ganscale.tracking.timeline import Goodput, goodput, seconds


@dataclass(frozen=True)
class RunRecord:
    """The contents of a run's folder.

    Attributes:
        name: of the folder; with parent folders where several runs have the same name.
        path: the folder.
        config: its settings as plain nested mappings; empty where they cannot be read.
        rows: of metrics.jsonl, by images.
        evaluations: by images.
        pictures: images and file of each sample grid, by images.
        events: health events in the order of the file.
        real: file of a grid of real examples, if there is one.
        environment: what its last attempt ran on, as plain nested mappings.
        failures: attempts that failed, oldest first.
        goodput: seconds that it kept and lost.
        started: when its log begins, by the clock of the machine that wrote it; None if unknown.
        ended: when its log ends.
        is_trial: whether it is the mean over the seeds of a sweep's trial.
    """

    name: str
    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    pictures: list[tuple[int, Path]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    real: Path | None = None
    environment: dict[str, Any] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    goodput: Goodput = field(default_factory=lambda: Goodput(0.0, 0.0))
    started: datetime | None = None
    ended: datetime | None = None
    is_trial: bool = False

    @property
    def images(self) -> int:
        """Images up to the last row or sample grid."""
        return max([row["images"] for row in self.rows] + [images for images, _ in self.pictures], default=0)

    @property
    def speed(self) -> float | None:
        """Images per second: the median over the rows, since single rows include evaluations and start-up."""
        speeds = [value for row in self.rows if isinstance(value := row.get("images_per_second"), int | float)]
        return median(speeds) if speeds else None

    @property
    def seconds(self) -> float | None:
        """Seconds of training, of the rows that there are: their images by their speeds; None if no row has one."""
        return seconds(self.rows) or None

    @property
    def settings(self) -> dict[str, Any]:
        """The config with dotted keys."""
        return flat(self.config)


def sample_grids(folder: Path) -> list[tuple[int, Path]]:
    """Images and file of each sample grid in a folder, by images.

    Args:
        folder: of the files `<images>.png`; others are left out.
    """
    return sorted((int(file.stem), file) for file in folder.glob("*.png") if file.stem.isdigit())


def _is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    folder = RunDir(path)
    return folder.config.is_file() or folder.metrics.is_file()


def read_run(path: Path) -> RunRecord:
    """Read a run's folder.

    Args:
        path: the folder; damaged or missing files in it are left out.

    Raises:
        ConfigError: there is no such folder, or it is not a run's.
    """
    _check(path)
    folder = RunDir(path)
    evaluations: list[Evaluation] = []
    with suppress(ConfigError):  # none there
        evaluations = read_evaluations(path)
    started, ended = _times(folder)
    return RunRecord(
        name=path.resolve().name,
        path=path,
        config=_read_config(folder),
        rows=sorted(read_metrics(folder), key=lambda row: row["images"]),
        evaluations=evaluations,
        pictures=sample_grids(folder.samples),
        events=_read_events(folder),
        real=folder.real if folder.real.is_file() else None,
        environment=read_environment(folder),
        failures=read_failures(folder.failures),
        goodput=goodput(folder),
        started=started,
        ended=ended,
    )


def _times(folder: RunDir) -> tuple[datetime | None, datetime | None]:
    """The first and the last time in the run's log."""
    found = []
    with suppress(OSError, UnicodeDecodeError):
        for line in folder.log.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                found.append(datetime.strptime(line[:19], "%Y-%m-%d %H:%M:%S"))
    return (found[0], found[-1]) if found else (None, None)


def _check(path: Path) -> None:
    value = str(path)
    if not path.is_dir():
        near = [str(folder) for folder in path.parent.glob("*") if _is_run(folder)]
        remedy = did_you_mean(value, near) if near else "name the folder of a run, e.g. runs/mnist_mlp"
        raise ConfigError(
            "no such run" if not path.exists() else "not a folder", key="path", value=value, remedy=remedy
        )
    if _is_run(path):
        return
    below = sorted(str(folder) for folder in path.glob("*") if _is_run(folder))
    remedy = "name the folder of a run, e.g. runs/mnist_mlp"
    if below:
        remedy = f"name runs in it: {' '.join(below[:3])}{' ...' * (len(below) > 3)}"
    raise ConfigError("not a run's folder: no config.yaml, no metrics.jsonl", key="path", value=value, remedy=remedy)


def with_distinct_names(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records without duplicates; parent folders are added to equal names until all names differ.

    Args:
        records: of runs, some perhaps twice.
    """
    unique = list({record.path.resolve(): record for record in records}.values())
    names = [record.name for record in unique]
    depth = 1
    while len(set(names)) < len(names):
        depth += 1
        names = [
            "/".join(record.path.resolve().parts[-depth:]) if names.count(name) > 1 else name
            for record, name in zip(unique, names, strict=True)
        ]
    return [replace(record, name=name) for record, name in zip(unique, names, strict=True)]


def _read_config(folder: RunDir) -> dict[str, Any]:
    """Settings with defaults for keys that an older version did not have.

    A config that this version refuses (custom networks, other versions) is returned as the file has it.
    """
    try:
        raw = yaml.load(folder.config.read_text(encoding="utf-8"), Loader=Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    if not isinstance(raw, dict):
        return {}
    try:
        return parse(raw).model_dump(mode="json")
    except ConfigError:
        return raw


def _read_events(folder: RunDir) -> list[dict[str, Any]]:
    with suppress(OSError):
        return read_events(folder)
    return []
