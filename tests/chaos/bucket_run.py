"""A run in a bucket under test: its commands, what they have printed, and traps that act on one of their requests."""

import random
import re
import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, Literal

from ganscale.storage.checkpoint import CheckpointError, CheckpointStore, load
from ganscale.storage.lease import born
from ganscale.storage.store import StorePath, open_place
from tests.buckets import BUCKET, Proxy
from tests.chaos.active_run import LostError, MissedError, send
from tests.processes import Command, descendants, free_port
from tests.runs import FIFTY, QUIET

IMAGES, INTERVAL, TICK = 2400, 120, 60
LEASE = 4.0
"""Seconds of a lease in the campaign."""
PAUSE = 0.15
"""Seconds that a run waits after each row."""
LIMIT = 900.0
"""Seconds without any event, on a busy machine, after which a run is lost."""
MAX_STARTS = 20
"""Most starts of a run's command."""
SETTINGS = (
    *FIFTY,
    *QUIET,
    f"train.images={IMAGES}",
    f"checkpoint.every={INTERVAL}",
    f"log.every={TICK}",
    "checkpoint.keep=2",
    "log.samples_every=1200",
    "cluster.timeout=30",
)
_ROW = re.compile(rf"([\d,]+) / {IMAGES:,}")

Passing = Literal["dropped", "late", "answered", "held"]
"""What happens to the request of a trap: the storage never gets it, gets it after the act, before the act, or when
the trap is released."""


@dataclass(frozen=True)
class Request:
    """A request to the storage.

    Attributes:
        name: for the record.
        method: of HTTP.
        pattern: found in its path.
        after: found in the path of an earlier request; empty for none.
    """

    name: str
    method: str
    pattern: str
    after: str = ""


STATE = Request("state", "PUT", r"/checkpoints/\d{12}/state-")
MANIFEST = Request("manifest", "PUT", r"/checkpoints/\d{12}/manifest\.json")
LISTING = Request("listing of a checkpoint", "GET", r"list-type=2.*checkpoints(%2F|/)\d{12}")
DELETION = Request("deletion", "POST", r"\?delete", after=MANIFEST.pattern)
"""Of an object of an old checkpoint."""
RENEWAL = Request("lease", "PUT", r"/lease\.json")


def launch(launcher: str) -> list[str]:
    """The command that starts a run's workers.

    Args:
        launcher: `local` for one worker, `torchrun` for two.
    """
    worker = ["-m", "tests.chaos.bucket_worker", "--launcher", launcher]
    if launcher == "local":
        return [sys.executable, *worker]
    meeting = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}"]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=100", *meeting]
    return [sys.executable, *torchrun, *worker]


def environment(folder: Path, machine: str = "") -> dict[str, str | None]:
    """Variables of a command, see `bucket_worker`.

    Args:
        folder: for the names of its processes, and the file `pause` with the seconds after each row.
        machine: another name of this machine; empty for its own.
    """
    (folder / "pids").mkdir(parents=True, exist_ok=True)
    return {
        "CHAOS_LEASE": str(LEASE),
        "CHAOS_FOLDER": str(folder),
        "CHAOS_MACHINE": machine,
        "OMP_NUM_THREADS": "1",
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }


class Trap:
    """Acts at one request to the storage: kills or stops who sent it.

    Args:
        place: the request's method, and what is found in its path.
        passing: what becomes of it.
        act: called once.
        skip: number of such requests that pass first.
    """

    def __init__(self, place: Request, passing: Passing, act: Callable[[], None], *, skip: int = 0) -> None:
        self._place, self._passing, self._act, self._left = place, passing, act, skip
        self.sprung, self.released = Event(), Event()
        self._armed, self._waits = True, bool(place.after)

    def __call__(self, method: str, path: str) -> Any:
        """What the proxy does with a request (`Proxy.disturb`)."""
        if self._waits:
            self._waits = not re.search(self._place.after, path)
            return None
        if not self._armed or method != self._place.method or not re.search(self._place.pattern, path):
            return None
        if self._left:
            self._left -= 1
            return None
        self._armed = False
        if self._passing == "answered":
            return self._after
        self._act()
        self.sprung.set()
        return {"dropped": "reset", "late": None, "held": self._when_released}[self._passing]

    def _after(self, pass_on: Callable[[], None]) -> bool:
        pass_on()
        self._act()
        self.sprung.set()
        return False

    def _when_released(self, _: Callable[[], None]) -> bool:
        self.released.wait(2 * LIMIT)
        return True


@dataclass
class BucketRun:
    """A run in progress.

    Attributes:
        proxy: between the run and the storage.
        uri: of the run's place.
        folder: for its output.
        launcher: `local` or `torchrun`.
        draw: random numbers of its faults.
        mode: `checkpoint.mode`.
        states: SHA-256 of the undisturbed run's states, by images.
        commands: started and not given up, oldest first.
        codes: exit codes of those that ended by themselves.
        details: what was drawn for the current kill.
        starts: number of starts.
        marks: ends of the outputs at the kill.
        peak: images of the last row before it.
        since_kill: time.monotonic() of it.
    """

    proxy: Proxy
    uri: str
    folder: Path
    launcher: str
    draw: random.Random
    mode: str
    states: Mapping[int, str]
    commands: list[Command] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    details: list[str] = field(default_factory=list)
    starts: int = 0
    marks: dict[Path, int] = field(default_factory=dict)
    peak: int = 0
    since_kill: float = 0.0

    @property
    def place(self) -> StorePath:
        """Where the run lies."""
        place = open_place(self.uri)
        assert isinstance(place, StorePath)
        return place

    def start(self) -> Command:
        """Start the run's command, on this machine or on what it takes for another one."""
        if self.starts >= MAX_STARTS:
            raise LostError(f"the command ended with {self.codes}")
        machine = f"m{self.starts}" if self.draw.random() < 0.5 else ""
        root, _, name = self.uri.rpartition("/")
        words = [*SETTINGS, f"run.dir={root}", f"run.name={name}", f"checkpoint.mode={self.mode}"]
        variables = environment(self.folder, machine) | self.proxy.server.environment
        out = self.folder / f"{self.starts:02d}.out"
        command = Command([*launch(self.launcher), *words], out, environment=variables, cwd=self.folder)
        self.starts += 1
        self.commands.append(command)
        return command

    def outputs(self) -> dict[Path, int]:
        """Bytes of each output so far: where `since` starts."""
        return {path: path.stat().st_size for path in sorted(self.folder.glob("*.out"))}

    def since(self, marks: Mapping[Path, int]) -> str:
        """What all commands have printed since."""
        texts = []
        for path in sorted(self.folder.glob("*.out")):
            with path.open("rb") as file:
                file.seek(marks.get(path, 0))
                texts.append(file.read().decode(errors="replace"))
        return "\n".join(texts)

    def rows(self, marks: Mapping[Path, int] | None = None) -> list[int]:
        """Images of the rows printed since."""
        return [int(text.replace(",", "")) for text in _ROW.findall(self.since(marks or {}))]

    def reached(self, marks: Mapping[Path, int] | None = None) -> int:
        """Most images of the rows printed since."""
        return max(self.rows(marks), default=0)

    def until(self, ready: Callable[[], object], *, pause: float = 0.05) -> None:
        """Wait for an event while a command runs; one that failed is started again, as a scheduler would.

        Raises:
            MissedError: the run ended before, or the event takes too long.
        """
        deadline = time.monotonic() + LIMIT
        while not ready():
            if self.is_done():
                raise MissedError("the run ended first")
            if time.monotonic() > deadline:
                raise LostError(f"nothing happened in {LIMIT:.0f} s")
            time.sleep(pause)

    def is_done(self) -> bool:
        """Whether a command has ended with 0; where all have failed, one is started."""
        for command in [command for command in self.commands if command.process.poll() is not None]:
            code = command.process.returncode
            self.codes.append(code)
            if code == 0:
                return True
            with suppress(ValueError):  # a trap has just killed it
                self.commands.remove(command)
        if not self.commands:
            time.sleep(0.5)
            self.start()
        return False

    def record_kill(self) -> None:
        """Record that something is killed now."""
        self.marks, self.peak, self.since_kill = self.outputs(), self.reached(), time.monotonic()

    @contextmanager
    def slow(self, seconds: float = 2.0) -> Iterator[None]:
        """Slow the run down, so that work is left when another command has started."""
        (self.folder / "pause").write_text(str(seconds), encoding="utf-8")
        try:
            yield
        finally:
            (self.folder / "pause").write_text(str(PAUSE), encoding="utf-8")

    def wait_for(self, images: float) -> None:
        """Wait until the run has printed a row of so many images."""
        self.until(lambda: self.reached() >= images)

    def recover(self) -> int:
        """Wait until the run is further than at the kill, or complete; return the images that were trained twice."""
        with suppress(MissedError):
            self.until(lambda: self.reached(self.marks) > self.peak)
        first = next(iter(self.rows(self.marks)), IMAGES)
        return max(0, self.peak - (first - TICK))

    def complete(self) -> None:
        """Wait until the run is complete."""
        with suppress(MissedError):
            self.until(lambda: False)

    def pids(self, rank: int | None = None) -> list[int]:
        """Living processes that train, of all commands, or those of a rank."""
        found = []
        for path in (self.folder / "pids").iterdir():
            number, pid, start = map(int, path.name.split("-"))
            if born(pid) == start and rank in (None, number) and not _is_zombie(pid):
                found.append(pid)
        return found

    def everything(self) -> list[int]:
        """All living processes of the run: agents, and workers even without their agent."""
        agents = [command.process.pid for command in self.commands if command.process.poll() is None]
        return [*agents, *(child for pid in agents for child in descendants(pid)), *self.pids()]

    def kill_all(self) -> None:
        """Kill everything, as when the machine fails."""
        self.record_kill()
        send(self.everything())
        self.commands.clear()

    def forget(self, command: Command) -> None:
        """Kill a command and what it started."""
        self.record_kill()
        command.kill()
        if command in self.commands:
            self.commands.remove(command)

    def trap(self, place: Request, passing: Passing, act: Callable[[], None], *, skip: int = 0) -> Trap:
        """Set a trap in the proxy."""
        self.details.append(f"{place.name}, {passing}")
        self.proxy.disturb = trap = Trap(place, passing, act, skip=skip)
        return trap

    def listed(self) -> list[int]:
        """Images of the checkpoints that count.

        Raises:
            LostError: one of them cannot be loaded, twice in a row, or holds other weights than the undisturbed run's.
        """
        store = CheckpointStore(self.place / "checkpoints")
        seen: set[tuple[int, str]] = set()
        while True:  # one that a living writer deletes meanwhile is no longer listed the next time
            found = [int(folder.name) for folder in store.folders()]
            problems = {(images, problem) for images in found if (problem := self._problem(images))}
            if not problems:
                return found
            if problems & seen:
                raise LostError(f"of the checkpoints {found} some cannot be used: {sorted(problems & seen)}")
            seen |= problems

    def _problem(self, images: int) -> str:
        folder = self.place / "checkpoints" / f"{images:012d}"
        try:
            manifest, state = load(folder)
        except CheckpointError as error:
            return str(error)
        if state["images"] != images:
            return f"it holds the state at {state['images']} images"
        return "" if manifest.sha256 == self.states[images] else "its weights are others"


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def new_uri() -> str:
    """The URI of a new run in the bucket."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex[:12]}/a"


def stop(pids: list[int]) -> None:
    """Suspend processes."""
    send(pids, signal.SIGSTOP)


def proceed(pids: list[int]) -> None:
    """Let suspended processes run on."""
    send(pids, signal.SIGCONT)
