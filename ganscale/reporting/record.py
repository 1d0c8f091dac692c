"""What a run's folder tells: settings, rows, evaluations, pictures and health events; damaged parts are left out."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ganscale.config import ConfigError, parse
from ganscale.config.errors import did_you_mean
from ganscale.config.yaml12 import Loader
from ganscale.evaluation.compare import read_evaluations
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_environment, read_events, read_metrics


@dataclass(frozen=True)
class RunRecord:
    """A run as its folder tells.

    Attributes:
        name: of the folder; with the folders above where several runs are called alike.
        path: the folder.
        config: its settings as plain nested mappings; empty where they cannot be read.
        rows: of metrics.jsonl, by images.
        evaluations: by images.
        pictures: images and file of each sample grid, by images.
        events: health events in the order of the file.
        real: file of a grid of real examples, if there is one.
        environment: what its last life ran on, as plain nested mappings.
        is_trial: whether it stands for all seeds of a sweep's trial.
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
    is_trial: bool = False

    @property
    def images(self) -> int:
        """How far its rows and pictures reach."""
        return max([row["images"] for row in self.rows] + [images for images, _ in self.pictures], default=0)


def is_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    folder = RunDir(path)
    return folder.config.is_file() or folder.metrics.is_file()


def read_run(path: Path) -> RunRecord:
    """All that a run's folder tells.

    Raises:
        ConfigError: there is no such folder, or it is not a run's.
    """
    check_run(path)
    folder = RunDir(path)
    evaluations: list[Evaluation] = []
    with suppress(ConfigError):  # none there
        evaluations = read_evaluations(path)
    return RunRecord(
        name=path.resolve().name,
        path=path,
        config=_read_config(folder),
        rows=sorted(read_metrics(folder), key=lambda row: row["images"]),
        evaluations=evaluations,
        pictures=sorted((int(file.stem), file) for file in folder.samples.glob("*.png") if file.stem.isdigit()),
        events=_read_events(folder),
        real=folder.real if folder.real.is_file() else None,
        environment=read_environment(folder),
    )


def check_run(path: Path) -> None:
    """Refuse what is not a run's folder; see `read_run`."""
    value = str(path)
    if not path.is_dir():
        near = [str(folder) for folder in path.parent.glob("*") if is_run(folder)]
        remedy = did_you_mean(value, near) if near else "name the folder of a run, e.g. runs/mnist_mlp"
        raise ConfigError(
            "no such run" if not path.exists() else "not a folder", key="path", value=value, remedy=remedy
        )
    if is_run(path):
        return
    below = sorted(str(folder) for folder in path.glob("*") if is_run(folder))
    remedy = "name the folder of a run, e.g. runs/mnist_mlp"
    if below:
        remedy = f"name runs in it: {' '.join(below[:3])}{' ...' * (len(below) > 3)}"
    raise ConfigError("not a run's folder: no config.yaml, no metrics.jsonl", key="path", value=value, remedy=remedy)


def with_distinct_names(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The same records, those that are called alike by more of their paths; one that is there twice is taken once."""
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
    """Plain mappings, with defaults for what an older version did not know.

    A run with networks of its own, or of another version, is still worth showing: then what the file says.
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
