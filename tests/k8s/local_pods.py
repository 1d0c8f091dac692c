"""The pods of a RayJob as processes, each on a machine of its own (a network namespace).

What is not as in a cluster: the operator's part is done by `operator_pods`, packages and files are those of this
checkout (the image's and the volume's paths are mapped), the user is root, names come from /etc/hosts instead of DNS,
and further settings cut the run short.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.local_cluster import LocalCluster
from tests.k8s import operator_pods
from tests.k8s.manifests import ROOT, Manifest, ray_spec
from tests.k8s.operator_pods import DASHBOARD, SUBMISSION, Process

START = 600.0
"""Seconds that a busy machine may take for the job or for the pods."""


@dataclass
class Pods:
    """Machines, the token, the mapped volume, and the pods' processes by machine."""

    cluster: LocalCluster
    token: str
    volume: Path
    job: Manifest
    settings: str  # that cut the run short
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    processes: dict[str, Process] = field(default_factory=dict)

    @property
    def submitter(self) -> str:
        """The submitter's machine, the last one."""
        return f"w{ray_spec(self.job)['workerGroupSpecs'][0]['replicas'] + 1}"

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
        Path(image["HOME"]).mkdir(exist_ok=True)
        self.processes[machine] = process
        with (self.volume.parent / f"{machine}.log").open("ab") as log:
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
            self.restart_ended()  # on a busy machine a node may give up before the head answers, as on a real cluster
            assert time.monotonic() < until, {name: self.log(name)[-1000:] for name in self.running}
            time.sleep(0.5)

    def mapped(self, text: str) -> str:
        """With the paths of image and volume turned into this machine's, and a shorter run."""
        text = text.replace("/opt/ganscale/", f"{ROOT}/").replace("/mnt/ganscale", str(self.volume))
        entrypoint = self.job["spec"]["entrypoint"].strip()
        here = entrypoint.replace("/opt/ganscale/", f"{ROOT}/").replace("/mnt/ganscale", str(self.volume))
        return text.replace(here, f"{here} {self.settings}")

    def log(self, machine: str) -> str:
        return (self.volume.parent / f"{machine}.log").read_text(encoding="utf-8", errors="replace")

    def crash(self, machine: str) -> None:
        """End all processes of a machine at once, as the end of its pod does; what Ray wrote there is gone."""
        for pid in self.cluster.pids(machine):
            with suppress(OSError):
                status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
                is_first = status.partition("NSpid:")[2].splitlines()[0].split()[-1] == "1"
                if not is_first and b"86400" not in Path(f"/proc/{pid}/cmdline").read_bytes():  # the machine stays
                    os.kill(pid, signal.SIGKILL)
        self.running[machine].wait(30)
        for path in (self.cluster.folder / machine / "ray").iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def restart_ended(self, *, submitter: bool = False) -> None:
        """What kubelets do, and for the submitter its Job: containers that ended start anew."""
        for machine, process in list(self.running.items()):
            if process.poll() is not None and (machine != self.submitter or (submitter and process.returncode)):
                self.start(machine, self.processes[machine])

    def status(self) -> str:
        """Of the job, as its head has it; empty while that does not answer."""
        code, content = ask(f"http://{self.head}:{DASHBOARD}/api/jobs/{SUBMISSION}", self.token)
        return json.loads(content)["status"] if code == 200 else ""


@contextmanager
def running(job: Manifest, folder: Path, name: str, settings: str) -> Iterator[Pods]:
    """A job's pods on machines of their own; the submitter starts when the others are ready.

    Args:
        job: the RayJob.
        folder: takes logs, homes and the volume.
        name: of the machines' cluster.
        settings: appended to the job's command.
    """
    (folder / "volume").mkdir(parents=True)
    workers = ray_spec(job)["workerGroupSpecs"][0]["replicas"]
    machines = LocalCluster(
        name, folder=folder / "clusters", nodes=workers + 2, shm_mb=4096, mode="namespaces", ray=False
    )
    token = secrets.token_hex(32)
    with machines as cluster:
        pods = Pods(cluster, token, folder / "volume", job, settings)
        with (cluster.folder / "hosts").open("a", encoding="utf-8") as hosts:
            hosts.write(f"{pods.head} {operator_pods.service(job)}\n")
        pods.start("head", operator_pods.head(job, token))
        for number in range(1, workers + 1):
            pods.start(f"w{number}", operator_pods.worker(job, token))
        pods.wait_until_ready()  # the operator submits when the cluster is ready
        pods.start(pods.submitter, operator_pods.submitter(job, token))
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
