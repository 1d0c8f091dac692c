"""Machines of Linux namespaces on one bridge: each has its own address, host name, processes, /tmp/ray and /dev/shm.

A machine is one process (`unshare`): when it ends, the kernel ends all that runs in its namespaces.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

NETWORK = "10.77"
"""First two bytes of every address; the third belongs to the network, the fourth to the machine."""

_INIT = """
set -e
echo "$1" > /proc/sys/kernel/hostname
mkdir -p /tmp/ray "$2/ray"
mount --bind "$2/ray" /tmp/ray
mount -t tmpfs -o "size=$3m,mode=1777" tmpfs /dev/shm
mount --bind "$4" /etc/hosts
: > "$2/ready"
while :; do sleep 86400 & wait $!; done
"""
"""Process 1 of a machine: mounts the machine's own folders, then adopts orphans."""

_NAMESPACES = ("--net", "--mount", "--uts", "--ipc")


class ClusterError(RuntimeError):
    """An operation on a cluster that is not possible, with a remedy."""

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem + (f"\n  remedy: {remedy}" if remedy else ""))


def obstacle() -> ClusterError | None:
    """Why this process cannot create machines; None where it can."""
    if os.geteuid() != 0:
        return ClusterError("namespaces need root", "run it with sudo, or use --mode plain")
    for tool, package in (("ip", "iproute2"), ("unshare", "util-linux"), ("nsenter", "util-linux")):
        if not shutil.which(tool):
            return ClusterError(f"{tool} is not installed", f"install {package}, or use --mode plain")
    tried = subprocess.run(
        ["unshare", *_NAMESPACES, "--pid", "--fork", "--mount-proc", "ip", "link", "set", "lo", "up"],
        capture_output=True,
        text=True,
        timeout=30,
    )
    if tried.returncode:
        reason = tried.stderr.strip() or f"exit code {tried.returncode}"
        return ClusterError(
            f"this kernel or container refuses namespaces ({reason})",
            "give it CAP_SYS_ADMIN and CAP_NET_ADMIN (docker run --privileged), or use --mode plain",
        )
    return None


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a system tool.

    Args:
        command: program and arguments, converted to text.
        check: whether a failure raises.

    Raises:
        ClusterError: the tool failed and `check` is set.
    """
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=30)
    if check and done.returncode:
        raise ClusterError(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.returncode}")
    return done


class Bridge:
    """The network of a cluster's machines.

    Args:
        index: third byte of its addresses, and part of its name.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.name = f"gs{index}"

    @classmethod
    def create(cls) -> "Bridge":
        """Create a bridge for the first free network.

        Raises:
            ClusterError: all are taken, or the kernel refuses.
        """
        for index in range(256):
            bridge = cls(index)
            if f"inet {NETWORK}.{index}." in run("ip", "-4", "-oneline", "address").stdout:
                continue
            made = run("ip", "link", "add", bridge.name, "type", "bridge", check=False)
            if "File exists" in made.stderr:
                continue
            if made.returncode:
                raise ClusterError(f"no bridge can be made: {made.stderr.strip()}", "load the kernel module `bridge`")
            run("ip", "address", "add", f"{bridge.address(1)}/24", "dev", bridge.name)
            run("ip", "link", "set", bridge.name, "up")
            return bridge
        raise ClusterError(f"all 256 networks of {NETWORK}.0.0/16 are taken", "take some clusters down")

    def address(self, position: int) -> str:
        """Address of the machine at a position; 1 is this computer's own."""
        return f"{NETWORK}.{self.index}.{position}"

    def plug_in(self, pid: int, position: int) -> None:
        """Connect the machine whose process 1 is `pid`; inside, the link is eth0."""
        link, inside = self.link(position), ("nsenter", "--target", pid, "--net", "ip")
        self.unplug(position)  # left by a crash
        run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pid)
        run("ip", "link", "set", link, "master", self.name, "up")
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "address", "add", f"{self.address(position)}/24", "dev", "eth0")
        run(*inside, "link", "set", "eth0", "up")
        run(*inside, "route", "add", "default", "via", self.address(1))

    def link(self, position: int) -> str:
        """Name of this computer's end of a machine's link."""
        return f"{self.name}n{position}"

    def cut(self, position: int) -> None:
        """Disconnect a machine."""
        run("ip", "link", "set", self.link(position), "down")

    def restore(self, pid: int, position: int) -> None:
        """Reconnect a machine, at full speed."""
        run("ip", "link", "set", self.link(position), "up")
        for end in self._ends(pid, position):
            run(*end, "tc", "qdisc", "del", "dev", self._device(end, position), "root", check=False)

    def slow(self, pid: int, position: int, *, delay_ms: float = 0.0, rate_mbit: float = 0.0) -> None:
        """Slow a machine's link down, each way.

        Args:
            pid: process 1 of the machine.
            position: of the machine.
            delay_ms: added latency in milliseconds; 0: none.
            rate_mbit: limit in Mbit/s; 0: none, with a delay only.

        Raises:
            ClusterError: tc or, for a delay, the kernel's netem is missing.
        """
        if not shutil.which("tc"):
            raise ClusterError("tc is not installed", "install iproute2")
        if delay_ms:
            shape = ["netem", "delay", f"{delay_ms}ms", *(["rate", f"{rate_mbit}mbit"] if rate_mbit else [])]
        else:
            burst = max(32_768, int(rate_mbit * 1e6 / 8 / 100))  # bytes; ten milliseconds' worth
            shape = ["tbf", "rate", f"{rate_mbit}mbit", "burst", str(burst), "latency", "200ms"]
        for end in self._ends(pid, position):
            made = run(*end, "tc", "qdisc", "replace", "dev", self._device(end, position), "root", *shape, check=False)
            if made.returncode:
                remedy = f"load the kernel module sch_{shape[0]}" + (", or give a rate alone" if delay_ms else "")
                raise ClusterError(f"the link cannot be slowed: {made.stderr.strip()}", remedy)

    def unplug(self, position: int) -> None:
        """Delete a machine's link, if there is one; the kernel would keep it for minutes while bytes are unsent."""
        run("ip", "link", "del", self.link(position), check=False)

    def remove(self) -> None:
        """Delete the network, if there is one."""
        run("ip", "link", "del", self.name, check=False)

    def _ends(self, pid: int, position: int) -> tuple[tuple[object, ...], ...]:
        """Command prefixes for both ends of a link."""
        return ((), ("nsenter", "--target", pid, "--net"))

    def _device(self, end: tuple[object, ...], position: int) -> str:
        return "eth0" if end else self.link(position)


def boot(name: str, folder: Path, *, shm_mb: int, hosts: Path) -> subprocess.Popen[bytes]:
    """Start a machine without a link.

    Args:
        name: its host name.
        folder: its own; the folder `ray` in it becomes /tmp/ray.
        shm_mb: size of its /dev/shm in MiB.
        hosts: file that becomes its /etc/hosts.

    Raises:
        ClusterError: the machine did not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = [*_NAMESPACES, "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "slave"]
    words = ["unshare", *own, "sh", "-c", _INIT, "sh", name, str(folder), str(shm_mb), str(hosts)]
    with (folder / "init.log").open("wb") as log:
        machine = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/"
        )
    until = time.monotonic() + 20.0
    while not (folder / "ready").exists():
        if machine.poll() is not None or time.monotonic() > until:
            power_off(machine.pid)
            problem = (folder / "init.log").read_text(encoding="utf-8", errors="replace").strip()
            raise ClusterError(f"machine {name} did not come up: {problem or 'no message'}")
        time.sleep(0.02)
    return machine


def inside(pid: int, command: Sequence[str], cwd: str) -> list[str]:
    """The command that runs `command` inside the machine whose process 1 is `pid`, in folder `cwd`."""
    enter = ["nsenter", "--target", str(pid), *_NAMESPACES, f"--pid=/proc/{pid}/ns/pid_for_children", "--"]
    return [*enter, "sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", cwd, *command]


def processes(pid: int) -> list[int]:
    """Process ids, in this computer's namespace, of everything in a machine."""
    found = []
    with suppress(OSError):
        own = os.readlink(f"/proc/{pid}/ns/pid_for_children")
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if os.readlink(entry / "ns" / "pid") == own:
                    found.append(int(entry.name))
    return found


def _runs(pid: int) -> bool:
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] not in "ZX"
    return False


def power_off(pid: int) -> None:
    """End a machine and everything in it at once, without a shutdown."""
    victims = processes(pid)
    for victim in [pid, *victims]:
        with suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(pid, 0)
    until = time.monotonic() + 10.0
    while any(_runs(victim) for victim in victims) and time.monotonic() < until:  # a busy computer takes a moment
        time.sleep(0.02)
