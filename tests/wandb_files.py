"""Reads W&B's offline files by W&B's own program."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


def read_records(directory: Path, kind: str, *, timeout: float = 60.0) -> list[dict[str, Any]]:
    """Return the records of one kind of a finished attempt; its end is on disk a moment after `finish`.

    Args:
        directory: W&B's directory of the attempt.
        kind: "run", "metric", "history", "alert" or "exit".
        timeout: seconds to wait for the end.
    """
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", *map(str, directory.glob("*.wandb"))]
    until = time.monotonic() + timeout
    while True:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=True)
        records = [json.loads(line) for line in done.stdout.splitlines()]
        if records[-1]["type"] == "exit":
            return [record[kind] for record in records if record["type"] == kind]
        assert time.monotonic() < until, f"no end in {directory}"


def read_history(directory: Path) -> list[dict[str, Any]]:
    """Return the rows of a finished attempt; nested keys are dotted."""
    return [record["item"] for record in read_records(directory, "history")]
