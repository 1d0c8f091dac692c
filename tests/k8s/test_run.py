"""The RayJob runs: each pod's command with its environment and ports, as a process on a machine of its own.

What is not as in a cluster: the operator's part is done by `operator_pods`, packages and files are those of this
checkout (the image's and the volume's paths are mapped), the user is root, names come from /etc/hosts instead of DNS,
and further settings cut the run short.
"""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.local_cluster import LocalCluster
from cluster.machines import obstacle
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.k8s import operator_pods
from tests.k8s.manifests import ROOT, Manifest, ray_spec, render, the
from tests.k8s.operator_pods import DASHBOARD, SUBMISSION, Process

NO_NAMESPACES = obstacle()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"namespaces: {NO_NAMESPACES}"),
]
IMAGES = 1280
SHORT = f"train.images={IMAGES} log.every=640 log.samples_every=640 checkpoint.every=640 eval.every=1280"
START = 240.0
"""Seconds that a busy machine may take for the job or for the pods."""


class Pods(NamedTuple):
    """Machines, the token, the mapped volume, and the pods' processes by machine."""

    cluster: LocalCluster
    token: str
    volume: Path
    job: Manifest
    running: dict[str, subprocess.Popen[bytes]]

    @property
    def head(self) -> str:
        """The head's address."""
        assert self.cluster.state is not None
        return self.cluster.state.nodes["head"].address

    def start(self, machine: str, process: Process) -> None:
        """Start a pod's container; its output goes to `<machine>.log`."""
        image = {  # what the Dockerfile sets
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "HOME": str(self.volume.parent / f"home-{machine}"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONPATH": str(ROOT),
            "GRPC_DNS_RESOLVER": "native",  # names are in /etc/hosts, where gRPC's own resolver does not look
        }
        command = [self.mapped(word) for word in process.command]
        Path(image["HOME"]).mkdir()
        with (self.volume.parent / f"{machine}.log").open("wb") as log:
            self.running[machine] = subprocess.Popen(
                self.cluster.command(machine, command, cwd=ROOT),
                env=image | process.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def probe(self, machine: str) -> tuple[int, bool]:
        """Status and success of a node's readiness probe."""
        spec = ray_spec(self.job)
        group = spec["headGroupSpec"] if machine == "head" else spec["workerGroupSpecs"][0]
        probe = group["template"]["spec"]["containers"][0]["readinessProbe"]["httpGet"]
        assert self.cluster.state is not None
        status, content = ask(f"http://{self.cluster.state.nodes[machine].address}:{probe['port']}{probe['path']}")
        return status, b"success" in content

    def wait_until_ready(self) -> None:
        """Wait for all nodes' probes."""
        until = time.monotonic() + START
        while not all(self.probe(machine) == (200, True) for machine in self.running):
            for machine, process in self.running.items():
                assert process.poll() is None, self.log(machine)[-5000:]
            assert time.monotonic() < until, {name: self.log(name)[-1000:] for name in self.running}
            time.sleep(0.5)

    def mapped(self, text: str) -> str:
        """With the paths of image and volume turned into this machine's, and a shorter run."""
        text = text.replace("/opt/ganscale/", f"{ROOT}/").replace("/mnt/ganscale", str(self.volume))
        entrypoint = self.job["spec"]["entrypoint"].strip()
        here = entrypoint.replace("/opt/ganscale/", f"{ROOT}/").replace("/mnt/ganscale", str(self.volume))
        return text.replace(here, f"{here} {SHORT}")

    def log(self, machine: str) -> str:
        return (self.volume.parent / f"{machine}.log").read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pods]:
    job = the(render("overlays/cpu/train"), "RayJob")
    folder = tmp_path_factory.mktemp("rayjob")
    (folder / "volume").mkdir()
    workers = ray_spec(job)["workerGroupSpecs"][0]["replicas"]
    machines = LocalCluster(
        "rayjob", folder=folder / "clusters", nodes=workers + 2, shm_mb=4096, mode="namespaces", ray=False
    )
    token = secrets.token_hex(32)
    with machines as cluster:
        pods = Pods(cluster, token, folder / "volume", job, {})
        with (cluster.folder / "hosts").open("a", encoding="utf-8") as hosts:
            hosts.write(f"{pods.head} {operator_pods.service(job)}\n")
        pods.start("head", operator_pods.head(job, token))
        for number in range(1, workers + 1):
            pods.start(f"w{number}", operator_pods.worker(job, token))
        pods.wait_until_ready()  # the operator submits when the cluster is ready
        pods.start(f"w{workers + 1}", operator_pods.submitter(job, token))
        yield pods


def ask(url: str, token: str = "") -> tuple[int, Any]:
    """Status and content; 0 where nobody listens."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def test_the_job_succeeds(pods: Pods) -> None:
    submitter = max(pods.running)
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
