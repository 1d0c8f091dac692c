"""State of a local cluster between two commands, as a JSON file."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "state.json"
"""In the cluster's folder."""


@dataclass
class Node:
    """A node of a local cluster.

    Attributes:
        name: head, w1, w2 ...
        position: 10 for the head, 11 for w1 ...: the last byte of its address.
        address: of its network interface.
        pid: of its machine; 0 for a plain node.
        born: start of that process in clock ticks since boot, as process ids are reused.
        link: "up", "cut", or its delay and rate.
        killed: whether it was killed.
    """

    name: str
    position: int
    address: str
    pid: int = 0
    born: str = ""
    link: str = "up"
    killed: bool = False


@dataclass
class State:
    """State of a cluster.

    Attributes:
        mode: "namespaces" or "plain".
        gcs: host and port of Ray's head.
        dashboard: URL of Ray's dashboard.
        bridge: index of the network; -1 without one.
        temporary: Ray's folder of a cluster of plain nodes.
        nodes: by name.
    """

    mode: str
    gcs: str = ""
    dashboard: str = ""
    bridge: int = -1
    temporary: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "State | None":
        """State saved in a cluster's folder; None without one."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(**content | {"nodes": {key: Node(**node) for key, node in content["nodes"].items()}})

    def save(self, folder: Path) -> None:
        """Write the state to a cluster's folder, atomically."""
        aside = folder / f"{FILE}.new"
        aside.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        aside.replace(folder / FILE)


def title(pid: int) -> str:
    """Command line of a process, which Ray's workers set to their role; empty when it has ended."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def born(pid: int) -> str:
    """Start of a process in clock ticks since boot; empty when it has ended."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return ""
