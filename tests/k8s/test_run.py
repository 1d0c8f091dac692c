"""The RayJob runs: each pod's command with its environment and ports, as a process on a machine of its own."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.machines import obstacle
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.k8s.local_pods import START, Pods, ask, running
from tests.k8s.manifests import ray_spec, render, the
from tests.k8s.operator_pods import DASHBOARD, SUBMISSION

NO_NAMESPACES = obstacle()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"namespaces: {NO_NAMESPACES}"),
]
IMAGES = 1280
SHORT = f"train.images={IMAGES} log.every=640 log.samples_every=640 checkpoint.every=640 eval.every=1280"


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    job = the(render("overlays/cpu/train"), "RayJob")
    with running(job, tmp_path_factory.mktemp("rayjob") / "pods", "rayjob", SHORT) as pods:
        yield pods


def test_the_job_succeeds(pods: Pods) -> None:
    submitter = pods.submitter
    until = time.monotonic() + START
    while pods.running[submitter].poll() is None:
        dead = [name for name, process in pods.running.items() if name != submitter and process.poll() is not None]
        assert not dead, pods.log(dead[0])[-5000:]
        assert time.monotonic() < until, pods.log(submitter)[-5000:]
        time.sleep(0.5)
    assert pods.running[submitter].returncode == 0, pods.log(submitter)[-5000:]
    assert f"run mnist_dcgan is complete at {IMAGES:,} images" in pods.log(submitter)
    status, content = ask(f"http://{pods.head}:{DASHBOARD}/api/jobs/{SUBMISSION}", pods.token)
    assert status == 200
    assert json.loads(content)["status"] == "SUCCEEDED"
    run = pods.volume / "runs" / "mnist_dcgan"
    assert read_metrics(RunDir(run))[-1]["images"] == IMAGES
    assert sorted((run / "checkpoints").iterdir())


def test_the_workers_are_spread(pods: Pods) -> None:
    """Both of the job's pods did their share: Ray knows their CPUs, none of the head."""
    status, content = ask(f"http://{pods.head}:{DASHBOARD}/api/v0/nodes?limit=10", pods.token)
    assert status == 200
    nodes = json.loads(content)["data"]["result"]["result"]
    cpus = sorted(node["resources_total"].get("CPU", 0) for node in nodes if node["state"] == "ALIVE")
    assert cpus == [0, 1, 1]


def test_ports_are_open_and_probes_pass(pods: Pods) -> None:
    spec = ray_spec(pods.job)
    assert pods.cluster.state is not None
    groups = {"head": spec["headGroupSpec"], "w1": spec["workerGroupSpecs"][0]}
    for machine, group in groups.items():
        container = group["template"]["spec"]["containers"][0]
        address = pods.cluster.state.nodes[machine].address
        for port in container["ports"]:
            socket.create_connection((address, port["containerPort"]), timeout=10).close()
        assert pods.probe(machine) == (200, True)


@pytest.mark.parametrize("path", ["api/jobs/", f"api/jobs/{SUBMISSION}", "api/v0/nodes", "nodes?view=summary"])
def test_without_the_token_nobody_gets_in(path: str, pods: Pods) -> None:
    url = f"http://{pods.head}:{DASHBOARD}/{path}"
    assert ask(url, pods.token)[0] == 200
    assert ask(url)[0] == 401
    assert ask(url, "f" * 64)[0] == 403


def test_without_the_token_no_job_is_taken(pods: Pods) -> None:
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": str(pods.volume)}
    words = ["ray", "job", "submit", "--address", f"http://{pods.head}:{DASHBOARD}", "--", "true"]
    for variables in ({}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "f" * 64}):
        done = subprocess.run(
            pods.cluster.command("w1", words), env=environment | variables, capture_output=True, text=True, timeout=120
        )
        assert done.returncode, done.stdout
        assert "uthenticat" in done.stderr, done.stderr
    _, content = ask(f"http://{pods.head}:{DASHBOARD}/api/jobs/", pods.token)
    assert [job["submission_id"] for job in json.loads(content) if job["submission_id"]] == [SUBMISSION]
