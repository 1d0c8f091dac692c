"""What the earlier lives of a run wrote into W&B's files: LevelDB's log format, protocol buffers inside."""

import json
import math
import os
import struct
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics

BLOCK, HEADER = 32_768, 7
WHOLE, FIRST, LAST = 1, 2, 4
DELIVERED = "delivered"
"""Empty file in the folder of a life whose files the server has."""
STILL = 2.0
"""Seconds without writing after which a file has no writer any more."""


def payloads(path: Path) -> Iterator[bytes]:
    """The records of a file, as far as they are whole."""
    return (payload for _, payload in _records(path))


def _records(path: Path) -> Iterator[tuple[int, bytes]]:
    """Where each whole record of a file ends, and what it holds."""
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
            yield at, parts


def mend(life: Path) -> None:
    """Cut off a record that a kill left incomplete: `wandb sync` stops at it and leaves out all later lives.

    A file that was written to a moment ago may still have its writer and is left alone.

    Raises:
        OSError: a file cannot be read or written.
    """
    for path in life.glob("*.wandb"):
        facts = path.stat()
        whole = max((end for end, _ in _records(path)), default=HEADER)
        if whole < facts.st_size and time.time() - facts.st_mtime > STILL:
            os.truncate(path, whole)


def lives(folder: RunDir) -> list[Path]:
    """Where the lives of a run have their files, oldest first."""
    found = {path.parent for path in folder.path.glob("wandb/*run-*/*.wandb")}
    return sorted(found, key=lambda path: path.name.removeprefix("offline-"))


def history(life: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step and row of each history record of a life, without pictures and what W&B adds; a damaged end is left out.

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
    """Numbers and histograms of a history record; what has several keys, one below the other, is nested."""
    row: dict[str, Any] = {}
    for item in items:
        *outer, last = list(item.nested_key) or [item.key]
        place = row
        for key in outer:
            place = place.setdefault(key, {})
        place[last] = json.loads(item.value_json)
    return {key: value for key, value in row.items() if not key.startswith("_") and not _is_picture(value)}


def _is_picture(value: Any) -> bool:
    return isinstance(value, dict) and value.get("_type") == "image-file"


def last_step(folder: RunDir) -> int:
    """The greatest step of a row in the files of earlier lives; -1 where there is none.

    Raises:
        OSError: a file cannot be read.
    """
    return max((step for life in lives(folder) for step, _ in history(life)), default=-1)


def missing_rows(folder: RunDir, reached: int) -> dict[int, dict[str, Any]]:
    """The rows of a run after step `reached`, from its folder and from the files of its earlier lives, by step.

    Steps that the folder does not have are of a life that was lost and are left out. Pictures are paths of files.

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
        for step, row in (*history(life), *_pictures(life)):
            if step in rows:
                rows[step] = row | rows[step]
    return dict(sorted(rows.items()))


def _pictures(life: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Step, name and file of each picture of a life: W&B calls it <name>_<step>_<checksum>.png."""
    for path in sorted(life.glob("files/media/images/*.png")):
        name, _, step = path.stem.rpartition("_")[0].rpartition("_")
        if step.isdigit():
            yield int(step), {name: path}


def undelivered(folder: RunDir) -> list[Path]:
    """The lives of which the server may lack something, oldest first; `wandb sync` leaves a mark of its own."""
    return [life for life in lives(folder) if not (life / DELIVERED).exists() and not any(life.glob("*.synced"))]
