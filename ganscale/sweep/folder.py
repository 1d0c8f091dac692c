"""The folder of a sweep: what lies where, and whether a sweep may go on in it.

<sweep.dir>/<sweep.name>/
    sweep.yaml      the resolved sweep, with its base run
    trials/         a folder per configuration
    confirm/        the winner on fresh seeds
    results.json    all results; results.csv: the table
    best.yaml       the winner as a run for `python -m ganscale.train`
    plots/          pictures of all of it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ganscale.config import ConfigError
from ganscale.config.load import flat, read
from ganscale.config.yaml12 import Dumper
from ganscale.storage.files import write_atomically
from ganscale.sweep.config import Sweep, SweepSettings

FREE = (
    "name",
    "dir",
    "num_configs",
    "confirm_seeds",
    "confidence",
    "max_concurrent",
    "budget_hours",
    "workers",
    "cpus_per_worker",
    "gpus_per_worker",
)
"""Keys of section `sweep` that may differ when a sweep goes on: they change no result that is there already."""


@dataclass(frozen=True)
class SweepFolder:
    """Paths of one sweep."""

    path: Path

    @property
    def sweep(self) -> Path:
        """The resolved sweep."""
        return self.path / "sweep.yaml"

    @property
    def trials(self) -> Path:
        """A folder per configuration."""
        return self.path / "trials"

    @property
    def confirm(self) -> Path:
        """The winner on fresh seeds: a folder per configuration that ever won."""
        return self.path / "confirm"

    @property
    def best(self) -> Path:
        """The winner as a run."""
        return self.path / "best.yaml"

    @property
    def plots(self) -> Path:
        """Pictures."""
        return self.path / "plots"


def resolved(sweep: Sweep, base: Mapping[str, Any]) -> dict[str, Any]:
    """The sweep as one mapping, its base run inside."""
    raw = sweep.model_dump(mode="json", exclude_none=True)
    return {**raw, "base": dict(base)}


def prepare(folder: SweepFolder, sweep: Sweep, base: Mapping[str, Any]) -> None:
    """Make the folder and write the resolved sweep, if it is new or the same as before.

    Raises:
        ConfigError: another sweep lives there.
    """
    new = resolved(sweep, base)
    if folder.sweep.exists():
        changed = _changed(read(folder.sweep), new)
        if changed:
            raise ConfigError(
                f"a sweep of this name with other settings lies in {folder.path} ({', '.join(changed)} differ)",
                key="sweep.name",
                value=sweep.sweep.name,
                remedy="start anew under another sweep.name, give the old settings to go on, or move the folder away",
            )
    folder.trials.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.sweep, yaml.dump(new, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=100))


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Keys that change results and differ; one that the old file lacks had its default then."""
    defaults = {f"sweep.{key}": value for key, value in SweepSettings().model_dump(mode="json").items()}
    before, after = defaults | flat(old), flat(new)
    if "base.eval.metrics" not in before:  # of a version whose runs computed more metrics
        after.pop("base.eval.metrics", None)
    keys = [key for key in before | after if not key.startswith(("set.cluster.", "base.cluster."))]
    free = {f"sweep.{key}" for key in FREE}
    return [key for key in keys if key not in free and before.get(key) != after.get(key)]
