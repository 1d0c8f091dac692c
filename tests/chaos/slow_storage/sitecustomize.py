"""Python reads this at its start on nodes whose path has this folder: storage is slow while a file says by how much."""

import os
import time
from contextlib import suppress

MARK = "GANSCALE_SLOW_STORAGE"
"""Names the file, which holds the seconds that each sync takes longer; without the file storage is as fast as it is."""


def _slow_down(path: str) -> None:
    sync = os.fsync

    def slow(descriptor: int) -> None:
        with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            time.sleep(float(file.read()))
        sync(descriptor)

    os.fsync = slow  # pyright: ignore[reportAttributeAccessIssue]


if MARK in os.environ:
    _slow_down(os.environ[MARK])
