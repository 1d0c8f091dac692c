"""Machines for workers with `cluster.recovery: live`: they can be cut off and lose power; one has the lighthouse."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from cluster.machines import Bridge, boot, inside, power_off, run

FIRST = 10
"""Last byte of the first machine's address."""
PORT = 29510
"""Of the lighthouse."""
_CLONE_NEWNS, _MS_BIND, _MS_REC, _MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000  # linux/sched.h, linux/mount.h


def enter(machine: int, folder: Path, host: int) -> None:
    """Move this process, which has one thread, to a machine, with its network, host name, /etc/hosts and /dev/shm.

    Its processes stay those of this computer, and so does /proc.

    Args:
        machine: process id of the machine's process 1.
        folder: of all machines' files.
        host: the machine.
    """
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name: str, *arguments: object) -> None:
        if getattr(libc, name)(*arguments):
            raise OSError(ctypes.get_errno(), name)

    for name in ("net", "uts", "ipc"):
        with open(f"/proc/{machine}/ns/{name}", "rb") as file:
            call("setns", file.fileno(), 0)
    call("unshare", _CLONE_NEWNS)
    call("mount", None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    shared = folder / f"h{host}" / "shm"
    shared.mkdir(exist_ok=True)
    files = {"/etc/hosts": folder / "hosts", "/etc/resolv.conf": folder / "resolv.conf", "/dev/shm": shared}
    for target, source in files.items():
        call("mount", str(source).encode(), target.encode(), None, _MS_BIND, None)


class Hosts:
    """Machines on a network of their own, while the block runs.

    Args:
        count: number of machines.
        folder: for their files.
        heartbeat_timeout: seconds after which the lighthouse declares a silent worker dead.

    Attributes:
        folder: for their files.
        pids: process id of each machine's process 1; 0 while it is off.
        lighthouse: its address.
    """

    def __init__(self, count: int, folder: Path, *, heartbeat_timeout: float) -> None:
        self.folder, self._milliseconds = folder, int(1000 * heartbeat_timeout)
        folder.mkdir(parents=True, exist_ok=True)
        self._bridge = Bridge.create()
        self.lighthouse = f"http://{self._bridge.address(FIRST)}:{PORT}"
        addresses = [self._bridge.address(FIRST + host) for host in range(count)]
        names = "".join(f"{address} h{host}\n::ffff:{address} h{host}\n" for host, address in enumerate(addresses))
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{names}", encoding="utf-8")
        (folder / "resolv.conf").touch()
        self.pids = [0] * count
        self._restore: dict[int, float] = {}
        self._start: dict[int, float] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> "Hosts":
        for host in range(len(self.pids)):
            self._boot(host)
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids:
            if pid:
                power_off(pid)
        for process in self._processes:
            process.wait(10.0)
        self._bridge.remove()

    def _boot(self, host: int) -> None:
        machine = boot(f"h{host}", self.folder / f"h{host}", shm_mb=256, hosts=self.folder / "hosts")
        self.pids[host] = machine.pid
        self._bridge.plug_in(machine.pid, FIRST + host)
        own = f"02:00:00:00:{self._bridge.index:02x}:{FIRST + host:02x}"  # as before: others remember it
        run("nsenter", "--target", machine.pid, "--net", "ip", "link", "set", "eth0", "address", own)
        if host == 0:
            words = [str(Path(sys.executable).with_name("torchft_lighthouse")), "--min_replicas=1"]
            words += [f"--heartbeat_timeout_ms={self._milliseconds}", "--join_timeout_ms=3600000"]
            words += ["--quorum_tick_ms=50", f"--bind=[::]:{PORT}"]
            with (self.folder / "lighthouse.log").open("ab") as log:
                command = inside(machine.pid, words, str(self.folder))
                self._processes.append(subprocess.Popen(command, stdout=log, stderr=log))

    def cut(self, host: int, seconds: float) -> None:
        """Cut a machine off for so many seconds (`tend`)."""
        self._bridge.cut(FIRST + host)
        self._restore[host] = time.monotonic() + seconds

    def lose_power(self, host: int, pids: Sequence[int], seconds: float) -> None:
        """End a machine at once, so that none of its connections is closed, and start it again later (`tend`).

        Args:
            host: the machine.
            pids: of its workers.
            seconds: without power.
        """
        self._bridge.cut(FIRST + host)
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        power_off(self.pids[host])
        self._bridge.unplug(FIRST + host)
        (self.folder / f"h{host}" / "ready").unlink()
        self._restore.pop(host, None)
        self.pids[host] = 0
        self._start[host] = time.monotonic() + seconds

    def tend(self) -> None:
        """Connect and start again what has been cut off, or without power, for long enough; to be called often."""
        for host, until in list(self._start.items()):
            if time.monotonic() >= until:
                del self._start[host]
                self._boot(host)
        for host, until in list(self._restore.items()):
            if time.monotonic() >= until:
                del self._restore[host]
                self._bridge.restore(self.pids[host], FIRST + host)
