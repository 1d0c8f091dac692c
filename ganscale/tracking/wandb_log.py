"""What the earlier lives of a run wrote into W&B's files: LevelDB's log format, protocol buffers inside."""

import json
import math
import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ganscale.runfolder import RunFolder
from ganscale.tracking.local import read_metrics

BLOCK, HEADER = 32_768, 7
WHOLE, FIRST, LAST = 1, 2, 4
DELIVERED = "delivered"
"""Empty file in the folder of a life whose files the server has."""


def payloads(path: Path) -> Iterator[bytes]:
    """The records of a file, as far as they are whole."""
    content = path.read_bytes()
    at, parts = HEADER, b""
    while at + HEADER <= len(content):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + HEADER])
        data = content[at + HEADER : at + HEADER + length]
        at += HEADER + length
        parts = data if kind in (WHOLE, FIRST) else parts + data
        if kind in (WHOLE, LAST) and at <= len(content):
            yield parts


def lives(folder: RunFolder) -> list[Path]:
    """Where the lives of a run have their files, oldest first."""
    found = {path.parent for path in folder.path.glob("wandb/*run-*/*.wandb")}
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def history(life: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step and row of each history record of a life, without the keys that W&B adds; a damaged end is left out.

    Raises:
        OSError: a file cannot be read.
    """
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")
    decoding_error: Any = import_module("google.protobuf.message").DecodeError
    for path in sorted(life.glob("*.wandb")):
        try:
            for payload in payloads(path):
                record = protocol.Record.FromString(payload)
                if record.WhichOneof("record_type") == "history":
                    yield int(record.history.step.num), _row(record.history.item)
        except decoding_error:  # damaged from here on
            continue


def _row(items: Any) -> dict[str, Any]:
    """Keys and values of a history record; what has several keys, one below the other, is nested."""
    row: dict[str, Any] = {}
    for item in items:
        *outer, last = list(item.nested_key) or [item.key]
        place = row
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return {key: value for key, value in row.items() if not key.startswith("_")}


def last_step(folder: RunFolder) -> int:
    """The greatest step of a row in the files of earlier lives; -1 where there is none.

    Raises:
        OSError: a file cannot be read.
    """
    return max((step for life in lives(folder) for step, _ in history(life)), default=-1)


def missing_rows(folder: RunFolder, reached: int) -> dict[int, dict[str, Any]]:
    """The rows of a run after step `reached`, from its folder and from the files of its earlier lives, by step.

    Steps that the folder does not have are of a life that was lost and are left out. Under `samples` stands the path of
    a picture.

    Raises:
        OSError: a file cannot be read.
    """
    rows: dict[int, dict[str, Any]] = {}
    for row in read_metrics(folder):
        numbers = {name: math.nan if value is None else value for name, value in row.items()}
        rows.setdefault(row["images"], {}).update(numbers)
    for path in folder.samples.glob("*.png"):
        if path.stem.isdigit():
            rows.setdefault(int(path.stem), {})["samples"] = path
    rows = {step: row for step, row in rows.items() if step > reached}
    for life in lives(folder) if rows else ():
        for step, row in history(life):
            if step in rows:
                rows[step] = row | rows[step]
    return dict(sorted(rows.items()))


def undelivered(folder: RunFolder) -> list[Path]:
    """The lives of which the server may lack something, oldest first; `wandb sync` leaves a mark of its own."""
    return [life for life in lives(folder) if not (life / DELIVERED).exists() and not any(life.glob("*.synced"))]
