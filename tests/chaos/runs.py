"""The runs of a campaign of faults: with each fault on the way, until the run has recovered from it."""

import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from cluster.machines import ClusterError
from cluster.nodes import HEAD, LocalCluster
from ganscale.storage.checkpoint import CheckpointStore, load
from ganscale.storage.failures import read_failures
from ganscale.storage.run_dir import RunDir
from tests.chaos.kinds import KINDS
from tests.chaos.records import FaultRecord, Planned, Record
from tests.chaos.scene import PATIENCE, STARTS, LostError, MissedError, Scene

TRIES = 3
"""Times that a run is tried in which the moment for a fault does not come."""
ROOT = Path(__file__).resolve().parents[1]
HEALTH = {"period_ms": "1000", "timeout_ms": "5000", "failure_threshold": "5"}
"""Of Ray: a node that is silent for about half a minute is taken to be gone."""


def final_state(run: Path) -> str:
    """SHA-256 of a run's newest state: equal for equal tensors; empty without one."""
    folders = [path for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    with suppress(OSError, ValueError):
        return hashlib.sha256((max(folders) / "state.pt").read_bytes()).hexdigest()
    return ""


def make_cluster(out: Path, *, nodes: int = 3, cpus: int = 2) -> LocalCluster:
    """A cluster, not yet up, that soon counts a lost node out; `<out>/slow` makes its storage slow."""
    folder = ROOT / "tests" / "chaos" / "slow_storage"
    path = os.pathsep.join((str(folder), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])))
    environment = {f"RAY_health_check_{key}": value for key, value in HEALTH.items()}
    environment |= {"PYTHONPATH": path, "GANSCALE_SLOW_STORAGE": str(out / "slow"), "OMP_NUM_THREADS": "1"}
    name = f"faults-{hashlib.sha256(str(out).encode()).hexdigest()[:6]}"
    return LocalCluster(name, nodes=nodes, cpus=cpus, environment=environment)


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
        kinds = "non-finite divergence vanishing-gradient discriminator-strong discriminator-weak mode-collapse"
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
            "health.response": "rollback",
            "health.ignore": f"[{','.join((*kinds.split(), 'oscillation'))}]",
            "wandb.mode": "disabled",
            "eval.every": 0,
            "cluster.num_workers": 2,
            "cluster.timeout": self.timeout,
            "cluster.max_restarts": 8,
            "cluster.restart_pause": 1,
        }
        return [sys.executable, "-m", "ganscale.train", *(f"{key}={value}" for key, value in settings.items())]

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Give a run's command on the head node; its output goes to `<storage>/../<name>.out`."""
        with (self.storage.parent / f"{name}.out").open("ab") as log:
            return subprocess.Popen(
                self.cluster.command(HEAD, self.command(name), cwd=self.storage.parent),
                env=self.cluster.environment(HEAD),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def undisturbed(self) -> tuple[str, float]:
        """The state and the seconds of a run without a fault; both are kept from an earlier campaign."""
        noted = self.storage.parent / "undisturbed.json"
        key = [self.images, self.interval]
        with suppress(OSError, ValueError, KeyError):
            found = json.loads(noted.read_text(encoding="utf-8"))
            if found["key"] == key:
                return found["state"], found["seconds"]
        run = RunDir(self.storage / "undisturbed")
        shutil.rmtree(run.path, ignore_errors=True)
        started = time.monotonic()
        process = self.start("undisturbed")
        try:
            code = process.wait(PATIENCE)
        finally:
            _end(process)
        if code:
            raise ClusterError(f"the undisturbed run ended with {code}", f"read {self.storage.parent}/undisturbed.out")
        found = {"key": key, "state": final_state(run.path), "seconds": time.monotonic() - started}
        found["seconds_to_save"] = saving_costs(run.path)
        noted.write_text(json.dumps(found), encoding="utf-8")
        shutil.rmtree(run.path)
        return found["state"], found["seconds"]

    def mend(self, leaving: Sequence[str] = ()) -> None:
        """Bring the cluster back to a head and as many living nodes as it had.

        Args:
            leaving: nodes that go now.
        """
        cluster, state = self.cluster, self.cluster.state
        if state is None:
            cluster.up()
            return
        for node in [node for node in state.nodes.values() if not node.killed]:
            if node.link == "cut":
                cluster.restore(node.name)
        if state.mode == "namespaces":
            for name in leaving:
                cluster.kill(name)
        living = self._living()
        if state.nodes[HEAD].address not in living:
            cluster.down()
            cluster.up()
            return
        for node in [node for node in state.nodes.values() if not node.killed and node.address not in living]:
            cluster.kill(node.name)  # plain nodes share an address; they only go when they are killed
        while sum(not node.killed for node in state.nodes.values()) < cluster.nodes:
            cluster.add()

    def _living(self) -> list[str]:
        """Addresses of the living nodes; a busy head may need a moment to answer."""
        for _ in range(4):
            found = list(self.cluster.addresses().values())
            if found:
                return found
            time.sleep(3.0)
        return []

    def attempt(self, title: str, planned: Planned) -> Record:
        """One run with its faults; again, at other moments, where the moment for one did not come."""
        started, problem = time.monotonic(), ""
        for number in range(TRIES):
            try:
                return self._attempt(f"{title}-{number}", planned, f"{planned.seed}/{number}")
            except (MissedError, ClusterError, OSError, subprocess.SubprocessError) as error:
                problem = f"{type(error).__name__}: {error}"
                print(f"  tried again: {problem}", flush=True)
                self.mend()
        return Record(planned.seed, False, False, time.monotonic() - started, 0, (), f"missed: {problem}")

    def _attempt(self, title: str, planned: Planned, draw: str) -> Record:
        state, _ = self.undisturbed()
        run = RunDir(self.storage / title)
        shutil.rmtree(run.path, ignore_errors=True)  # of a campaign that was stopped, or a moment that was missed
        started, problem, faults = time.monotonic(), "", list[FaultRecord]()
        scene = Scene(
            self.cluster,
            run,
            lambda: self.start(title),
            self.start(title),
            random.Random(draw),
            self.interval,
            self.interval // 4,
            slow=self.storage.parent / "slow",
        )
        try:
            self._all_faults(scene, planned.kinds, faults)
            self._finish(scene)
        except LostError as error:
            problem = str(error)
        finally:
            _end(scene.driver)
            scene.calm()
        survived = scene.codes[-1:] == [0]
        exact = final_state(run.path) == state
        self._keep(run, title)
        return Record(
            planned.seed, survived, exact, time.monotonic() - started, len(scene.codes), tuple(faults), problem
        )

    def _all_faults(self, scene: Scene, kinds: Sequence[str], faults: list[FaultRecord]) -> None:
        """One after the other, each in its part of the run."""
        since = 0.0
        for index, kind in enumerate(kinds):
            if KINDS[kind].turn and not since:
                scene.until(scene.reached)
                since = time.monotonic()
            share = self.images / len(kinds)
            scene.window = ((index + 0.1) * share, (index + 0.6) * share)
            fault = self._fault(scene, kind, since)
            faults.append(fault)
            print(
                f"  {kind:18} {fault.images_lost:6,} images lost, {fault.seconds_to_recover or -1:6.1f} s", flush=True
            )
            with scene.unhurried():
                scene.calm()
                self.mend(scene.leaving)
            scene.leaving.clear()
            since = time.monotonic()

    def _fault(self, scene: Scene, name: str, since: float) -> FaultRecord:
        """Do it, and wait until the run is further than before."""
        kind, before, asked = KINDS[name], len(read_failures(scene.run.failures)), len(scene.codes) - scene.asked
        scene.strikes.clear()
        kind.inject(scene)
        took, lost = self._recovery(scene, kind.same_life)
        lost = max([lost, *(fault.images_lost for fault in read_failures(scene.run.failures)[before:])])
        more = len(scene.codes) - scene.asked - asked
        worked = max(0.0, scene.strikes[0].time - since) if since else 0.0
        return FaultRecord(name, lost, kind.intervals * self.interval, took, worked, more)

    def _recovery(self, scene: Scene, same_life: bool) -> tuple[float, int]:
        """Seconds until the run is further than before, and images that it trained again.

        Raises:
            LostError: it never is.
        """
        last = scene.strikes[-1]
        peak, deadline = max(strike.images for strike in scene.strikes), time.monotonic() + PATIENCE
        while True:
            resumed, images = scene.resumed(), scene.reached()
            new = resumed[last.lives :]
            if not new:
                peak = max(peak, images) if not same_life else peak
            further = images > peak if new else same_life and images >= peak + 2 * scene.tick
            if further:
                now = time.monotonic()
                back = new[0] if new else last.back
                return now - scene.strikes[0].time, max(0, peak - back) if back is not None else 0
            if self._go_on(scene):
                deadline = time.monotonic() + PATIENCE
            if time.monotonic() > deadline:
                raise LostError(f"the run did not go on within {PATIENCE:.0f} s")
            time.sleep(0.1)

    def _finish(self, scene: Scene) -> None:
        """Wait for the end of the run.

        Raises:
            LostError: it does not come.
        """
        deadline = time.monotonic() + PATIENCE
        while scene.codes[-1:] != [0]:
            self._go_on(scene)
            if time.monotonic() > deadline:
                raise LostError(f"the run did not end within {PATIENCE:.0f} s")
            time.sleep(0.1)

    def _go_on(self, scene: Scene) -> bool:
        """Give the command again if it ended otherwise than well, as a user or a scheduler would.

        Raises:
            LostError: it was given too often.
            MissedError: the run is over.
        """
        code = scene.driver.poll()
        if code is None:
            return False
        if scene.codes[-1:] == [0]:
            raise MissedError("the run was over before the fault had an effect")
        scene.codes.append(code)
        if code == 0:
            return False
        if len(scene.codes) >= STARTS:
            raise LostError(f"the command ended with {scene.codes}")
        self.mend()
        scene.driver = scene.start()
        return True

    def _keep(self, run: RunDir, title: str) -> None:
        """Keep what explains a run, and free the storage of the rest."""
        folder = self.storage.parent / "runs" / title
        folder.mkdir(parents=True, exist_ok=True)
        for path in (run.log, run.failures, run.events, run.metrics):
            with suppress(OSError):
                shutil.copy(path, folder)
        shutil.rmtree(run.path, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command that is still there, with its process group."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


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
