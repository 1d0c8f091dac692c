"""The Ray nodes of a cluster on one computer: start, add, kill, disconnect, slow down, end."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from cluster.machines import Bridge, ClusterError, boot, inside, obstacle, power_off, processes
from cluster.state import Node, State, born

FOLDER = Path(tempfile.gettempdir()) / f"ganscale-clusters-{os.getuid()}"
"""Default folder of the clusters' state."""

HEAD = "head"
MARK = "GANSCALE_LOCAL_NODE"
"""Environment variable by which the processes of a plain node are found."""

_PORTS = "--object-manager-port=6378 --node-manager-port=6377 --runtime-env-agent-port=6376 --metrics-export-port=8080"
_AGENT = "--dashboard-agent-listen-port=8266 --dashboard-agent-grpc-port=6375"
_WORKERS = "--min-worker-port=10002 --max-worker-port=10999"


class LocalCluster:
    """A cluster by its name; as a context manager it is up within the block.

    Args:
        name: distinguishes clusters that run side by side.
        folder: of the clusters' state, a folder each.
        nodes: number of nodes that `up` starts, the head included.
        cpus: CPUs that Ray counts on each node but the head, which runs no workers.
        shm_mb: size of each node's /dev/shm in MiB.
        mode: "namespaces", "plain", or "auto": namespaces where they can be made.
        environment: variables of all nodes and commands, in addition to this process's own.
        ray: whether Ray is started on the nodes.
    """

    def __init__(
        self,
        name: str = "default",
        *,
        folder: Path = FOLDER,
        nodes: int = 3,
        cpus: int = 2,
        shm_mb: int = 1024,
        mode: str = "auto",
        environment: Mapping[str, str] | None = None,
        ray: bool = True,
    ) -> None:
        if not name.replace("-", "").isalnum():
            raise ClusterError(f"{name!r} is no name for a cluster", "use letters, digits and hyphens")
        if nodes < 1:
            raise ClusterError(f"a cluster of {nodes} nodes", "give --nodes 1 or more")
        self.name, self.folder = name, folder / name
        self.nodes, self.cpus, self.shm_mb, self.mode = nodes, cpus, shm_mb, mode
        self.extra, self.ray = dict(environment or {}), ray
        self.state = State.load(self.folder)

    def up(self) -> None:
        """Start all nodes and wait until Ray counts them as alive; a failure leaves nothing running.

        Raises:
            ClusterError: it is up already, namespaces are required and not possible, or a node does not start.
        """
        if self.state is not None:
            raise ClusterError(f"cluster {self.name} is there already", "take it down first, or give another --name")
        mode = self._choose_mode()
        if self.ray and not shutil.which("ray", path=self._path()):
            raise ClusterError("ray is not installed beside this Python", "run it with the Python of `make setup`")
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self._prepare(mode)
            names = [HEAD, *(f"w{number}" for number in range(1, self.nodes))]
            for name in names:
                self._prepare_node(name)
            if self.ray:
                self._start(HEAD)
                self._start(*names[1:])
                self._wait_for(self.nodes, set())
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        """End the cluster and delete its state, also when it is only partly up."""
        if self.state is not None:
            for node in self.state.nodes.values():
                self._end(node)
            if self.state.bridge >= 0:
                bridge = Bridge(self.state.bridge)
                for node in self.state.nodes.values():
                    bridge.unplug(node.position)
                bridge.remove()
            if self.state.temporary:
                shutil.rmtree(self.state.temporary, ignore_errors=True)
        self.state = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def add(self, name: str = "", *, gpus: int = 0, environment: Mapping[str, str] | None = None) -> str:
        """Start another node and return its name.

        Args:
            name: of the node; by default the next w.
            gpus: GPUs that Ray counts on it.
            environment: further variables of Ray's processes on it.
        """
        state = self._there()
        name = name or f"w{max(node.position for node in state.nodes.values()) - 9}"
        if name in state.nodes:
            raise ClusterError(f"there is a node {name} already", "give another name")
        before = self.alive()
        self._prepare_node(name)
        try:
            if self.ray:
                self._start(name, options=f"--num-gpus={gpus}", environment=environment)
                self._wait_for(1, before)
        except BaseException:
            self.kill(name)
            raise
        return name

    def _prepare_node(self, name: str) -> None:
        """Create a node's machine, without Ray."""
        state = self._there()
        position = 10 if name == HEAD else max(10, *(node.position for node in state.nodes.values())) + 1
        node = Node(name, position, "127.0.0.1")
        (self.folder / name).mkdir(parents=True, exist_ok=True)
        if state.mode == "namespaces":
            if position > 254:
                raise ClusterError("a network holds 245 nodes", "take the cluster down")
            bridge, hosts = Bridge(state.bridge), self.folder / "hosts"
            node.address = bridge.address(position)
            with hosts.open("a", encoding="utf-8") as file:
                file.write(f"{node.address} {name}\n")
            node.pid = boot(name, self.folder / name, shm_mb=self.shm_mb, hosts=hosts).pid
            node.born = born(node.pid)
            state.nodes[name] = node
            self._save()
            bridge.plug_in(node.pid, position)
        state.nodes[name] = node
        self._save()

    def kill(self, name: str) -> None:
        """End a node like a power cut: its processes stop at once, its connections are not closed."""
        node = self._node(name)
        state = self._there()
        if state.mode == "namespaces":
            Bridge(state.bridge).cut(node.position)
        self._end(node)
        if state.mode == "namespaces":
            Bridge(state.bridge).unplug(node.position)
        node.killed = True
        self._save()

    def cut(self, name: str) -> None:
        """Disconnect a node; its processes keep running."""
        node, bridge = self._link(name)
        bridge.cut(node.position)
        node.link = "cut"
        self._save()

    def restore(self, name: str) -> None:
        """Reconnect a node, at full speed."""
        node, bridge = self._link(name)
        bridge.restore(node.pid, node.position)
        node.link = "up"
        self._save()

    def slow(self, name: str, *, delay_ms: float = 0.0, rate_mbit: float = 0.0) -> None:
        """Slow a node's link down, each way.

        Args:
            name: of the node.
            delay_ms: added latency in milliseconds; 0: none.
            rate_mbit: limit in Mbit/s; 0: none.
        """
        if delay_ms < 0 or rate_mbit < 0 or not delay_ms + rate_mbit:
            raise ClusterError("a slow link needs a delay or a rate", "give --delay MS, --rate MBIT, or both")
        node, bridge = self._link(name)
        bridge.slow(node.pid, node.position, delay_ms=delay_ms, rate_mbit=rate_mbit)
        shape = [f"{delay_ms:g} ms" * bool(delay_ms), f"{rate_mbit:g} Mbit/s" * bool(rate_mbit)]
        node.link = ", ".join(part for part in shape if part)
        self._save()

    def command(self, name: str, words: Sequence[str], *, cwd: Path | None = None) -> list[str]:
        """The command that runs another one on a node, to be started with `environment(name)`.

        Args:
            name: of the node.
            words: program and arguments.
            cwd: working folder; by default the current one.
        """
        node = self._node(name)
        return inside(node.pid, words, str(cwd or Path.cwd())) if node.pid else [*words]

    def run(self, name: str, words: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """Run a command on a node and wait for its end.

        Args:
            name: of the node.
            words: program and arguments.
            **options: of `subprocess.run`.
        """
        environment = self.environment(name) | options.pop("env", {})
        return subprocess.run(self.command(name, words, cwd=options.get("cwd")), env=environment, **options)

    def environment(self, name: str = HEAD) -> dict[str, str]:
        """Environment of a command on a node: the cluster's address and token, and this process's own."""
        state = self._there()
        own = {
            "PATH": self._path(),
            "RAY_ADDRESS": state.gcs,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "GLOO_SOCKET_IFNAME": "eth0" if state.mode == "namespaces" else "lo",
            "NCCL_SOCKET_IFNAME": "eth0" if state.mode == "namespaces" else "lo",
            MARK: str(self.folder / name),
        }
        kept = {key: value for key, value in os.environ.items() if key != "RAY_AUTH_TOKEN"}
        return kept | own | self.extra

    def alive(self) -> set[str]:
        """Ray's ids of the nodes that it counts as alive; none when it does not answer."""
        return set(self.addresses())

    def id_of(self, name: str) -> str:
        """Ray's id of a node in namespaces; empty when Ray does not count it as alive."""
        own = self._node(name).address
        return next((key for key, address in self.addresses().items() if address == own), "")

    def addresses(self) -> dict[str, str]:
        """Addresses of the nodes that Ray counts as alive, by Ray's id; none when it does not answer."""
        state = self._there()
        token = (self.folder / "token").read_text(encoding="utf-8")
        question = urllib.request.Request(
            f"{state.dashboard}/api/v0/nodes?limit=1000", headers={"Authorization": f"Bearer {token}"}
        )
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(question, timeout=10) as reply:
                nodes = json.load(reply)["data"]["result"]["result"]
        except (OSError, ValueError, KeyError):
            return {}
        return {node["node_id"]: node["node_ip"] for node in nodes if node["state"] == "ALIVE"}

    def pids(self, name: str) -> list[int]:
        """Process ids of everything on a node."""
        node = self._node(name)
        return processes(node.pid) if node.pid else self._marked(name)

    def __enter__(self) -> "LocalCluster":
        self.up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.down()

    def _choose_mode(self) -> str:
        if self.mode not in ("auto", "namespaces", "plain"):
            raise ClusterError(f"no mode {self.mode!r}", "use auto, namespaces or plain")
        if self.mode == "plain":
            return "plain"
        problem = obstacle()
        if problem and self.mode == "namespaces":
            raise problem
        return "plain" if problem else "namespaces"

    def _prepare(self, mode: str) -> None:
        """Create token, network and addresses."""
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32), encoding="utf-8")
        self.state = State(mode)
        if mode == "namespaces":
            (self.folder / "hosts").write_text("127.0.0.1 localhost\n", encoding="utf-8")
            bridge = Bridge.create()
            self.state.bridge = bridge.index
            self.state.gcs, self.state.dashboard = f"{bridge.address(10)}:6379", f"http://{bridge.address(10)}:8265"
        else:
            self.state.temporary = tempfile.mkdtemp(prefix="gs", dir="/tmp")  # Unix sockets: at most 107 bytes
            self.state.gcs, self.state.dashboard = f"127.0.0.1:{_free_port()}", f"http://127.0.0.1:{_free_port()}"
        self._save()

    def _start(self, *names: str, options: str = "", environment: Mapping[str, str] | None = None) -> None:
        """Start Ray on nodes in parallel and wait until it runs; those that fail are tried once more.

        Raises:
            ClusterError: one failed twice; the message has Ray's output.
        """
        failed: Sequence[str] = names
        for wait in ("60", "120"):  # seconds; on a busy computer a raylet may fail to register in time
            variables = {"RAY_raylet_start_wait_time_s": wait, **(environment or {})}
            started = {name: self._launch(name, options, variables) for name in failed}
            failed = [name for name, process in started.items() if self._code(process)]
            if not failed:
                return
            for pid in [pid for name in failed for pid in self._marked(name)]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        output = (self.folder / failed[0] / "ray.log").read_text(encoding="utf-8", errors="replace")[-3000:]
        raise ClusterError(f"Ray does not start on {', '.join(failed)}:\n{output}")

    def _launch(self, name: str, options: str, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
        variables = self.environment(name) | dict(environment)
        del variables["RAY_ADDRESS"]
        with (self.folder / name / "ray.log").open("wb") as log:
            return subprocess.Popen(
                self.command(name, ["ray", "start", *self._options(name), *options.split()], cwd=self.folder / name),
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _code(self, process: subprocess.Popen[bytes]) -> int:
        try:
            return process.wait(180)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait(10)

    def _options(self, name: str) -> list[str]:
        """Options of `ray start`; in namespaces the ports are fixed, below the range of ephemeral ports."""
        state, node = self._there(), self._node(name)
        options = f"--node-ip-address={node.address} --disable-usage-stats --object-store-memory=100000000 "
        if state.mode == "namespaces":
            options += f"{_PORTS} {_AGENT} {_WORKERS} "
        else:
            options += f"--dashboard-agent-listen-port={_free_port()} "
        if name != HEAD:
            return f"{options} --address={state.gcs} --num-cpus={self.cpus}".split()
        gcs, dashboard = state.gcs.rpartition(":")[2], state.dashboard.rpartition(":")[2]
        options += f"--head --port={gcs} --num-cpus=0 --include-dashboard=true --dashboard-port={dashboard} "
        if state.mode == "namespaces":
            return f"{options} --dashboard-host=0.0.0.0".split()
        return f"{options} --ray-client-server-port={_free_port()} --temp-dir={state.temporary}".split()

    def _wait_for(self, nodes: int, before: set[str]) -> None:
        """Wait until Ray counts as alive so many nodes that are not in `before`."""
        until = time.monotonic() + 120.0
        while len(found := self.alive() - before) < nodes:
            if time.monotonic() > until:
                raise ClusterError(f"the cluster counts {len(found)} of {nodes} nodes after two minutes")
            time.sleep(0.3)

    def _end(self, node: Node) -> None:
        if node.pid and born(node.pid) == node.born:
            power_off(node.pid)
        for pid in [] if node.pid else self._marked(node.name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _marked(self, name: str) -> list[int]:
        """Processes of a plain node, except this one."""
        mark = f"{MARK}={self.folder / name}".encode()
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0") and int(entry.name) != os.getpid():
                    found.append(int(entry.name))
        return found

    def _link(self, name: str) -> tuple[Node, Bridge]:
        state, node = self._there(), self._node(name)
        if state.mode != "namespaces":
            raise ClusterError("plain nodes share one network", "run the cluster as root, in namespaces")
        return node, Bridge(state.bridge)

    def _node(self, name: str) -> Node:
        nodes = self._there().nodes
        if name not in nodes or nodes[name].killed:
            living = ", ".join(node.name for node in nodes.values() if not node.killed)
            raise ClusterError(f"there is no node {name}", f"use one of: {living}")
        return nodes[name]

    def _there(self) -> State:
        if self.state is None:
            raise ClusterError(f"there is no cluster {self.name}", "start it with `up`")
        return self.state

    def _save(self) -> None:
        self._there().save(self.folder)

    def _path(self) -> str:
        return os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
