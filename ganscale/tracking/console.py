"""What people see of a run: the package's log lines, in the terminal and in `train.log`, and a line per tick."""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ganscale.storage.files import open_for_append
from ganscale.tracking import EventTracker

if TYPE_CHECKING:
    import numpy as np

PACKAGE = logging.getLogger("ganscale")
_logger = logging.getLogger(__name__)
_TICK = re.compile(r" *[\d,]+ / [\d,]+ images ")
_PHASE = " ..."


def show(text: str) -> None:
    """Print a text; after the reader has closed the pipe, nothing is printed any more.

    Args:
        text: One line or several.
    """
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python flushes its buffer at exit and would report the closed pipe then.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(images: int, until: int, metrics: Mapping[str, float], eta: float) -> str:
    """Format a tick as one line.

    Args:
        images: Images so far.
        until: Images of the whole run.
        metrics: The tick's row.
        eta: Seconds left.
    """
    return (
        f"{images:>12,} / {until:,} images {100 * images / until:5.1f}%  "
        f"{metrics['images_per_second']:>9,.0f} images/s  eta {clock(eta)}  "
        f"loss D {metrics['loss_d']:7.3f}  G {metrics['loss_g']:7.3f}  "
        f"D right on real {100 * metrics['d_accuracy_real']:3.0f}%, fake {100 * metrics['d_accuracy_fake']:3.0f}%"
    )


def clock(seconds: float) -> str:
    """Format seconds as h:mm:ss or m:ss.

    Args:
        seconds: A duration; below 0 it is shown as 0:00.
    """
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    minutes, rest = divmod(rest, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class _Format(logging.Formatter):
    """The message, with a warning marked as one and the rank of another process than the first."""

    def __init__(self, rank: int = 0) -> None:
        super().__init__()
        self._rank = f"[rank {rank}] " if rank else ""

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return f"{self._rank}{level}{record.getMessage()}"


class Screen(logging.Handler):
    """Prints log lines; in a terminal, ticks and phases are one live line below the others.

    Args:
        rank: Of this process; others than 0 show warnings only.
    """

    def __init__(self, rank: int = 0) -> None:
        super().__init__(logging.WARNING if rank else logging.INFO)
        self.setFormatter(_Format(rank))
        self._live: Any = None
        self._tick = self._phase = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Show a line."""
        line = self.format(record)
        if not sys.stdout.isatty():
            show(line)
        elif _TICK.match(line):
            self._tick, self._phase = line.strip(), ""
            self._update()
        elif line.endswith(_PHASE):
            self._phase = line
            self._update()
        elif self._live:
            self._live.console.print(line, markup=False, highlight=False, emoji=False)
        else:
            show(line)

    def _update(self) -> None:
        from rich.live import Live
        from rich.text import Text

        text = Text("  ".join(filter(None, (self._phase, self._tick))), no_wrap=True, overflow="ellipsis")
        if self._live is None:
            self._live = Live(transient=True)
            self._live.start()
        self._live.update(text)

    def end(self) -> None:
        """End the live line; the last tick stays."""
        if self._live:
            self._live.stop()
            show(self._tick)
            self._live, self._tick = None, ""

    def close(self) -> None:
        """Close the handler (part of `logging.Handler`)."""
        self.end()
        super().close()


class _File(logging.Handler):
    """Appends log lines, stamped with the time; a full disk must not stop training.

    Args:
        path: The file; a symbolic link is refused.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(_Format())
        with open_for_append(path) as file:
            self._descriptor = os.dup(file.fileno())

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(self.format(record).splitlines())
        try:
            os.write(self._descriptor, f"{datetime.fromtimestamp(record.created):%Y-%m-%d %H:%M:%S} {line}\n".encode())
        except OSError:
            return

    def close(self) -> None:
        os.close(self._descriptor)
        super().close()


@contextmanager
def setup_logging() -> Iterator[None]:
    """Show the package's log lines while the block runs; of torchrun's ranks other than 0, warnings only."""
    shown = [handler for handler in PACKAGE.handlers if isinstance(handler, Screen)]
    if shown:
        try:
            yield
        finally:
            shown[0].end()
        return
    with _handling(Screen(int(os.environ.get("RANK", "0")))):
        yield


class _Opened:
    """The package's open handlers, and the level that it had before the first of them."""

    handlers: ClassVar[set[logging.Handler]] = set()
    level: ClassVar[int] = logging.NOTSET


@contextmanager
def _handling(handler: logging.Handler) -> Iterator[None]:
    if not _Opened.handlers:
        _Opened.level = PACKAGE.level
        PACKAGE.setLevel(PACKAGE.level or logging.INFO)
    _Opened.handlers.add(handler)
    PACKAGE.addHandler(handler)
    try:
        yield
    finally:
        PACKAGE.removeHandler(handler)
        _Opened.handlers.remove(handler)
        if not _Opened.handlers:  # whichever was opened first: a console may end before an earlier one does
            PACKAGE.setLevel(_Opened.level)
        handler.close()


class Console(EventTracker):
    """Keeps the package's log lines in a run's file while it is open, and logs its ticks.

    Args:
        path: The log file; lines are appended.
        echo: Whether they are shown in the terminal as well.

    Raises:
        OSError: The file cannot be opened, or is a symbolic link.
    """

    def __init__(self, path: Path, *, echo: bool) -> None:
        file = _File(path)
        self._open = ExitStack()
        if echo:
            self._open.enter_context(setup_logging())
        self._open.enter_context(_handling(file))
        self.starts(0, 1)

    def starts(self, images: int, until: int) -> None:
        """Measure speed and time left from now on.

        Args:
            images: Images so far.
            until: Images of the whole run.
        """
        self._first, self._until = images, until
        self._started = time.perf_counter()

    def info(self, line: str) -> None:
        """Log a line.

        Args:
            line: Its text; line breaks become spaces.
        """
        _logger.info("%s", " ".join(line.splitlines()))

    def phase(self, text: str) -> None:
        """Announce a phase that takes a while; in a terminal it stands in the live line.

        Args:
            text: What begins, such as "evaluating 10,000 samples".
        """
        self.info(f"{text}{_PHASE}")

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Log a tick; the time left follows from the run's own mean speed, pauses included.

        Args:
            images: Images so far.
            metrics: The tick's row.
        """
        passed = time.perf_counter() - self._started
        eta = passed * (self._until - images) / max(1, images - self._first)
        self.info(progress(images, self._until, metrics, eta))

    def samples(self, images: int, picture: "np.ndarray") -> None:
        """Ignore pictures (part of `Tracker`)."""

    def event(self, images: int, kind: str, text: str) -> None:
        """Log an event (`EventTracker`)."""
        self.info(f"{kind} at {images:,} images: {text}")

    def close(self, *, completed: bool) -> None:
        """Close the file (`Tracker`)."""
        self._open.close()


class LogFollower:
    """Logs the lines that another process appends to a log file.

    Args:
        path: The file; lines that it has already are skipped.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = path.stat().st_size if path.exists() else 0

    def show(self) -> int:
        """Log new whole lines without their time stamps, and return their number."""
        if not self._path.exists():
            return 0
        with self._path.open("rb") as file:
            self._offset = min(self._offset, file.seek(0, os.SEEK_END))  # the file may have been replaced
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        lines = whole.decode("utf-8", "replace").splitlines()
        for line in lines:
            _logger.info("%s", line[20:])
        return len(lines)
