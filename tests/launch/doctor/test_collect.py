"""The cluster check on three hosts made of network namespaces: all green; then each fault turns its check red.

Real faults: packages, storage, disk, ports, link, /dev/shm, GPU, W&B, a cut node. Simulated ones, as a namespace has
neither a Python nor a clock of its own: a sitecustomize.py that only this node reads changes the results of
`platform.python_version` and `time.time` there.
"""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import HTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from cluster.local_cluster import LocalCluster
from cluster.machines import Bridge, obstacle
from ganscale.launch.doctor.checks import CHECKS
from tests.launch.doctor.test_probe import Site
from tests.processes import ROOT

PORT = 8123

NO_NAMESPACES = obstacle()
pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"namespaces: {NO_NAMESPACES}"),
]


class Hosts(NamedTuple):
    """The cluster, its storage, and a storage of 64 MB."""

    cluster: LocalCluster
    storage: Path
    tiny: Path


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("hosts")
    storage, tiny = folder / "storage", folder / "tiny"
    storage.mkdir()
    tiny.mkdir()
    environment = {
        "PYTHONPATH": f"/tmp/ray/site:{ROOT}",  # /tmp/ray is each node's own
        "WANDB_BASE_URL": f"http://wandb.test:{PORT}",
        "WANDB_API_KEY": "0" * 40,
        "OMP_NUM_THREADS": "1",
    }
    cluster = LocalCluster("hosts", folder=folder / "clusters", mode="namespaces", environment=environment)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tiny], check=True)
    try:
        with cluster:
            assert cluster.state is not None
            with (cluster.folder / "hosts").open("a", encoding="utf-8") as file:
                file.write(f"{Bridge(cluster.state.bridge).address(1)} wandb.test\n")
            yield Hosts(cluster, storage, tiny)
    finally:
        subprocess.run(["umount", "--lazy", tiny], check=True)


@contextmanager
def wandb() -> Iterator[None]:
    server = HTTPServer(("", PORT), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


def examine(hosts: Hosts, *arguments: str, storage: Path | None = None) -> tuple[int, dict[str, Any]]:
    """The exit code, and the results by check."""
    words = [sys.executable, "-m", "ganscale.doctor", "--json", "--storage", str(storage or hosts.storage), *arguments]
    done = hosts.cluster.run("head", words, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stderr
    assert "Traceback" not in done.stderr
    printed = json.loads(done.stdout)
    assert printed["ok"] is not bool(done.returncode)
    return done.returncode, {result["check"]: result for result in printed["checks"]}


@contextmanager
def commands(hosts: Hosts, node: str, fault: str, repair: str) -> Iterator[None]:
    hosts.cluster.run(node, ["sh", "-c", fault], check=True, timeout=60)
    try:
        yield
    finally:
        hosts.cluster.run(node, ["sh", "-c", repair], check=True, timeout=60)


@contextmanager
def site(hosts: Hosts, node: str, path: str, content: str) -> Iterator[None]:
    """A file that Python finds on one node."""
    place = hosts.cluster.folder / node / "ray" / "site" / path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(content, encoding="utf-8")
    with commands(hosts, node, "true", "rm -r /tmp/ray/site"):
        yield


def another_torch(hosts: Hosts) -> AbstractContextManager[None]:
    return site(hosts, "w1", "torch-2.0.1.dist-info/METADATA", "Metadata-Version: 2.1\nName: torch\nVersion: 2.0.1\n")


def another_python(hosts: Hosts) -> AbstractContextManager[None]:
    return site(hosts, "w2", "sitecustomize.py", "import platform\nplatform.python_version = lambda: '3.9.1'\n")


def wrong_clock(hosts: Hosts) -> AbstractContextManager[None]:
    content = "import time\nreal = time.time\ntime.time = lambda: real() + 90\n"
    return site(hosts, "w1", "sitecustomize.py", content)


def read_only(hosts: Hosts) -> AbstractContextManager[None]:
    place = hosts.storage
    fault = f"mount --bind {place} {place} && mount -o remount,ro,bind {place}"
    return commands(hosts, "w2", fault, f"umount --lazy {place}")


@contextmanager
def full_disk(hosts: Hosts) -> Iterator[None]:
    subprocess.run(["dd", "if=/dev/zero", f"of={hosts.tiny}/old-run", "bs=1M"], capture_output=True)
    yield
    (hosts.tiny / "old-run").unlink()


def firewall(hosts: Hosts) -> AbstractContextManager[None]:
    """Ray's own ports are lower: it does not notice."""
    random = "32768-60999"
    rule = f"priority 1 ipproto tcp sport {random} dport {random} blackhole"
    return commands(hosts, "w1", f"ip rule add {rule}", f"ip rule del {rule}")


@contextmanager
def slow_link(hosts: Hosts) -> Iterator[None]:
    hosts.cluster.slow("w2", rate_mbit=20)
    yield
    hosts.cluster.restore("w2")


def small_shm(hosts: Hosts) -> AbstractContextManager[None]:
    """Docker's default size; open files stay."""
    return commands(hosts, "w1", "mount -t tmpfs -o size=64m tmpfs /dev/shm", "umount --lazy /dev/shm")


@contextmanager
def missing_gpu(hosts: Hosts) -> Iterator[None]:
    name = hosts.cluster.add(gpus=1)
    yield
    hosts.cluster.kill(name)


def test_a_healthy_cluster_is_green(hosts: Hosts) -> None:
    with wandb():
        code, results = examine(hosts, "--nodes", "3")
    assert code == 0, results
    assert list(results) == list(CHECKS)
    assert {result["status"] for result in results.values()} == {"green"}, results
    assert not list(hosts.storage.iterdir())


@pytest.mark.parametrize(
    ("fault", "red", "node"),
    [
        (another_torch, "packages", "w1"),
        (another_python, "Python", "w2"),
        (wrong_clock, "clocks", "w1"),
        (read_only, "storage", "w2"),
        (full_disk, "storage, free space", ""),
        (firewall, "ports, all-reduce", "w1"),
        (slow_link, "links, all-reduce", "w2"),  # into it, out of it or both
        (small_shm, "/dev/shm", "w1"),
        (None, "W&B", "w1"),
        (missing_gpu, "GPUs", "w3"),
    ],
)
def test_a_fault_turns_its_check_red(
    fault: Callable[[Hosts], AbstractContextManager[None]] | None, red: str, node: str, hosts: Hosts
) -> None:
    with wandb() if fault else nullcontext(), fault(hosts) if fault else nullcontext():
        code, results = examine(hosts, storage=hosts.tiny if fault is full_disk else None)
    assert code == 1
    assert [name for name, result in results.items() if result["status"] == "red"] == red.split(", "), results
    assert node in results[red.partition(", ")[0]]["found"]


def test_a_slow_worker_is_named_by_its_links(hosts: Hosts) -> None:
    """Limits that the slow link meets: only the comparison with other pairs finds it."""
    name = hosts.cluster.add()
    try:
        code, results = examine(hosts, "wandb.mode=offline", "--links", "--min-bandwidth", "0.1")
        assert (code, results["pairs"]["status"]) == (0, "green"), results
        hosts.cluster.slow("w2", rate_mbit=50)
        code, results = examine(hosts, "wandb.mode=offline", "--links", "--min-bandwidth", "0.1")
    finally:
        hosts.cluster.restore("w2")
        hosts.cluster.kill(name)
    assert code == 1
    assert [each for each, result in results.items() if result["status"] == "red"] == ["pairs"], results
    assert results["pairs"]["found"].startswith("all links of w2 are slow")


def test_a_node_without_a_network_does_not_delay_the_others(hosts: Hosts) -> None:
    hosts.cluster.cut("w1")
    code, results = examine(hosts, "wandb.mode=offline", "--timeout", "25")
    assert (code, results["nodes"]["status"], results["storage"]["status"]) == (1, "red", "green")
    assert "w1" in results["nodes"]["found"]
