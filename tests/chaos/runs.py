"""The runs of a campaign: inject each fault, wait until the run has recovered, compare the last states."""

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
from tests.chaos.active_run import MAX_STARTS, TIMEOUT, ActiveRun, LostError, MissedError
from tests.chaos.kinds import KINDS
from tests.chaos.records import FaultRecord, Planned, Record

MAX_TRIES = 3
"""Most tries of a run in which a fault cannot be injected."""
HEALTH = {"period_ms": "1000", "timeout_ms": "5000", "failure_threshold": "5"}
"""Ray's health check: a node without a heartbeat for about half a minute is declared dead."""


def final_state(run: Path) -> str:
    """SHA-256 of a run's newest state: equal for equal tensors; empty without a checkpoint."""
    folders = [path for path in (run / "checkpoints").glob("*") if path.name.isdigit()]
    with suppress(OSError, ValueError):
        return hashlib.sha256((max(folders) / "state.pt").read_bytes()).hexdigest()
    return ""


def make_cluster(out: Path, *, nodes: int = 3, cpus: int = 2) -> LocalCluster:
    """A cluster, not yet up, that declares lost nodes dead soon; the file `<out>/slow` slows its storage down."""
    here = Path(__file__).resolve().parent
    path = [here / "slow_storage", here.parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {f"RAY_health_check_{key}": value for key, value in HEALTH.items()}
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "GANSCALE_SLOW_STORAGE": str(out / "slow"),
        "OMP_NUM_THREADS": "1",
    }
    name = f"faults-{hashlib.sha256(str(out).encode()).hexdigest()[:6]}"
    return LocalCluster(name, nodes=nodes, cpus=cpus, environment=environment)


class Campaign:
    """Runs with faults on one cluster.

    Args:
        cluster: not yet up.
        storage: folder of the runs, shared by all nodes.
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
        """Start a run's command on the head node; its output goes to `<storage>/../<name>.out`."""
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
        """Hash of the last state and seconds of a run without a fault; kept from an earlier campaign."""
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
            code = process.wait(TIMEOUT)
        finally:
            _end(process)
        if code:
            raise ClusterError(f"the undisturbed run ended with {code}", f"read {self.storage.parent}/undisturbed.out")
        found = {"key": key, "state": final_state(run.path), "seconds": time.monotonic() - started}
        found["seconds_to_save"] = saving_costs(run.path)
        noted.write_text(json.dumps(found), encoding="utf-8")
        shutil.rmtree(run.path)
        return found["state"], found["seconds"]

    def restore_cluster(self, draining: Sequence[str] = ()) -> None:
        """Bring the cluster back to a head and its number of nodes.

        Args:
            draining: nodes to kill first.
        """
        cluster, state = self.cluster, self.cluster.state
        if state is None:
            cluster.up()
            return
        for node in [node for node in state.nodes.values() if not node.killed]:
            if node.link == "cut":
                cluster.restore(node.name)
        if state.mode == "namespaces":
            for name in draining:
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
        """Addresses of the nodes that Ray counts as alive; a busy head may answer late."""
        for _ in range(4):
            found = list(self.cluster.addresses().values())
            if found:
                return found
            time.sleep(3.0)
        return []

    def attempt(self, title: str, planned: Planned) -> Record:
        """One run with its faults; tried again, at other moments, where a fault could not be injected."""
        started, problem = time.monotonic(), ""
        for number in range(MAX_TRIES):
            try:
                return self._attempt(f"{title}-{number}", planned, f"{planned.seed}/{number}")
            except (MissedError, ClusterError, OSError, subprocess.SubprocessError) as error:
                problem = f"{type(error).__name__}: {error}"
                print(f"  tried again: {problem}", flush=True)
                self.restore_cluster()
        return Record(planned.seed, False, False, time.monotonic() - started, 0, (), f"missed: {problem}")

    def _attempt(self, title: str, planned: Planned, draw: str) -> Record:
        state, _ = self.undisturbed()
        run = RunDir(self.storage / title)
        shutil.rmtree(run.path, ignore_errors=True)  # of an interrupted campaign
        started, problem, faults = time.monotonic(), "", list[FaultRecord]()
        active = ActiveRun(
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
            self._all_faults(active, planned.kinds, faults)
            self._finish(active)
        except LostError as error:
            problem = str(error)
        finally:
            _end(active.driver)
            active.join_timers()
        survived = active.codes[-1:] == [0]
        exact = final_state(run.path) == state
        self._keep(run, title)
        return Record(
            planned.seed, survived, exact, time.monotonic() - started, len(active.codes), tuple(faults), problem
        )

    def _all_faults(self, active: ActiveRun, kinds: Sequence[str], faults: list[FaultRecord]) -> None:
        """Inject one fault after the other, each in its part of the run."""
        since = 0.0
        for index, kind in enumerate(kinds):
            if KINDS[kind].turn and not since:
                active.until(active.reached)
                since = time.monotonic()
            share = self.images / len(kinds)
            active.window = ((index + 0.1) * share, (index + 0.6) * share)
            fault = self._fault(active, kind, since)
            faults.append(fault)
            print(
                f"  {kind:18} {fault.images_lost:6,} images lost, {fault.seconds_to_recover or -1:6.1f} s", flush=True
            )
            with active.slow_saving():
                active.join_timers()
                self.restore_cluster(active.draining)
            active.draining.clear()
            since = time.monotonic()

    def _fault(self, active: ActiveRun, name: str, since: float) -> FaultRecord:
        """Inject a fault and wait until the run is further than before."""
        kind, before, ends = KINDS[name], len(read_failures(active.folder.failures)), self._unexpected_ends(active)
        active.injections.clear()
        kind.inject(active)
        took, lost = self._recovery(active, kind.same_attempt)
        lost = max([lost, *(fault.images_lost for fault in read_failures(active.folder.failures)[before:])])
        more = self._unexpected_ends(active) - ends
        worked = max(0.0, active.injections[0].time - since) if since else 0.0
        return FaultRecord(name, lost, kind.intervals * self.interval, took, worked, more)

    def _unexpected_ends(self, active: ActiveRun) -> int:
        return len(active.codes) - active.expected_ends

    def _recovery(self, active: ActiveRun, same_attempt: bool) -> tuple[float, int]:
        """Seconds until the run is further than before, and images trained twice.

        Raises:
            LostError: the run does not recover.
        """
        last = active.injections[-1]
        peak, deadline = max(each.images for each in active.injections), time.monotonic() + TIMEOUT
        while True:
            resumed, images = active.resumed(), active.reached()
            new = resumed[last.num_resumes :]
            if not new:
                peak = max(peak, images) if not same_attempt else peak
            further = images > peak if new else same_attempt and images >= peak + 2 * active.tick
            if further:
                now = time.monotonic()
                start = new[0] if new else last.resumed_from
                return now - active.injections[0].time, max(0, peak - start) if start is not None else 0
            if self._restart_if_ended(active):
                deadline = time.monotonic() + TIMEOUT
            if time.monotonic() > deadline:
                raise LostError(f"the run did not recover within {TIMEOUT:.0f} s")
            time.sleep(0.1)

    def _finish(self, active: ActiveRun) -> None:
        """Wait until the run is complete.

        Raises:
            LostError: it does not complete.
        """
        deadline = time.monotonic() + TIMEOUT
        while active.codes[-1:] != [0]:
            self._restart_if_ended(active)
            if time.monotonic() > deadline:
                raise LostError(f"the run did not end within {TIMEOUT:.0f} s")
            time.sleep(0.1)

    def _restart_if_ended(self, active: ActiveRun) -> bool:
        """Start the command again if it failed, as a user or a scheduler would.

        Raises:
            LostError: it was started too often.
            MissedError: the run is complete.
        """
        code = active.driver.poll()
        if code is None:
            return False
        if active.codes[-1:] == [0]:
            raise MissedError("the run was over before the fault had an effect")
        active.codes.append(code)
        if code == 0:
            return False
        if len(active.codes) >= MAX_STARTS:
            raise LostError(f"the command ended with {active.codes}")
        self.restore_cluster()
        active.driver = active.start()
        return True

    def _keep(self, run: RunDir, title: str) -> None:
        """Keep a run's logs and delete the rest."""
        folder = self.storage.parent / "runs" / title
        folder.mkdir(parents=True, exist_ok=True)
        for path in (run.log, run.failures, run.events, run.metrics):
            with suppress(OSError):
                shutil.copy(path, folder)
        shutil.rmtree(run.path, ignore_errors=True)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command's process group unless it has ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(30)


def saving_costs(run: Path) -> float:
    """Seconds to save a run's newest state, median of five."""
    newest = max(path for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    manifest, state = load(newest)
    took = []
    for _ in range(5):
        started = time.monotonic()
        CheckpointStore(run / "timed").save(state, config=manifest.config, metrics=manifest.metrics)
        took.append(time.monotonic() - started)
    shutil.rmtree(run / "timed")
    return statistics.median(took)
