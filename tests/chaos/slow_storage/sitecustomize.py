"""Slows `os.fsync` down in every Python process whose path has this folder, while the file named by MARK exists."""

import os
import time
from contextlib import suppress

MARK = "GANSCALE_SLOW_STORAGE"
"""Environment variable with the name of a file that holds the seconds to add to each sync."""


def _slow_down(path: str) -> None:
    sync = os.fsync

    def slow(descriptor: int) -> None:
        with suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
            time.sleep(float(file.read()))
        sync(descriptor)

    os.fsync = slow  # pyright: ignore[reportAttributeAccessIssue]


if MARK in os.environ:
    _slow_down(os.environ[MARK])
