"""Nodes join and leave while a run trains on them: it shrinks, grows and leaves drained ones, with the same result."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster.machines import obstacle
from cluster.nodes import HEAD, LocalCluster
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.chaos.runs import final_state, make_cluster
from tests.integration.test_elastic import TOLERANCE, states, worst
from tests.runs import EXACT

NO_MACHINES = obstacle()
LIMIT = 600.0
"""Seconds that a run may take on a busy machine."""
IMAGES, EVERY = 9600, 480
RUN = (
    *EXACT,
    "data.resolution=16",
    "model.latent_dim=8",
    *(f"model.generator.{setting}" for setting in ("name=dcgan", "width=32", "norm=none")),
    *(f"model.discriminator.{setting}" for setting in ("name=dcgan", "width=32", "norm=none")),
    f"train.images={IMAGES}",
    f"checkpoint.every={EVERY}",
    "checkpoint.keep=99",
    "checkpoint.mode=inline",  # a slow folder slows the run, and no checkpoint is left out
    "log.every=48",
    "log.samples_every=999999",
    "log.details=false",
    "eval.every=0",
    "wandb.mode=disabled",
    "train.device=cpu",
    "train.batch_size=48",
    "cluster.timeout=20",
    "cluster.restart_pause=1",
)
"""200 iterations: slow enough for nodes to join and leave in between, few enough for rounding to stay small."""

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(NO_MACHINES is not None, reason=f"nodes as machines of their own: {NO_MACHINES}"),
]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[LocalCluster]:
    """A head and three nodes with room for a worker each."""
    with make_cluster(tmp_path, nodes=4, cpus=1) as made:
        yield made


class Run:
    """A run's command on the head node."""

    def __init__(self, cluster: LocalCluster, folder: Path, name: str, *overrides: str) -> None:
        self.folder = RunDir(folder / name)
        self._out = folder / f"{name}.out"
        words = [sys.executable, "-m", "ganscale.train", *RUN, f"run.dir={folder}", f"run.name={name}", *overrides]
        with self._out.open("wb") as log:
            self.process = subprocess.Popen(
                cluster.command(HEAD, words, cwd=folder), env=cluster.environment(HEAD), stdout=log, stderr=log
            )

    def reached(self) -> int:
        return max((row["images"] for row in read_metrics(self.folder)), default=0)

    def said(self) -> str:
        return self.folder.log.read_text(encoding="utf-8") if self.folder.log.exists() else ""

    def printed(self) -> str:
        return self._out.read_text()

    def until(self, ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT
        while not ready():
            assert self.process.poll() is None, self._out.read_text()
            assert time.monotonic() < deadline, self._out.read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        """End the command itself, not the nsenter that waits for it."""
        if self.process.poll() is None:
            pid = self.process.pid
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
            self.process.wait()

    def ends(self) -> str:
        assert self.process.wait(LIMIT) == 0, self._out.read_text()
        return self._out.read_text()


@contextmanager
def run(cluster: LocalCluster, folder: Path, name: str, *overrides: str) -> Iterator[Run]:
    made = Run(cluster, folder, name, *overrides)
    try:
        yield made
    finally:
        made.kill()


def check_same(folder: Path, name: str) -> None:
    """All checkpoints that both runs saved agree; so do the images of their rows."""
    changed, straight = states(folder / name), states(folder / "straight")
    common = sorted(set(changed) & set(straight))
    assert common == list(range(EVERY, IMAGES + 1, EVERY))
    errors = {images: worst(changed[images], straight[images]) for images in common}
    print(f"{name}: largest relative difference by images {errors}")
    assert max(errors.values()) <= TOLERANCE, errors
    rows = [[row["images"] for row in read_metrics(RunDir(folder / each))] for each in (name, "straight")]
    assert rows[0] == rows[1]


def test_a_run_follows_its_nodes(cluster: LocalCluster, tmp_path: Path) -> None:
    """Three workers; a node loses its power: two; a node comes: three again."""
    wanted, slow = "cluster.num_workers=[2,3]", tmp_path / "slow"
    with run(cluster, tmp_path, "straight", wanted) as straight:
        straight.ends()
    assert straight.said().count("on mnist for 3 workers") == 1
    with run(cluster, tmp_path, "elastic", wanted) as elastic:
        elastic.until(lambda: elastic.reached() >= 1.2 * EVERY)
        cluster.kill("w2")
        elastic.until(lambda: elastic.said().count("on mnist for 2 workers") == 1)
        elastic.until(lambda: elastic.said().count("resuming at") == 1)
        slow.write_text("2")  # each save takes seconds: there is work left when the node has come
        cluster.add()
        elastic.until(lambda: elastic.said().count("on mnist for 3 workers") == 2)
        slow.unlink()
        output = elastic.ends()
    assert "the number of workers changes" in elastic.said()
    assert output.count("the workers failed") >= 1, "the node that went"
    check_same(tmp_path, "elastic")


def test_a_lost_node_does_not_halve_a_run_for_good(cluster: LocalCluster, tmp_path: Path) -> None:
    """`auto`, and the same command again after its driver and a node were lost: on what is left, and back to three."""
    slow = tmp_path / "slow"
    with run(cluster, tmp_path, "straight") as straight:
        output = straight.ends()
    assert "cluster.num_workers=N" in output
    assert straight.said().count("on mnist for 3 workers") == 1
    with run(cluster, tmp_path, "auto") as first:
        first.until(lambda: first.reached() >= 1.2 * EVERY)
        cluster.kill("w2")
        first.kill()
    with run(cluster, tmp_path, "auto") as again:
        again.until(lambda: again.said().count("on mnist for 2 workers") == 1)
        again.until(lambda: again.said().count("resuming at") == 1)
        slow.write_text("2")
        cluster.add()
        again.until(lambda: again.said().count("on mnist for 3 workers") == 2)
        slow.unlink()
        output = again.ends()
    assert output.count("fewer workers than before") == 1
    assert "the number of workers changes" in again.said()
    check_same(tmp_path, "auto")


def test_a_resume_waits_for_its_nodes(cluster: LocalCluster, tmp_path: Path) -> None:
    """With `cluster.node_wait` a resume asks for three nodes and gets them: the result is the same to the last bit."""
    with run(cluster, tmp_path, "straight") as straight:
        straight.ends()
    with run(cluster, tmp_path, "waiting") as first:
        first.until(lambda: first.reached() >= 1.2 * EVERY)
        cluster.kill("w2")
        first.kill()
    deadline = time.monotonic() + LIMIT
    while len(cluster.alive()) != 3:
        assert time.monotonic() < deadline, "the head declares it dead"
        time.sleep(0.5)
    with run(cluster, tmp_path, "waiting", f"cluster.node_wait={LIMIT}") as again:
        again.until(lambda: "waiting up to" in again.printed())
        cluster.add()
        output = again.ends()
    assert "fewer workers than before" not in output
    assert again.said().count("on mnist for 3 workers") == 2
    assert final_state(tmp_path / "waiting") == final_state(tmp_path / "straight")


def test_a_drained_node_is_left_and_costs_no_work(cluster: LocalCluster, tmp_path: Path) -> None:
    """No restart is allowed: a drained node causes none."""
    with run(cluster, tmp_path, "straight", "cluster.num_workers=2") as straight:
        straight.ends()
    with run(cluster, tmp_path, "drained", "cluster.num_workers=2", "cluster.max_restarts=0") as drained:
        drained.until(lambda: drained.reached() >= 1.2 * EVERY)
        busy = [
            name
            for name in ("w1", "w2", "w3")
            if any("RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_text() for pid in cluster.pids(name))
        ]
        reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        words = ["ray", "drain-node", "--node-id", cluster.id_of(busy[0]), *reason, "--deadline-remaining-seconds=60"]
        cluster.run(busy[0], words, check=True, capture_output=True)
        at = drained.reached()
        drained.until(lambda: "the node of a worker is draining" in drained.said())
        drained.until(lambda: "resuming at" in drained.said())
        back = int(drained.said().partition("resuming at ")[2].partition(" images")[0].replace(",", ""))
        assert back >= at, "no image is trained twice"
        cluster.kill(busy[0])
        output = drained.ends()
    assert "the workers failed" not in output
    check_same(tmp_path, "drained")
