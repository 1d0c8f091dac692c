"""A Ray cluster of the tests' own: its own ports, its own token, ended without touching another Ray on the machine."""

import json
import secrets
import shutil
import tempfile
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster.state import title
from tests.processes import Command, descendants, free_port

HOST = "127.0.0.1"
RAY = ("ray", "start", "--block", "--disable-usage-stats", "--object-store-memory=100000000")
START = 120.0
"""Seconds that a node may take to start on a busy machine."""


class Cluster:
    """A head node with a dashboard, and further nodes on request; four logical CPUs each."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="gs", dir="/tmp"))  # short: Unix sockets have a limit of 107 bytes
        self.address = f"{HOST}:{free_port()}"
        self.dashboard = f"http://{HOST}:{free_port()}"
        self.environment: dict[str, str | None] = {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_ADDRESS": None,
            "OMP_NUM_THREADS": "1",
        }
        self._nodes: list[Command] = []
        self._start(
            f"--head --port={self.address.rpartition(':')[2]} --include-dashboard=true --dashboard-host={HOST} "
            f"--dashboard-port={self.dashboard.rpartition(':')[2]} --ray-client-server-port={free_port()} "
            f"--temp-dir={self.folder}/r"
        )

    def add_node(self) -> Command:
        """Start another node; `Command.kill` ends it as a power cut would."""
        return self._start(f"--address={self.address}")

    def command(self, command: Sequence[str], name: str, cwd: Path, **environment: str | None) -> Command:
        """A command that joins this cluster; its output goes to `<cwd>/<name>.out`."""
        return Command(
            command,
            cwd / f"{name}.out",
            environment=self.environment | {"RAY_ADDRESS": self.address} | environment,
            cwd=cwd,
        )

    def workers(self, node: int | None = None) -> list[int]:
        """Process ids of the training workers on this cluster, or on one of its nodes."""
        nodes = self._nodes if node is None else [self._nodes[node]]
        started = [pid for command in nodes for pid in descendants(command.process.pid)]
        return [pid for pid in started if title(pid).startswith("ray::RayTrainWorker")]

    def listed(self, question: str) -> list[dict[str, Any]]:
        """What the cluster's state API lists, e.g. for `nodes?limit=100`."""
        headers = {"Authorization": f"Bearer {self.environment['RAY_AUTH_TOKEN']}"}
        request = urllib.request.Request(f"{self.dashboard}/api/v0/{question}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)["data"]["result"]["result"]

    def close(self) -> None:
        """End all nodes and remove what they wrote."""
        for node in reversed(self._nodes):
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self, options: str) -> Command:
        for _ in range(2):  # `ray start` has timeouts of its own, too short for a busy machine
            with suppress(AssertionError):
                return self._try_to_start(options)
        return self._try_to_start(options)

    def _try_to_start(self, options: str) -> Command:
        ports = f" --num-cpus=4 --dashboard-agent-listen-port={free_port()}"
        log = self.folder / f"node{len(self._nodes)}.out"
        running = 1 + sum(node.process.poll() is None for node in self._nodes)
        node = Command([*RAY, *(options + ports).split()], log, environment=self.environment)
        try:
            node.until(lambda: self._alive() >= running, START)
        except AssertionError:
            node.kill()
            raise
        self._nodes.append(node)
        return node

    def _alive(self) -> int:
        """Nodes that the cluster counts as alive."""
        try:
            nodes = self.listed("nodes?limit=100")
        except (OSError, ValueError, KeyError):  # the dashboard is not up yet
            return 0
        return sum(node["state"] == "ALIVE" for node in nodes)
