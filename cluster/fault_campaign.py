"""Many short runs on a local cluster, each with a fault in it: `python cluster/fault_campaign.py --out campaign`.

A run counts as survived when it ends; as exact when its last state has the SHA-256 of the undisturbed run's. Records
lie in `<out>/records.jsonl`: the same command again does what is left. As root the nodes are machines of their own
(see local_cluster.py) and the storage a small file system, otherwise the faults that need these are left out.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too

from cluster.fault_kinds import KINDS, PATIENCE, Kind, MissedError, Scene
from cluster.machines import ClusterError
from cluster.nodes import HEAD, LocalCluster
from ganscale.checkpoint import CheckpointStore, load
from ganscale.faults import best_interval, read_faults
from ganscale.runfolder import RunFolder, read_objects

STARTS = 6
"""Times that a run's command is given, at most."""
TRIES = 3
"""Times that a fault is tried whose moment does not come."""
STORAGE_MIB = 256


@dataclass(frozen=True)
class Record:
    """A run with a fault.

    Attributes:
        kind: of the fault.
        seed: of its moment and victim.
        survived: whether the run ended.
        exact: whether its last state is that of the undisturbed run, to the bit.
        images_lost: most that one of its faults cost.
        bound: most that it may cost.
        seconds_to_recover: from the fault until the run was further than before; None if it never was.
        seconds: of the whole run, all starts together.
        goodput: share of that time whose work was kept: the undisturbed run's time over it.
        starts: times that the command was given.
        problem: what went wrong, if anything.
    """

    kind: str
    seed: int
    survived: bool
    exact: bool
    images_lost: int
    bound: int
    seconds_to_recover: float | None
    seconds: float
    goodput: float
    starts: int
    problem: str = ""

    @property
    def good(self) -> bool:
        """Whether nothing was lost but time."""
        return self.survived and self.exact and self.images_lost <= self.bound


def plan(kinds: Sequence[str], faults: int, seed: int) -> list[tuple[str, int]]:
    """Kind and seed of each fault: every kind in turn, in an order drawn anew for each round."""
    draw = random.Random(seed)
    planned: list[tuple[str, int]] = []
    while len(planned) < faults:
        names = list(kinds)
        draw.shuffle(names)
        planned += [(name, draw.randrange(1 << 30)) for name in names]
    return planned[:faults]


def final_state(run: Path) -> str:
    """SHA-256 of a run's newest state: equal for equal tensors; empty without one."""
    folders = [path for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    with suppress(OSError, ValueError):
        return hashlib.sha256((max(folders) / "state.pt").read_bytes()).hexdigest()
    return ""


class Campaign:
    """Runs on one cluster.

    Args:
        cluster: not yet up.
        storage: the runs' folder, seen by all nodes.
        images: length of each run.
        interval: images between two checkpoints.
        timeout: `cluster.timeout` of each run, in seconds.
    """

    def __init__(self, cluster: LocalCluster, storage: Path, *, images: int, interval: int, timeout: float) -> None:
        self.cluster, self.storage = cluster, storage
        self.images, self.interval, self.timeout = images, interval, timeout

    def command(self, name: str) -> list[str]:
        """The command of a run."""
        settings = {
            "run.dir": self.storage,
            "run.name": name,
            "train.images": self.images,
            "train.device": "cpu",
            "checkpoint.every": self.interval,
            "checkpoint.keep": 2,
            "log.every": self.interval // 4,
            "log.samples_every": 10**9,
            "log.details": "false",
            "wandb.mode": "disabled",
            "eval.every": 0,
            "cluster.num_workers": 2,
            "cluster.timeout": self.timeout,
            "cluster.max_restarts": 8,
            "cluster.restart_pause": 1,
        }
        return [sys.executable, "-m", "ganscale.train", *(f"{key}={value}" for key, value in settings.items())]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Give a run's command on the head node; its output goes to `<storage>/<name>.out`."""
        root = str(Path(__file__).resolve().parents[1])
        environment = self.cluster.environment(HEAD) | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
        with (self.storage.parent / f"{name}.out").open("ab") as log:
            return subprocess.Popen(
                self.cluster.command(HEAD, self.command(name), cwd=self.storage.parent),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def undisturbed(self) -> tuple[str, float]:
        """The state and the seconds of a run without a fault; the former is kept from an earlier campaign."""
        run = RunFolder(self.storage / "undisturbed")
        noted = self.storage.parent / "undisturbed.json"
        if noted.exists():
            found = json.loads(noted.read_text(encoding="utf-8"))
            return found["state"], found["seconds"]
        started = time.monotonic()
        code = self.start("undisturbed").wait(PATIENCE)
        if code:
            raise ClusterError(f"the undisturbed run ended with {code}", f"read {self.storage.parent}/undisturbed.out")
        found = {"state": final_state(run.path), "seconds": time.monotonic() - started}
        noted.write_text(json.dumps(found), encoding="utf-8")
        return found["state"], found["seconds"]

    def mend(self) -> None:
        """Bring the cluster back to a head and two living nodes for the next run."""
        state = self.cluster.state
        if state is None:
            self.cluster.up()
            return
        for node in state.nodes.values():
            if not node.killed and node.link == "cut":
                self.cluster.restore(node.name)
        time.sleep(1.0)
        if len(self.cluster.alive()) != self.cluster.nodes:
            self.cluster.down()
            self.cluster.up()

    def attempt(self, name: str, seed: int) -> Record:
        """One run with one fault; again, at another moment, where the moment for it did not come."""
        problem = ""
        for number in range(TRIES):
            try:
                return self._attempt(name, seed, f"{seed}/{number}")
            except MissedError as error:
                problem = str(error)
                self.mend()
        return Record(name, seed, False, False, 0, 0, None, 0.0, 0.0, 0, f"missed {TRIES} times: {problem}")

    def _attempt(self, name: str, seed: int, draw: str) -> Record:
        kind = KINDS[name]
        state, alone = self.undisturbed()
        title = f"{name}-{seed}"
        run = RunFolder(self.storage / title)
        shutil.rmtree(run.path, ignore_errors=True)  # of a campaign that was stopped, or a moment that was missed
        started = time.monotonic()
        scene = Scene(
            self.cluster,
            run,
            lambda: self.start(title),
            self.start(title),
            random.Random(draw),
            self.interval,
            self.images,
        )
        problem, recovery = "", _Recovery(scene)
        try:
            kind.inject(scene)
            recovery.begin()
            self._to_the_end(scene)
        except (ClusterError, OSError, subprocess.SubprocessError) as error:
            problem = f"{type(error).__name__}: {error}"
        finally:
            _end(scene.driver)
            recovery.stop()
        seconds = time.monotonic() - started
        lost = max((fault.images_lost for fault in read_faults(run.faults)), default=0)
        return Record(
            name,
            seed,
            survived=bool(scene.codes) and scene.codes[-1] == 0,
            exact=final_state(run.path) == state,
            images_lost=lost,
            bound=kind.intervals * self.interval,
            seconds_to_recover=recovery.seconds,
            seconds=seconds,
            goodput=alone / seconds if scene.codes and scene.codes[-1] == 0 else 0.0,
            starts=len(scene.codes),
            problem=problem,
        )

    def _to_the_end(self, scene: Scene) -> None:
        """Give the command again until it ends well, as a user or a scheduler would."""
        while True:
            scene.codes.append(scene.driver.wait(PATIENCE))
            if scene.codes[-1] == 0 or len(scene.codes) >= STARTS:
                return
            self.mend()
            scene.driver = scene.start()


class _Recovery:
    """Measures the seconds from a fault until the run is further than it was."""

    def __init__(self, scene: Scene) -> None:
        self.seconds: float | None = None
        self._scene, self._stop = scene, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._since, self._images = 0.0, 0

    def begin(self) -> None:
        """The fault has happened."""
        self._since, self._images = self._scene.struck
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(0.2):
            if self._scene.reached() > self._images:
                self.seconds = time.monotonic() - self._since
                return

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that is still there, with its process group."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait(30)


def table(records: Sequence[Record]) -> str:
    """What was survived, by kind, as Markdown."""
    lines = [
        "| fault | runs | survived | exact | most images lost (allowed) | seconds to recover | goodput |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in KINDS:
        rows = [record for record in records if record.kind == kind]
        if not rows:
            continue
        recovered = [row.seconds_to_recover for row in rows if row.seconds_to_recover is not None]
        lines.append(
            f"| {kind} | {len(rows)} | {sum(row.survived for row in rows)} | {sum(row.exact for row in rows)} "
            f"| {max(row.images_lost for row in rows):,} ({rows[0].bound:,}) "
            f"| {f'{statistics.median(recovered):.1f}' if recovered else 'none'} "
            f"| {statistics.median(row.goodput for row in rows):.2f} |"
        )
    return "\n".join(lines)


def read_records(path: Path) -> list[Record]:
    """Records of an earlier campaign; rows that are damaged are left out."""
    found = []
    with suppress(OSError):
        for row in read_objects(path):
            with suppress(TypeError):
                found.append(Record(**row))
    return found


def possible(cluster: LocalCluster, small_storage: bool) -> list[str]:
    """Kinds of faults that can be made here."""
    able = {"", *(["network"] if cluster.state and cluster.state.mode == "namespaces" else [])}
    able |= {"small storage"} if small_storage else set()
    return [name for name, kind in KINDS.items() if kind.needs in able]


def _mount(place: Path) -> bool:
    """Make a small file system; False where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or os.path.ismount(place):
        return os.path.ismount(place)
    options = ["-t", "tmpfs", "-o", f"size={STORAGE_MIB}m", "tmpfs", str(place)]
    return subprocess.run(["mount", *options], capture_output=True).returncode == 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Many short runs with a fault in each.")
    parser.add_argument("--out", type=Path, required=True, help="folder for records and output; goes on where it was")
    parser.add_argument("--faults", type=int, default=64, help="number of runs (default: 64)")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, moments and victims (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), help="only these (default: all that are possible)")
    parser.add_argument("--images", type=int, default=256_000, help="length of each run (default: 256000)")
    parser.add_argument("--interval", type=int, default=12_800, help="images between two checkpoints (12800)")
    parser.add_argument("--timeout", type=float, default=30.0, help="cluster.timeout of the runs in seconds (30)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; the exit code is 1 if a run was lost or ended otherwise than the undisturbed one."""
    options = _parse(arguments)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is taken down
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    small = _mount(out / "storage")
    cluster = LocalCluster(f"faults-{hashlib.sha256(str(out).encode()).hexdigest()[:6]}", nodes=3, cpus=2)
    try:
        cluster.down()  # one that an earlier campaign left
        cluster.up()
        records = _work(
            options,
            Campaign(
                cluster, out / "storage", images=options.images, interval=options.interval, timeout=options.timeout
            ),
            small,
            out / "records.jsonl",
        )
    except ClusterError as error:
        print(f"fault_campaign: error: {error}", file=sys.stderr)
        return 2
    finally:
        cluster.down()
        if small and not sys.exc_info()[0]:
            subprocess.run(["umount", "--lazy", str(out / "storage")], capture_output=True)
    print(table(records))
    return 0 if records and all(record.good for record in records) else 1


def _work(options: argparse.Namespace, campaign: Campaign, small: bool, path: Path) -> list[Record]:
    """Do what an earlier campaign left, and write the summary."""
    kinds = [name for name in possible(campaign.cluster, small) if not options.kinds or name in options.kinds]
    records = read_records(path)
    done = {(record.kind, record.seed) for record in records}
    for name, seed in plan(kinds, options.faults, options.seed):
        if (name, seed) in done:
            continue
        campaign.mend()
        record = campaign.attempt(name, seed)
        records.append(record)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(record)) + "\n")
        verdict = "good" if record.good else f"NOT GOOD {record.problem}"
        print(f"{name:16} {record.seconds:6.0f} s, {record.images_lost:,} images lost: {verdict}", flush=True)
    _summarise(records, path.parent, campaign)
    return records


def saving_costs(run: Path) -> float:
    """Seconds that saving a run's newest state takes, median of five."""
    newest = max(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    manifest, state = load(newest)
    took = []
    for _ in range(5):
        started = time.monotonic()
        CheckpointStore(run / "timed").save(state, config=manifest.config, metrics=manifest.metrics)
        took.append(time.monotonic() - started)
    shutil.rmtree(run / "timed")
    return statistics.median(took)


def _summarise(records: Sequence[Record], out: Path, campaign: Campaign) -> None:
    cost = saving_costs(campaign.storage / "undisturbed")
    summary = {
        "runs": len(records),
        "lost": sum(not record.survived for record in records),
        "wrong": sum(not record.exact for record in records),
        "beyond_bound": sum(record.images_lost > record.bound for record in records),
        "seconds_to_save": cost,
        "best_interval_seconds_by_hours_between_faults": {
            f"{hours:g}": best_interval(cost, 3600.0 * hours) for hours in (1.0, 6.0, 24.0, 168.0)
        },
    }
    (out / "summary.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(records) + "\n", encoding="utf-8")


__all__ = ["KINDS", "Campaign", "Kind", "Record", "main", "plan", "table"]

if __name__ == "__main__":
    sys.exit(main())
