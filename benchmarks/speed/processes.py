"""`python -m benchmarks.speed processes`: processor seconds of each process until a run trains, or trains again."""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from benchmarks.speed.command import BenchError, changed, configs_of, markdown, names_of, write_json
from ganscale.config import Config

STARTS: dict[str, tuple[str, ...]] = {
    "local": ("--launcher", "local", "cluster.num_workers=1"),
    "ray": ("--launcher", "ray", "cluster.num_workers=2", "cluster.address=local"),
}
"""Ways to start a run. With Ray, one worker is killed after a checkpoint: `restart` is the time until the next row."""
INTERVAL = 0.5
"""Seconds between two looks at the processes."""
SAVED_AFTER = 4
"""Iterations after which there is a checkpoint."""
TICK = os.sysconf("SC_CLK_TCK")
STATE_FIELDS = 2
"""Fields of /proc/PID/stat before the process's state, whose second one may hold spaces."""


@dataclass(frozen=True)
class Process:
    """A process as /proc has it.

    Attributes:
        name: of its program, or of the actor that it runs.
        parent: id of its parent.
        seconds: processor time so far, user's and system's.
    """

    name: str
    parent: int
    seconds: float


@dataclass(frozen=True)
class Phase:
    """What a phase of a run took.

    Attributes:
        name: `local`, `ray` or `restart`.
        seconds: processor time by process, of all processes of one name together.
        wall: seconds of the clock.
    """

    name: str
    seconds: dict[str, float]
    wall: float

    @property
    def total(self) -> float:
        """Processor time of all processes."""
        return sum(self.seconds.values())


class ProcessTree:
    """The processor time of a process and of all that descend from it, those that have ended by the last look.

    Args:
        root: id of the process.
    """

    def __init__(self, root: int) -> None:
        self._root = root
        self.seen: dict[int, Process] = {}

    def look(self) -> None:
        """Read /proc."""
        now = {int(path.name): found for path in Path("/proc").glob("[0-9]*") if (found := read_process(path))}
        children = defaultdict(list)
        for pid, found in now.items():
            children[found.parent].append(pid)
        left = [self._root]
        while left:
            pid = left.pop()
            if pid in now:
                self.seen[pid] = now[pid]
            left += children[pid]

    def seconds(self) -> dict[int, float]:
        """Processor time of each process so far, by its id."""
        return {pid: found.seconds for pid, found in self.seen.items()}

    def since(self, before: Mapping[int, float]) -> dict[str, float]:
        """Processor time by name, beyond what there was.

        Args:
            before: earlier `seconds`.
        """
        found: dict[str, float] = defaultdict(float)
        for pid, process in self.seen.items():
            found[process.name] += process.seconds - before.get(pid, 0.0)
        return {name: round(seconds, 2) for name, seconds in found.items() if round(seconds, 2) > 0}

    def named(self, name: str) -> list[int]:
        """Ids of the processes of a name, in order.

        Args:
            name: as in `Process`.
        """
        return sorted(pid for pid, found in self.seen.items() if found.name == name)


def read_process(path: Path) -> Process | None:
    """A process; None if it has ended.

    Args:
        path: its folder in /proc.
    """
    try:
        fields = (path / "stat").read_text().rpartition(")")[2].split()
        words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    at = 13 - STATE_FIELDS
    return Process(process_name(words), int(fields[3 - STATE_FIELDS]), sum(map(int, fields[at : at + 2])) / TICK)


def process_name(words: Sequence[str]) -> str:
    """A short name: the actor of a Ray worker, else the program or script.

    Args:
        words: of its command line; Ray writes the actor's class and method into the first.
    """
    first = words[0].strip() if words else ""
    if first.startswith("ray::"):
        return re.split(r"[.(\s]", first.removeprefix("ray::"))[0].lstrip("_") or "worker"
    if "-m" in words and "ganscale.train" in words:
        return "driver"
    if any(word.endswith("default_worker.py") for word in words):
        return "IDLE"
    script = next((word for word in words[1:] if word.endswith(".py")), first)
    return Path(script).name or "kernel"


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    ways = names_of(options.ways, list(STARTS), key="--ways")
    checkouts = {"here": Path(__file__).parents[2]} | ({"other": options.against} if options.against else {})
    report: dict[str, Any] = {}
    for title, config in configs_of(options).items():
        found: dict[str, list[Phase]] = {name: [] for name in checkouts}
        for way in ways:
            for _ in range(options.rounds):
                for name, checkout in checkouts.items():
                    for phase in measure(config, way, checkout):
                        print(
                            f"{title}, {name}, {phase.name}: {phase.total:.1f} s, clock {phase.wall:.0f} s", flush=True
                        )
                        found[name].append(phase)
        print(f"\n{table(found)}")
        report[title] = {name: [asdict(each) for each in phases] for name, phases in found.items()}
    write_json(options.json, {"cpus": os.cpu_count(), "processes": report})
    return 0


def measure(config: Config, way: str, checkout: Path, *, timeout: float = 1200.0) -> list[Phase]:
    """Start a run, and with Ray kill a worker once it has saved.

    Args:
        config: of the run.
        way: of `STARTS`.
        checkout: of the repository whose code runs.
        timeout: seconds.

    Raises:
        BenchError: the command ended, or the time is up.
    """
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "output").open("w+") as output:
        file, log = Path(folder) / "run.yaml", Path(folder) / "measured" / "train.log"
        file.write_text(portable(_short(config, folder)), encoding="utf-8")
        command = [sys.executable, "-m", "ganscale.train", str(file), *STARTS[way]]
        began = time.monotonic()
        with subprocess.Popen(
            command, cwd=checkout, env=os.environ | {"PYTHONPATH": str(checkout)}, stdout=output, stderr=output
        ) as running:
            tree = ProcessTree(running.pid)

            def until(happened: Callable[[], bool]) -> float:
                while not happened():
                    if running.poll() is not None or time.monotonic() - began > timeout:
                        output.seek(0)
                        raise BenchError(f"no end of {way}: {output.read()[-2000:]}")
                    tree.look()
                    time.sleep(INTERVAL)
                tree.look()
                return time.monotonic()

            try:
                trained = until(lambda: rows_after_start(log, restarts=0))
                found = [Phase(way, tree.since({}), round(trained - began, 1))]
                if way == "ray":
                    until(lambda: any((log.parent / "checkpoints").glob("*/manifest.json")))
                    before, killed = tree.seconds(), time.monotonic()
                    os.kill(tree.named("RayTrainWorker")[-1], signal.SIGKILL)
                    recovered = until(lambda: rows_after_start(log, restarts=1))
                    found.append(Phase("restart", tree.since(before), round(recovered - killed, 1)))
                return found
            finally:
                _end(running, tree)


def rows_after_start(log: Path, *, restarts: int) -> bool:
    """Whether a run has logged a row since its last start.

    Args:
        log: its train.log.
        restarts: number of starts before the last one.
    """
    text = log.read_text(encoding="utf-8") if log.exists() else ""
    starts = text.split(" building ")
    return len(starts) == restarts + 2 and " images/s " in starts[-1]


def portable(config: Config) -> str:
    """A run's YAML as another version reads it, which lacks settings: without those that have their defaults.

    Args:
        config: the run.
    """
    settings = config.model_dump(mode="json", exclude_defaults=True)
    for side in ("generator", "discriminator"):
        settings.setdefault("model", {}).setdefault(side, {})["name"] = getattr(config.model, side).name
    return yaml.safe_dump(settings)


def _short(config: Config, folder: str) -> Config:
    """The run with a row at each iteration and frequent checkpoints, without evaluation, samples and W&B."""
    images = config.train.batch_size * config.optim.d_steps
    return changed(
        config,
        run={"dir": folder, "name": "measured"},
        log={"every": images, "samples_every": config.train.images},
        checkpoint={"every": SAVED_AFTER * images},
        eval={"every": 0},
        wandb={"mode": "disabled"},
    )


def _end(running: subprocess.Popen[bytes], tree: ProcessTree) -> None:
    """Stop the command, and after a while what is left of its processes."""
    running.send_signal(signal.SIGTERM)
    try:
        running.wait(180.0)
    except subprocess.TimeoutExpired:
        for pid in tree.seen:
            found = read_process(Path("/proc") / str(pid))
            if found and found.name == tree.seen[pid].name:
                os.kill(pid, signal.SIGKILL)


def table(found: Mapping[str, Sequence[Phase]]) -> str:
    """Format medians as a Markdown table: a row per phase and process.

    Args:
        found: phases by checkout.
    """
    rows: list[Sequence[str]] = [("phase", "process", *found, *("ratio",) * (len(found) == 2))]
    names = dict.fromkeys(each.name for phases in found.values() for each in phases)
    for phase in names:
        medians = {
            name: _medians([each.seconds | {"all": each.total} for each in phases if each.name == phase])
            for name, phases in found.items()
        }
        keys = sorted(
            {key for each in medians.values() for key in each}, key=lambda key: -medians["here"].get(key, 0.0)
        )
        for key in keys:
            values = [each.get(key, 0.0) for each in medians.values()]
            ratio = [f"{values[0] / values[1]:.2f}" if values[1] else ""] if values[1:] else []
            rows.append((phase, key, *(f"{value:.1f}" for value in values), *ratio))
    return markdown(rows)


def _medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    keys = {key for run in runs for key in run}
    return {key: median(run.get(key, 0.0) for run in runs) for key in keys}
