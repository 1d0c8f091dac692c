"""What a person sees while a run goes on: one line per tick, on the screen and in `train.log`."""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import numpy as np

from ganscale.storage.files import open_for_append


def progress(images: int, until: int, metrics: Mapping[str, float], eta: float) -> str:
    """One line: images, share, speed, time left, losses and D's accuracy."""
    return (
        f"{images:>12,} / {until:,} images {100 * images / until:5.1f}%  "
        f"{metrics['images_per_second']:>9,.0f} images/s  eta {clock(eta)}  "
        f"loss D {metrics['loss_d']:7.3f}  G {metrics['loss_g']:7.3f}  "
        f"D right on real {100 * metrics['d_accuracy_real']:3.0f}%, fake {100 * metrics['d_accuracy_fake']:3.0f}%"
    )


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Console:
    """Lines for people, kept in a file and, where `echo` is set, shown as well.

    Args:
        path: the log file; lines are appended.
        echo: whether to print them too.
    """

    def __init__(self, path: Path, *, echo: bool) -> None:
        self._file = open_for_append(path)
        self._echo = echo
        self.starts(0, 1)

    def starts(self, images: int, until: int) -> None:
        """Measure speed and time left from now on, between these numbers of images."""
        self._first, self._until = images, until
        self._started = time.perf_counter()

    def info(self, line: str) -> None:
        """Write one line, stamped with the time in the file."""
        line = " ".join(line.splitlines())
        with suppress(OSError, ValueError):  # a full disk, or W&B's late word after `close`, must not stop training
            self._file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {line}\n")
            self._file.flush()
        if self._echo:
            print(line, flush=True)

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Show a tick; the time left follows from the run's own average speed, pauses included."""
        passed = time.perf_counter() - self._started
        eta = passed * (self._until - images) / max(1, images - self._first)
        self.info(progress(images, self._until, metrics, eta))

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Pictures are not for the console."""

    def event(self, images: int, kind: str, text: str) -> None:
        """Say what happened."""
        self.info(f"{kind} at {images:,} images: {text}")

    def close(self, *, completed: bool) -> None:
        """Close the file."""
        with suppress(OSError):
            self._file.close()


class LogFollower:
    """Shows the lines that another process appends to a log file.

    Args:
        path: the file; lines that are there already are passed over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def show(self) -> int:
        """Print new whole lines without their time stamps; return how many."""
        if not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            self._offset = min(self._offset, file.seek(0, os.SEEK_END))  # it may have been made anew
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        for line in lines:
            print(line[20:], flush=True)
        sys.stdout.flush()
        return len(lines)
