"""What a local cluster remembers between two commands, and where."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

FILE = "state.json"
"""In the cluster's folder."""


@dataclass
class Node:
    """A node as the state folder remembers it.

    Attributes:
        name: head, w1, w2 ...
        position: 10 for the head, 11 for w1 ...: the last byte of its address.
        address: of its network interface.
        pid: of its machine; 0 for a plain node.
        born: when that process started, in clock ticks since boot, as process ids are used again.
        link: "up", "cut", or how slow it is.
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
    """Of a cluster. `temporary`: Ray's folder of a cluster of plain nodes. `bridge`: -1 without one."""

    mode: str
    gcs: str = ""
    dashboard: str = ""
    bridge: int = -1
    temporary: str = ""
    nodes: dict[str, Node] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> "State | None":
        """What was saved in a folder, if anything was."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return cls(**content | {"nodes": {key: Node(**node) for key, node in content["nodes"].items()}})

    def save(self, folder: Path) -> None:
        """Write it all, in one go."""
        aside = folder / f"{FILE}.new"
        aside.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        aside.replace(folder / FILE)


def title(pid: int) -> str:
    """A process's command line, which Ray's workers rewrite to say what they are; empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    return ""


def born(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty when it is gone."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
    return ""
