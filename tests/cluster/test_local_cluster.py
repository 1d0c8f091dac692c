"""The cluster on one computer: machines made of namespaces, plain nodes, and what breaks them."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster import local_cluster, machines
from cluster.local_cluster import LocalCluster, main
from cluster.machines import ClusterError, obstacle
from cluster.nodes import MARK

NO_NAMESPACES = obstacle()
namespaces = pytest.mark.skipif(NO_NAMESPACES is not None, reason=f"namespaces: {NO_NAMESPACES}")

RECEIVE = "import socket; c, _ = socket.create_server(('', 5005)).accept()\nwhile c.recv(1 << 20): pass"
SEND = """
import socket, sys, time
start = time.perf_counter()
c = socket.create_connection((sys.argv[1], 5005), timeout=5)
connected = time.perf_counter()
c.sendall(bytes(1_000_000)); c.shutdown(socket.SHUT_WR); c.recv(1)
print(connected - start, time.perf_counter() - connected)
"""


def bridges() -> set[str]:
    """Networks and links of clusters that are on this computer."""
    shown = subprocess.run(["ip", "-oneline", "link"], capture_output=True, text=True, check=True).stdout
    return {line.split()[1].rstrip(":").partition("@")[0] for line in shown.splitlines() if " gs" in line}


def said(cluster: LocalCluster, node: str, *words: str) -> str:
    return cluster.run(node, words, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three machines without Ray."""
    if NO_NAMESPACES:
        pytest.skip(f"namespaces: {NO_NAMESPACES}")
    folder = tmp_path_factory.mktemp("clusters")
    with LocalCluster("pair", folder=folder, shm_mb=64, mode="namespaces", ray=False) as cluster:
        yield cluster


def test_a_machine_has_what_is_its_own(pair: LocalCluster) -> None:
    assert pair.state is not None
    for name, node in pair.state.nodes.items():
        assert said(pair, name, "cat", "/proc/sys/kernel/hostname") == name
        assert f"inet {node.address}/24" in said(pair, name, "ip", "-oneline", "address", "show", "eth0")
        resolve = "import socket, sys; print(socket.gethostbyname(sys.argv[1]))"
        assert said(pair, name, sys.executable, "-c", resolve, name) == node.address
        assert said(pair, name, "df", "--output=size", "-B1M", "/dev/shm").split()[-1] == "64"
        said(pair, name, "touch", f"/tmp/ray/{name}", f"/dev/shm/{name}")
        assert said(pair, name, "ls", "/tmp/ray", "/dev/shm").split() == ["/dev/shm:", name, "/tmp/ray:", name]
        assert int(said(pair, name, "sh", "-c", "ls -d /proc/[0-9]* | wc -l")) < 8


def test_a_command_knows_the_cluster(pair: LocalCluster, tmp_path: Path) -> None:
    assert pair.state is not None
    shown = pair.run("w1", ["env"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    variables = dict(line.partition("=")[::2] for line in shown)
    assert variables["RAY_ADDRESS"] == pair.state.gcs == f"{pair.state.nodes['head'].address}:6379"
    assert variables["RAY_AUTH_MODE"] == "token"
    assert variables["GLOO_SOCKET_IFNAME"] == "eth0"
    assert variables["PWD"] == str(tmp_path)
    token = Path(variables["RAY_AUTH_TOKEN_PATH"])
    assert len(token.read_text()) == 64
    assert token.stat().st_mode & 0o777 == 0o600


def test_exec_ends_with_the_commands_code(pair: LocalCluster) -> None:
    options = ["--name", "pair", "--folder", str(pair.folder.parent)]
    assert main([*options, "exec", "w1", "--", "sh", "-c", "exit 7"]) == 7


def transfer(cluster: LocalCluster) -> tuple[float, float]:
    """Seconds to connect from w2 to w1, and to send a megabyte."""
    assert cluster.state is not None
    words = cluster.command("w1", [sys.executable, "-c", RECEIVE])
    with subprocess.Popen(words, env=cluster.environment("w1")) as receiver:
        try:
            address = cluster.state.nodes["w1"].address
            listens = "ss -Hltn 'sport = :5005' | grep -q ."
            said(cluster, "w1", "sh", "-c", f"for i in $(seq 200); do {listens} && exit; sleep 0.05; done; exit 1")
            connect, send = said(cluster, "w2", sys.executable, "-c", SEND, address).split()
            return float(connect), float(send)
        finally:
            receiver.kill()


def test_a_link_is_slow_until_it_is_restored(pair: LocalCluster) -> None:
    pair.slow("w2", rate_mbit=8)
    assert transfer(pair)[1] > 0.6  # a megabyte takes a second, less what the bucket holds
    assert pair.state is not None
    assert pair.state.nodes["w2"].link == "8 Mbit/s"
    pair.restore("w2")
    assert transfer(pair)[1] < 0.5


def test_a_link_is_late(pair: LocalCluster) -> None:
    try:
        pair.slow("w2", delay_ms=100)
    except ClusterError as error:
        pytest.skip(f"no netem here: {error}")
    assert transfer(pair)[0] > 0.19
    pair.restore("w2")
    assert transfer(pair)[0] < 0.1


def test_a_cut_link_carries_nothing(pair: LocalCluster) -> None:
    assert pair.state is not None
    connect = f"import socket; socket.create_connection(({pair.state.nodes['head'].address!r}, 9), timeout=5)"
    words = [sys.executable, "-c", connect]
    assert "ConnectionRefused" in pair.run("w1", words, capture_output=True, text=True).stderr
    pair.cut("w1")
    lost = pair.run("w1", words, capture_output=True, text=True).stderr
    assert "TimeoutError" in lost or "No route to host" in lost or "unreachable" in lost
    pair.restore("w1")
    until = time.monotonic() + 10
    while "ConnectionRefused" not in pair.run("w1", words, capture_output=True, text=True).stderr:
        assert time.monotonic() < until


def test_a_killed_node_is_gone_and_a_new_one_comes(pair: LocalCluster) -> None:
    name = pair.add()
    assert name == "w3"
    sleeper = subprocess.Popen(pair.command(name, ["sleep", "100"]), env=pair.environment(name))
    until = time.monotonic() + 10
    while len(pair.pids(name)) < 3:  # process 1, its sleep, ours
        assert time.monotonic() < until
    victims = pair.pids(name)
    pair.kill(name)
    assert sleeper.wait(10)
    assert not [pid for pid in victims if Path(f"/proc/{pid}/cmdline").exists() and _runs(pid)]
    with pytest.raises(ClusterError, match=r"no node w3\n  remedy: use one of: head, w1, w2"):
        pair.run(name, ["true"])
    assert pair.add() == "w4"
    pair.kill("w4")


def _runs(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


@namespaces
def test_clusters_run_side_by_side_and_leave_nothing(tmp_path: Path) -> None:
    before = bridges()
    options: dict[str, Any] = {"folder": tmp_path, "nodes": 1, "mode": "namespaces", "ray": False}
    with LocalCluster("one", **options) as one, LocalCluster("two", **options) as two:
        assert one.state is not None
        assert two.state is not None
        assert one.state.gcs != two.state.gcs
        assert len(bridges() - before) == 4
        machines_of_both = [*one.pids("head"), *two.pids("head")]
        with pytest.raises(ClusterError, match="there already"):
            LocalCluster("one", **options).up()
    assert bridges() <= before
    assert not list(tmp_path.iterdir())
    assert not [pid for pid in machines_of_both if Path(f"/proc/{pid}").exists() and _runs(pid)]


def fake_ray(folder: Path, script: str) -> dict[str, str]:
    """An environment in which `ray` is a script."""
    folder.mkdir()
    (folder / "ray").write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (folder / "ray").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.mark.parametrize("mode", [pytest.param("namespaces", marks=namespaces), "plain"])
def test_a_cluster_that_does_not_start_leaves_nothing(mode: str, tmp_path: Path) -> None:
    before = bridges()
    environment = fake_ray(tmp_path / "bin", "echo the GCS is out; exit 3")
    cluster = LocalCluster("x", folder=tmp_path / "c", mode=mode, environment=environment)
    with pytest.raises(ClusterError, match=r"(?s)does not start on head:.*the GCS is out"):
        cluster.up()
    assert bridges() <= before
    assert not list((tmp_path / "c").iterdir())


@pytest.mark.parametrize("mode", [pytest.param("namespaces", marks=namespaces), "plain"])
def test_a_node_gets_a_second_chance(mode: str, tmp_path: Path) -> None:
    """What the first left running is ended before; a node that fails twice is not kept."""
    script = f"echo >> {tmp_path}/tries; sleep 50 & [ $(wc -l < {tmp_path}/tries) -ge 2 ]"
    options: dict[str, Any] = {"environment": fake_ray(tmp_path / "bin", script), "nodes": 1, "mode": mode}
    with LocalCluster("x", folder=tmp_path / "c", ray=False, **options) as cluster:
        cluster._start("head")
        assert len((tmp_path / "tries").read_text().splitlines()) == 2
        assert len(cluster._marked("head")) == 1, "the sleep of the second try"
        cluster.ray = True
        (tmp_path / "bin" / "ray").write_text("#!/bin/sh\nexit 1\n")
        with pytest.raises(ClusterError, match="does not start on w1"):
            cluster.add()
        with pytest.raises(ClusterError, match="no node w1"):
            cluster.pids("w1")


@namespaces
def test_down_ends_what_another_process_left_half_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = bridges()
    cluster = LocalCluster("half", folder=tmp_path, mode="namespaces", ray=False)

    def die(*_: object, **__: object) -> None:
        raise SystemError

    monkeypatch.setattr(LocalCluster, "down", lambda self: None)
    monkeypatch.setattr(machines.Bridge, "plug_in", die)
    with pytest.raises(SystemError):
        cluster.up()
    assert len(bridges()) == len(before) + 1
    assert cluster.state is not None
    pid = cluster.state.nodes["head"].pid
    monkeypatch.undo()
    options = ["--name", "half", "--folder", str(tmp_path), "down"]
    assert main(options) == 0
    assert bridges() == before
    assert not Path(f"/proc/{pid}").exists()
    assert main(options) == 0


def test_plain_nodes_are_killed_one_by_one(tmp_path: Path) -> None:
    with LocalCluster("plain", folder=tmp_path, mode="plain", ray=False) as cluster:
        sleepers = {
            name: subprocess.Popen(cluster.command(name, ["sleep", "100"]), env=cluster.environment(name))
            for name in ("w1", "w2")
        }
        assert cluster.environment("w1")[MARK] == f"{tmp_path}/plain/w1"
        assert cluster.pids("w1") == [sleepers["w1"].pid]
        cluster.kill("w1")
        assert sleepers["w1"].wait(10) == -9
        assert sleepers["w2"].poll() is None
        with pytest.raises(ClusterError, match="share one network"):
            cluster.cut("w2")
    assert sleepers["w2"].wait(10) == -9


def without_root(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines.os, "geteuid", lambda: 1000)


def without_tools(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines.os, "geteuid", lambda: 0)
    patch.setattr(machines.shutil, "which", lambda name, **_: None if name == "nsenter" else name)


def without_rights(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(machines.os, "geteuid", lambda: 0)
    patch.setattr(machines.shutil, "which", lambda name, **_: name)
    refused = subprocess.CompletedProcess([], 1, "", "unshare: unshare failed: Operation not permitted\n")
    patch.setattr(machines.subprocess, "run", lambda *_, **__: refused)


@pytest.mark.parametrize(
    ("lack", "problem"),
    [
        (without_root, "need root\n  remedy: run it with sudo"),
        (without_tools, "nsenter is not installed\n  remedy: install util-linux"),
        (without_rights, r"Operation not permitted\)\n  remedy: give it CAP_SYS_ADMIN"),
    ],
)
def test_what_is_missing_is_said(
    lack: Callable[[pytest.MonkeyPatch], None], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack(monkeypatch)
    with pytest.raises(ClusterError, match=problem):
        LocalCluster("x", folder=tmp_path, mode="namespaces").up()
    assert LocalCluster("x", folder=tmp_path)._choose_mode() == "plain"
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["kill", "w1"], "there is no cluster x"),
        (["exec", "w1", "--"], "no command is given"),
        (["slow", "w1"], "a slow link needs a delay or a rate"),
        (["slow", "w1", "--rate", "-1"], "a slow link needs a delay or a rate"),
        (["up", "--nodes", "0"], "a cluster of 0 nodes"),
        (["--name", "a/b", "status"], "'a/b' is no name for a cluster"),
    ],
)
def test_errors_are_short(
    arguments: list[str], problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--name", "x", "--folder", str(tmp_path), *arguments]) == 2
    assert f"local_cluster: error: {problem}" in capsys.readouterr().err


COUNT = "import ray; ray.init(log_to_driver=False); print(*sorted(n['NodeName'] for n in ray.nodes() if n['Alive']))"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("mode", [pytest.param("namespaces", marks=namespaces), "plain"])
def test_ray_runs_on_it(mode: str, tmp_path: Path) -> None:
    script = [sys.executable, local_cluster.__file__, "--folder", str(tmp_path)]
    up = subprocess.run([*script, "up", "--nodes", "2", "--mode", mode], capture_output=True, text=True, timeout=300)
    try:
        assert up.returncode == 0, up.stderr
        assert f"({mode}): Ray counts 2 nodes as alive" in up.stdout
        cluster = LocalCluster(folder=tmp_path)
        assert cluster.state is not None
        assert cluster.add() == "w2"
        names = said(cluster, "w1", sys.executable, "-c", COUNT).split()
        assert len(names) == 3
        if mode == "namespaces":
            assert names == sorted(node.address for node in cluster.state.nodes.values())
        (cluster.folder / "token").replace(tmp_path / "token")
        (cluster.folder / "token").write_text("f" * 64)
        assert not cluster.alive(), "another token is refused"
        (tmp_path / "token").replace(cluster.folder / "token")
        cluster.kill("w2")
        until = time.monotonic() + 90
        while len(cluster.alive()) != 2:
            assert time.monotonic() < until, "Ray does not notice the power cut"
            time.sleep(0.5)
    finally:
        down = subprocess.run([*script, "down"], capture_output=True, text=True, timeout=60)
    assert down.returncode == 0, down.stderr
    assert not [path for path in tmp_path.iterdir() if path.name != "token"]
