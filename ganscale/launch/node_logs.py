"""The log files of a Ray node that tell how a job's processes ended. Runs on the nodes: imports the least."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

FILE_BYTES = 1 << 18
"""Largest part of a file that is kept: its end."""
NODE_FILES = 24
"""Most files of a node: those of the job first, then the newest."""
PATTERNS = (
    "worker-*-{job}-*.err",
    "worker-*-{job}-*.out",
    "train/*.log",
    "events/event_*.log",
    "raylet.out",
    "raylet.err",
    "gcs_server.out",
    "gcs_server.err",
)
"""Below the session's folder of logs: output of the job's workers, Ray Train's own log, and the node's processes."""


def read_logs(folder: str, job: str, since: float) -> dict[str, bytes]:
    """The ends of a node's log files by name, limited in size.

    Args:
        folder: The Ray session's folder of logs.
        job: Ray's id of the job, in hexadecimal digits.
        since: Seconds since the epoch; older files are left out.
    """
    newest = sorted(_files(Path(folder), job, since), reverse=True)[:NODE_FILES]
    found = {}
    for *_, name in newest:
        with suppress(OSError), (Path(folder) / name).open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - FILE_BYTES))
            found[name] = file.read(FILE_BYTES)
    return found


def _files(folder: Path, job: str, since: float) -> Iterator[tuple[bool, float, str]]:
    for pattern in PATTERNS:
        for path in folder.glob(pattern.format(job=job)):
            with suppress(OSError):
                stat = path.stat()
                if stat.st_size and stat.st_mtime >= since:
                    yield "{job}" in pattern, stat.st_mtime, path.relative_to(folder).as_posix()
