"""Commands as a user gives them: in a session of their own, with a time limit, their output kept for the report."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parent.parent
TRAIN = (sys.executable, "-m", "ganscale.train")


class Command:
    """A running command; leaving the `with` block kills it and what it started.

    Programs beside this Python come first on its path, as in an activated environment.

    Args:
        command: program and arguments.
        log: file for stdout and stderr together.
        environment: variables beside this process's own; None removes one.
        cwd: where it runs.
    """

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
    ) -> None:
        path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
        own = {"PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        merged = os.environ | own | dict(environment or {})
        self.log = log
        self.command = [*command]
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={name: value for name, value in merged.items() if value is not None},
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def report(self, problem: str) -> str:
        """The problem with the command and all it said."""
        return f"{problem}: {' '.join(self.command)}\n{self.output[-20_000:]}"

    def wait(self, timeout: float) -> int:
        """Its exit code; kills it and fails when it takes longer than `timeout` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(self.report(f"no end within {timeout:.0f} s")) from None

    def succeed(self, timeout: float) -> str:
        """Wait for exit code 0; return the output."""
        code = self.wait(timeout)
        assert code == 0, self.report(f"exit code {code}")
        return self.output

    def refuse(self, timeout: float) -> str:
        """Wait for exit code 2 and one short message; return it."""
        code = self.wait(timeout)
        assert code == 2, self.report(f"exit code {code}, not 2")
        assert "Traceback" not in self.output, self.report("a traceback")
        assert self.output.count("ganscale: error: ") == 1, self.report("not one message")
        return self.output.partition("ganscale: error: ")[2]

    def until(self, ready: Callable[[], bool], timeout: float) -> None:
        """Wait until something is so while the command runs."""
        deadline = time.monotonic() + timeout
        while not ready():
            assert self.process.poll() is None, self.report(f"it ended with {self.process.poll()}")
            assert time.monotonic() < deadline, self.report(f"still waiting after {timeout:.0f} s")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL for it, its process group and all that it started, in whatever group."""
        victims = [] if self.process.poll() is not None else descendants(self.process.pid)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for victim in victims:
            with suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        self.process.wait(30)

    def __enter__(self) -> "Command":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.kill()


def descendants(pid: int) -> list[int]:
    """A process's children, their children and so on."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for process in found:  # it grows meanwhile
        found += children.get(process, [])
    return found[1:]


def snapshot(folder: Path) -> dict[str, str]:
    """Every file below a folder with its SHA-256, every folder and link with an empty text."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


def final_state(run: Path) -> str:
    """SHA-256 of a run's newest `state.pt`: equal for equal tensors."""
    newest = max((run / "checkpoints").iterdir())
    return hashlib.sha256((newest / "state.pt").read_bytes()).hexdigest()


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
