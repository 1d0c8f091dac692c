"""Reads what W&B wrote offline: its transaction log, in LevelDB's log format, holds one protocol buffer per record."""

import struct
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

BLOCK = 32_768
HEADER = 7
WHOLE, FIRST, LAST = 1, 2, 4


def payloads(path: Path) -> Iterator[bytes]:
    """The log's records."""
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
        if kind in (WHOLE, LAST):
            yield parts


def records(path: Path, *, timeout: float = 60.0) -> list[Any]:
    """The records of a finished run as W&B's protocol buffers; its last ones arrive a moment after `finish`."""
    protocol = import_module("wandb.proto.wandb_internal_pb2")
    until = time.monotonic() + timeout
    while True:
        found = [protocol.Record.FromString(payload) for payload in payloads(path)]
        if any(record.HasField("exit") for record in found):
            return found
        assert time.monotonic() < until, f"no end in {path}"
        time.sleep(0.1)
