"""The doctor on three machines made of namespaces: all green; then fault after fault, each turning its line red.

Real faults: packages, storage, disk, ports, link, /dev/shm, GPU, W&B, a cut node. Not real, as a namespace has neither
a Python nor a clock of its own: another Python and a wrong clock come from a sitecustomize.py that this node alone
reads, which changes what `platform.python_version` and `time.time` say there.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.local_cluster import LocalCluster
from cluster.machines import Bridge, obstacle
from tests.processes import ROOT

PORT = 8123
HARDWARE = "nodes, Python, packages, GPUs, host name, ports, links, all-reduce"
CHECKS = f"{HARDWARE}, storage, free space, clocks, W&B, /dev/shm, memory"

NO_NAMESPACES = obstacle()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"namespaces: {NO_NAMESPACES}"),
]


class Clinic(NamedTuple):
    """The cluster, its storage, and a storage of 64 MB."""

    cluster: LocalCluster
    storage: Path
    tiny: Path


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    storage, tiny = folder / "storage", folder / "tiny"
    storage.mkdir()
    tiny.mkdir()
    environment = {
        "PYTHONPATH": f"/tmp/ray/site:{ROOT}",  # /tmp/ray is each node's own
        "WANDB_BASE_URL": f"http://wandb.test:{PORT}",
        "WANDB_API_KEY": "0" * 40,
        "OMP_NUM_THREADS": "1",
    }
    cluster = LocalCluster("clinic", folder=folder / "clusters", mode="namespaces", environment=environment)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tiny], check=True)
    try:
        with cluster:
            assert cluster.state is not None
            with (cluster.folder / "hosts").open("a", encoding="utf-8") as hosts:
                hosts.write(f"{Bridge(cluster.state.bridge).address(1)} wandb.test\n")
            yield Clinic(cluster, storage, tiny)
    finally:
        subprocess.run(["umount", "--lazy", tiny], check=True)


class Site(BaseHTTPRequestHandler):
    """Stands for W&B."""

    def do_GET(self) -> None:
        self.send_response(404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def wandb() -> Iterator[None]:
    server = HTTPServer(("", PORT), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def examine(clinic: Clinic, *arguments: str, storage: Path | None = None) -> tuple[int, dict[str, Any]]:
    """The doctor's exit code and its lines by check."""
    words = [sys.executable, "-m", "ganscale.doctor", "--json", "--storage", str(storage or clinic.storage), *arguments]
    done = clinic.cluster.run("head", words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    assert said["ok"] is not bool(done.returncode)
    return done.returncode, {line["check"]: line for line in said["lines"]}


def on(clinic: Clinic, node: str, command: str) -> None:
    clinic.cluster.run(node, ["sh", "-c", command], check=True, timeout=60)


@contextmanager
def commands(clinic: Clinic, node: str, plant: str, mend: str) -> Iterator[None]:
    on(clinic, node, plant)
    try:
        yield
    finally:
        on(clinic, node, mend)


@contextmanager
def site(clinic: Clinic, node: str, path: str, content: str) -> Iterator[None]:
    """A file that Python finds on one node."""
    place = clinic.cluster.folder / node / "ray" / "site" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content, encoding="utf-8")
    with commands(clinic, node, "true", "rm -r /tmp/ray/site"):
        yield


def another_torch(clinic: Clinic) -> AbstractContextManager[None]:
    return site(clinic, "w1", "torch-2.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.0.1\n")


def another_python(clinic: Clinic) -> AbstractContextManager[None]:
    return site(clinic, "w2", "sitecustomize.py", "import platform\nplatform.python_version = lambda: '3.9.1'\n")


def wrong_clock(clinic: Clinic) -> AbstractContextManager[None]:
    content = "import time\nreal = time.time\ntime.time = lambda: real() + 90\n"
    return site(clinic, "w1", "sitecustomize.py", content)


def read_only(clinic: Clinic) -> AbstractContextManager[None]:
    place = clinic.storage
    plant = f"mount --bind {place} {place} && mount -o remount,ro,bind {place}"
    return commands(clinic, "w2", plant, f"umount --lazy {place}")


@contextmanager
def full_disk(clinic: Clinic) -> Iterator[None]:
    subprocess.run(["dd", "if=/dev/zero", f"of={clinic.tiny}/old-run", "bs=1M"], capture_output=True)
    yield
    (clinic.tiny / "old-run").unlink()


def firewall(clinic: Clinic) -> AbstractContextManager[None]:
    """Ray's own ports are lower: it goes on as if nothing were."""
    random = "32768-60999"
    rule = f"priority 1 ipproto tcp sport {random} dport {random} blackhole"
    return commands(clinic, "w1", f"ip rule add {rule}", f"ip rule del {rule}")


@contextmanager
def slow_link(clinic: Clinic) -> Iterator[None]:
    clinic.cluster.slow("w2", rate_mbit=20)
    try:
        yield
    finally:
        clinic.cluster.restore("w2")


def small_shm(clinic: Clinic) -> AbstractContextManager[None]:
    """As Docker makes it; what is open there stays."""
    return commands(clinic, "w1", "mount -t tmpfs -o size=64m tmpfs /dev/shm", "umount --lazy /dev/shm")


@contextmanager
def missing_gpu(clinic: Clinic) -> Iterator[None]:
    name = clinic.cluster.add(gpus=1)
    try:
        yield
    finally:
        clinic.cluster.kill(name)


def test_a_healthy_cluster_is_green(clinic: Clinic) -> None:
    with wandb():
        code, lines = examine(clinic, "--nodes", "3")
    assert code == 0, lines
    assert ", ".join(lines) == CHECKS
    assert {line["status"] for line in lines.values()} == {"green"}, lines
    assert lines["W&B"]["found"] == "reachable"
    assert lines["all-reduce"]["found"].startswith("gloo: ")
    assert lines["ports"]["found"] == "6 connections between nodes"
    assert not list(clinic.storage.iterdir())


@pytest.mark.parametrize(
    ("fault", "red", "found", "remedy"),
    [
        (another_torch, "packages", "w1 has torch 2.0.1, not ", "requirements.lock"),
        (another_python, "Python", "w2 has python 3.9.1, not ", "same Python"),
        (wrong_clock, "clocks", "w1 is +90", "NTP"),
        (read_only, "storage", "w2: Read-only file system", "writable"),
        (full_disk, "storage, free space", "No space left on device", "see free space"),
        (firewall, "ports, all-reduce", "w2 -> w1: timed out", "ip_local_port_range"),
        (slow_link, "links, all-reduce", "w2", "ethtool"),  # into it, out of it or both
        (small_shm, "/dev/shm", "w1: 0.0671 GB", "shm-size"),
        (None, "W&B", f"w1: http://wandb.test:{PORT}: [Errno 111] Connection refused", "wandb.mode=offline"),
        (missing_gpu, "GPUs", "w3: Ray counts 1, torch sees 0", "nvidia-smi"),
    ],
)
def test_a_fault_turns_its_line_red(
    fault: Callable[[Clinic], AbstractContextManager[None]] | None, red: str, found: str, remedy: str, clinic: Clinic
) -> None:
    with wandb() if fault else nullcontext(), fault(clinic) if fault else nullcontext():
        code, lines = examine(clinic, storage=clinic.tiny if fault is full_disk else None)
    assert code == 1
    assert [name for name, line in lines.items() if line["status"] == "red"] == red.split(", "), lines
    first = lines[red.partition(", ")[0]]
    assert found in first["found"]
    assert remedy in first["remedy"]


def test_a_node_without_a_network_does_not_hold_it_up(clinic: Clinic) -> None:
    clinic.cluster.cut("w1")
    code, lines = examine(clinic, "wandb.mode=offline", "--timeout", "25")
    assert code == 1
    assert lines["nodes"]["status"] == "red"
    assert "w1: no answer within 25 s" in lines["nodes"]["found"]
    assert lines["storage"]["status"] == "green"
