"""Runs on a Ray cluster as users start them, with what goes wrong there: killed workers, drivers and nodes."""

import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.integration.cluster import Cluster
from tests.processes import ROOT, TRAIN, Command, final_state, free_port

IMAGES = 32_000
EVERY = 1600
RUN = (f"train.images={IMAGES}", f"checkpoint.every={EVERY}", f"log.every={EVERY}", f"log.samples_every={10 * EVERY}")
QUIET = ("wandb.mode=disabled", "train.device=cpu", "cluster.num_workers=2", "cluster.timeout=120")
LIMIT = 300.0
"""Seconds for a whole run on a busy machine; alone it takes about 20."""

pytestmark = pytest.mark.ray


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    cluster.close()


@dataclass(frozen=True)
class Reference:
    """The undisturbed run, submitted as a job."""

    output: str
    folder: RunDir
    state: str


@pytest.fixture(scope="session")
def reference(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    with submit(cluster, folder, "reference", "python") as command:
        output = command.succeed(LIMIT)
    run = RunDir(folder / "runs" / "reference")
    return Reference(output, run, final_state(run.path))


def arguments(folder: Path, name: str, *overrides: str) -> list[str]:
    return [*RUN, *QUIET, f"run.dir={folder / 'runs'}", f"run.name={name}", *overrides]


def train(cluster: Cluster, folder: Path, name: str, *overrides: str) -> Command:
    """`python -m ganscale.train` that joins the cluster."""
    return cluster.command([*TRAIN, *arguments(folder, name, *overrides)], name, folder)


def submit(cluster: Cluster, folder: Path, name: str, program: str, *overrides: str) -> Command:
    """`ray job submit --working-dir .` from a checkout; nothing may change there meanwhile, as Ray hashes it twice."""
    copy = folder / "checkout"
    shutil.copytree(ROOT / "ganscale", copy / "ganscale", ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", ".rayignore", ".gitignore"):
        shutil.copy(ROOT / file, copy)
    job = [*program.split(), "-m", "ganscale.train", *arguments(folder, name, *overrides)]
    options = ["--address", cluster.dashboard, "--working-dir", str(copy), "--"]
    return cluster.command(["ray", "job", "submit", *options, *job], name, folder, RAY_ADDRESS=None)


def reached(run: RunDir) -> int:
    """Images of the newest row of metrics."""
    return max((row["images"] for row in read_metrics(run)), default=0)


def wait_for(command: Command, run: RunDir, moment: float) -> None:
    """Wait until a share of the run is done."""
    command.until(lambda: reached(run) >= moment * IMAGES, LIMIT)
    assert reached(run) < IMAGES, command.report("too late: the run is over")


def check_rows(run: RunDir, reference: Reference) -> None:
    """No row twice, none missing, and the same numbers as in the undisturbed run."""
    rows, expected = read_metrics(run), read_metrics(reference.folder)
    assert [row["images"] for row in rows] == [row["images"] for row in expected]
    assert [row["grad_norm_g"] for row in rows] == [row["grad_norm_g"] for row in expected]


def test_a_submitted_job_shows_its_progress_and_succeeds(reference: Reference) -> None:
    assert "succeeded" in reference.output
    lines = [line for line in reference.output.splitlines() if f" / {IMAGES:,} images" in line]
    assert len(lines) == IMAGES // EVERY
    assert re.search(r"images/s  eta \d+:\d\d", lines[0])
    assert "starting 2 workers on CPU" in reference.output
    assert f"run reference is complete at {IMAGES:,} images" in reference.output
    assert [row["images"] for row in read_metrics(reference.folder)] == list(range(EVERY, IMAGES + 1, EVERY))


def test_what_the_cluster_cannot_do_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    """All at once: each of these commands spends most of its time on imports."""
    nowhere = f"127.0.0.1:{free_port()}"
    with (
        train(cluster, tmp_path, "many", "cluster.num_workers=50") as many,
        train(cluster, tmp_path, "gpu", "train.device=cuda") as gpu,
        train(cluster, tmp_path, "nobody", f"cluster.address={nowhere}") as nobody,
        submit(cluster, tmp_path, "job", "python", "optim.lrg=1") as job,
    ):
        assert "cluster.num_workers = 50: the cluster can hold 4 workers of 1 CPU" in many.refuse(LIMIT)
        assert "train.device = cuda: the cluster has no GPU" in gpu.refuse(LIMIT)
        assert f"cluster.address = {nowhere}: no Ray cluster answers there" in nobody.refuse(LIMIT)
        assert job.wait(LIMIT) == 1, job.report("ray job submit's own code for a failed job")
    assert "failed" in job.output
    assert "ganscale: error: optim.lrg = 1: unknown key\n  remedy: did you mean 'lr_g'?" in job.output
    assert "Traceback" not in job.output
    left = {run.name: [path.name for path in run.iterdir()] for run in (tmp_path / "runs").iterdir()}
    assert left == {"many": ["logs"], "gpu": ["logs"]}, "why the cluster did not do, and nothing else"


def kill_a_worker(cluster: Cluster, reference: Reference, folder: Path, draw: random.Random, *nodes: int) -> None:
    """One of a run's two workers, which must be on these nodes, if any are named."""
    run = RunDir(folder / "runs" / "worker")
    with train(cluster, folder, "worker") as command:
        wait_for(command, run, draw.uniform(0.02, 0.8))
        assert [len(cluster.workers(node)) for node in nodes] == [1] * len(nodes), command.report("not spread")
        workers = cluster.workers()
        assert len(workers) == 2
        os.kill(draw.choice(workers), signal.SIGKILL)
        killed_at, before = time.monotonic(), run.log.read_text().count("resuming at ")
        command.until(lambda: run.log.read_text().count("resuming at ") > before, LIMIT)
        print(f"training again {time.monotonic() - killed_at:.1f} s after a worker's death")
        output = command.succeed(LIMIT)
    assert f"joining the Ray cluster at {cluster.address}" in output
    assert "resuming at " in output
    assert final_state(run.path) == reference.state
    check_rows(run, reference)


def kill_the_driver(cluster: Cluster, reference: Reference, folder: Path, draw: random.Random) -> None:
    run = RunDir(folder / "runs" / "driver")
    with train(cluster, folder, "driver") as command:
        wait_for(command, run, draw.uniform(0.06, 0.8))
        command.kill()
    killed_at = time.monotonic()
    with train(cluster, folder, "driver") as command:
        command.until(lambda: "resuming at " in command.output, LIMIT)
        print(f"training again {time.monotonic() - killed_at:.1f} s after the driver's death")
        command.succeed(LIMIT)
    assert final_state(run.path) == reference.state
    check_rows(run, reference)


def test_workers_spread_over_the_nodes_and_a_killed_one_changes_nothing(
    cluster: Cluster, reference: Reference, tmp_path: Path
) -> None:
    node = cluster.add_node()
    try:
        kill_a_worker(cluster, reference, tmp_path, random.Random(1), 0, -1)
    finally:
        node.kill()


Kill = Callable[[Cluster, Reference, Path, random.Random], None]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kill", [kill_a_worker, kill_the_driver])
def test_kills_at_random_moments_change_nothing(
    cluster: Cluster, reference: Reference, tmp_path: Path, kill: Kill, seed: int
) -> None:
    kill(cluster, reference, tmp_path, random.Random(1000 + seed))


@pytest.mark.slow
def test_a_killed_node_changes_nothing(cluster: Cluster, reference: Reference, tmp_path: Path) -> None:
    run = RunDir(tmp_path / "runs" / "node")
    node = cluster.add_node()
    with train(cluster, tmp_path, "node") as command:
        wait_for(command, run, 0.1)
        node.kill()
        command.succeed(2 * LIMIT)
    assert final_state(run.path) == reference.state
    check_rows(run, reference)


@pytest.mark.slow
def test_a_wrong_token_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    command = [*TRAIN, *arguments(tmp_path, "token")]
    with cluster.command(command, "token", tmp_path, RAY_AUTH_TOKEN="0" * 64) as command:
        assert "RAY_AUTH_TOKEN" in command.refuse(LIMIT)


@pytest.mark.slow
def test_a_job_may_run_under_uv(cluster: Cluster, reference: Reference, tmp_path: Path) -> None:
    uv = Path(sys.prefix) / "bin" / "uv"
    if not uv.exists():
        pytest.skip("no uv beside this python")
    with submit(cluster, tmp_path, "uv", f"env UV_PROJECT_ENVIRONMENT={sys.prefix} {uv} run --no-sync python") as job:
        assert "succeeded" in job.succeed(LIMIT)
    assert final_state(tmp_path / "runs" / "uv") == reference.state


@pytest.mark.slow
def test_a_cluster_of_its_own(tmp_path: Path, reference: Reference) -> None:
    """Without a cluster the command starts one here, under another token, and ends it."""
    command = [*TRAIN, *arguments(tmp_path, "own", "cluster.address=local")]
    with Command(command, tmp_path / "own.out", environment={"RAY_ADDRESS": None}, cwd=tmp_path) as own:
        assert "starting Ray on this machine" in own.succeed(LIMIT)
    assert final_state(tmp_path / "runs" / "own") == reference.state
