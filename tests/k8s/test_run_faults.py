"""The chart's RayJob as processes: a real error, a lost head, two teams at once."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cluster.machines import obstacle
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.k8s.chart import release
from tests.k8s.local_pods import Pods, running
from tests.k8s.manifests import the

NO_NAMESPACES = obstacle()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"namespaces: {NO_NAMESPACES}"),
]
LIMIT = 900.0
QUICK = "log.samples_every=9999999 eval.every=0 data.resolution=16 model.generator.width=8 model.discriminator.width=8"


def until(pods: Pods, ready: Callable[[], bool], *, submitter: bool = False) -> None:
    """Wait, and restart what ended meanwhile."""
    deadline = time.monotonic() + LIMIT
    while not ready():
        assert time.monotonic() < deadline, {name: pods.log(name)[-2000:] for name in pods.running}
        pods.restart_ended(submitter=submitter)
        time.sleep(0.5)


def ended(pods: Pods) -> bool:
    return pods.running[pods.submitter].poll() is not None


def test_a_failed_job_says_why(tmp_path: Path) -> None:
    """Ray says that the job failed, which is what the operator goes by; the log has key, value and remedy."""
    job = the(release(["cpu"], "worker.replicas=1"), "RayJob")
    with running(job, tmp_path / "pods", "fails", "data.name=folder data.path=/mnt/ganscale/nothing") as pods:
        until(pods, lambda: ended(pods))
        assert "data.path = " in pods.log(pods.submitter)
        assert pods.status() == "FAILED"


def test_a_run_whose_head_is_lost_resumes_with_all_workers(tmp_path: Path) -> None:
    """A new head comes up under the same name, the submitter's Job sends the same command again."""
    job = the(release(["cpu"]), "RayJob")
    settings = f"train.images=32000 log.every=640 checkpoint.every=640 {QUICK}"
    with running(job, tmp_path / "pods", "head-lost", settings) as pods:
        run = RunDir(pods.volume / "runs" / "mnist_dcgan")
        until(pods, lambda: max((row["images"] for row in read_metrics(run)), default=0) >= 1920)
        pods.crash("head")
        until(pods, lambda: pods.running[pods.submitter].poll() == 0, submitter=True)
        assert pods.status() == "SUCCEEDED"
        log = run.log.read_text(encoding="utf-8")
        assert "resuming at" in log
        assert log.count("on mnist for 2 workers") >= 2
        assert "on mnist for 1 worker " not in log
        assert read_metrics(run)[-1]["images"] == 32_000


def test_two_teams_train_at_once(tmp_path: Path) -> None:
    """Releases of one name in two namespaces, on machines that do not know each other: own token, run and end."""
    settings = f"train.images=1280 log.every=640 checkpoint.every=640 {QUICK}"
    jobs = [the(release(["cpu"], "worker.replicas=1", namespace=team), "RayJob") for team in ("team-a", "team-b")]
    with (
        running(jobs[0], tmp_path / "a", "team-a", settings) as one,
        running(jobs[1], tmp_path / "b", "team-b", settings) as other,
    ):
        assert one.token != other.token
        for pods in (one, other):
            until(pods, lambda pods=pods: ended(pods))
            assert pods.running[pods.submitter].returncode == 0, pods.log(pods.submitter)[-3000:]
            assert pods.status() == "SUCCEEDED"
            assert read_metrics(RunDir(pods.volume / "runs" / "mnist_dcgan"))[-1]["images"] == 1280
