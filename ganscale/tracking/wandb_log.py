"""How far the earlier lives of a run got in W&B's files: LevelDB's log format, protocol buffers inside."""

import struct
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32_768, 7
WHOLE, FIRST, LAST = 1, 2, 4


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


def last_step(folder: Path) -> int:
    """The greatest step of a row in the files of earlier lives below a folder; -1 where there is none.

    Raises:
        OSError: a file cannot be read.
    """
    protocol: Any = import_module("wandb.proto.wandb_internal_pb2")
    decoding_error: Any = import_module("google.protobuf.message").DecodeError
    found = -1
    for path in sorted(folder.glob("*run-*/*.wandb")):
        try:
            for payload in payloads(path):
                record = protocol.Record.FromString(payload)
                if record.WhichOneof("record_type") == "history":
                    found = max(found, int(record.history.step.num))
        except decoding_error:  # damaged from here on
            continue
    return found
