"""What a trial has written: its rows and how it ended."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganscale.sweep.score import SeedResult, seed_from_json


@dataclass(frozen=True)
class TrialRow:
    """What is known of a configuration at one evaluation.

    Attributes:
        images: of each seed, rounded down to the interval `eval.every`, so that all configurations share an axis.
        drawn: the drawn values with which it was trained up to here.
        seeds: each seed's result.
        seconds: of work since the row before.
        last: whether the configuration is done.
    """

    images: int
    drawn: dict[str, Any]
    seeds: tuple[SeedResult, ...]
    seconds: float
    last: bool

    @property
    def spent(self) -> int:
        """Images over all seeds."""
        return sum(seed.images for seed in self.seeds)

    def as_json(self) -> dict[str, Any]:
        """Plain mappings."""
        return {**self.__dict__, "seeds": [seed.as_json() for seed in self.seeds]}


def read_rows(folder: Path) -> list[TrialRow]:
    """The rows of a trial's folder; one that a crash cut short is left out, with all after it."""
    rows: list[TrialRow] = []
    with suppress(OSError, ValueError, KeyError, TypeError):
        for line in (folder / "rows.jsonl").read_text(encoding="utf-8").splitlines():
            raw = json.loads(line)
            rows.append(TrialRow(**{**raw, "seeds": tuple(map(seed_from_json, raw["seeds"]))}))
    return rows


def read_end(folder: Path) -> tuple[str, str]:
    """How a trial ended and why; empty where it has not."""
    try:
        raw = json.loads((folder / "end.json").read_text(encoding="utf-8"))
        return str(raw["status"]), str(raw["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "", ""


def read_drawn(folder: Path) -> dict[str, Any] | None:
    """The drawn values that a trial was proposed with; None where there is none."""
    with suppress(OSError, ValueError):
        raw = json.loads((folder / "drawn.json").read_text(encoding="utf-8"))
        return raw if isinstance(raw, dict) else None
    return None
