"""Reads what W&B wrote offline: its transaction log, in LevelDB's log format, holds one protocol buffer per record."""

import time
from importlib import import_module
from pathlib import Path
from typing import Any

from ganscale.tracking.wandb_log import payloads


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
