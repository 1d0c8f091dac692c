"""What is measured on one node. Results are plain values, so that nodes with other versions can answer as well.

A dict holds fields of `checks.NodeReport`; its `problems` is a list of what failed.
"""

import hashlib
import os
import platform
import shutil
import socket
import socketserver
import subprocess
import threading
import time
import timeit
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.cuda import nccl
from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

import ganscale
from ganscale.launch.compat import available_memory
from ganscale.launch.doctor.pairs import measure_links
from ganscale.run.environment import packages
from ganscale.storage.files import sync_folder, write_synced
from ganscale.tracking.wandb_server import has_key, unreachable

__all__ = ["measure_links"]  # called by name, as all functions here

GB = 1e9
_stores: list[TCPStore] = []  # open until this process ends


def describe() -> dict[str, Any]:
    """Versions, GPUs, memory and host name."""
    resolves = ""
    with suppress(OSError):
        resolves = socket.gethostbyname(socket.gethostname())
    code = f"{ganscale.__version__} ({code_hash(Path(ganscale.__path__[0]))})"
    return {
        "versions": {**packages(), **gpu_versions(), "python": platform.python_version(), "ganscale": code},
        "gpus": tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
        "memory_gb": available_memory() / GB,  # of the container, where it has a limit
        "shm_gb": shutil.disk_usage("/dev/shm").total / GB if os.path.isdir("/dev/shm") else 0.0,
        "resolves": resolves,
        "interface": os.environ.get("GLOO_SOCKET_IFNAME") or os.environ.get("NCCL_SOCKET_IFNAME") or "",
        "wandb_key": has_key(),
    }


def gpu_versions() -> dict[str, str]:
    """Versions of the driver, CUDA and NCCL; empty without a GPU."""
    if not torch.cuda.is_available():
        return {}
    found = {"cuda": torch.version.cuda or "", "nccl": ".".join(map(str, nccl.version()))}
    with suppress(OSError, subprocess.SubprocessError):
        words = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True)
        found["driver"] = done.stdout.split()[0] if done.stdout.strip() else ""
    return found


def code_hash(package: Path) -> str:
    """Seven hexadecimal digits that depend on all Python files of a package.

    Args:
        package: its folder.
    """
    content = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:7]


clock = time.time
clean = partial(shutil.rmtree, ignore_errors=True)


def write(folder: Path, name: str) -> dict[str, Any]:
    """Write, sync and rename as a checkpoint is written; the file stays for the other nodes to see.

    Args:
        folder: a folder of the storage that only this check uses; made if it is missing.
        name: of the file.
    """
    start, problems = time.monotonic(), []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for _ in range(2):  # the second one replaces the first
            content = uuid.uuid4().bytes * 65_536
            write_synced(folder / f".{name}.new", content)
            (folder / f".{name}.new").replace(folder / name)
            sync_folder(folder)
            if (folder / name).read_bytes() != content:
                problems = ["a renamed file has other content"]
        (folder / f".{name}.d").mkdir()
        (folder / f".{name}.d").rename(folder / f"{name}.d")
    except OSError as error:
        problems = [f"{error.strerror or error} ({error.filename or folder})"]
    seconds = (time.monotonic() - start) / 2
    existing = next(path for path in (folder, *folder.parents) if os.path.isdir(path))
    return {"free_gb": shutil.disk_usage(existing).free / GB, "write_seconds": seconds, "problems": problems}


def find_unseen(folder: Path, files: Mapping[str, str], timeout: float = 5.0) -> dict[str, Any]:
    """Find the nodes whose files are not visible here; a network file system may show a file some seconds late.

    Args:
        folder: as for `write`.
        files: node that wrote each file, by the file's name.
        timeout: seconds to wait for the files.
    """
    deadline = time.monotonic() + timeout
    while (missing := files.keys() - {path.name for path in folder.glob("*")}) and time.monotonic() < deadline:
        time.sleep(0.2)
    return {"unseen": tuple(files[file] for file in sorted(missing))}


def reach_wandb() -> dict[str, Any]:
    """Send a request to the W&B server; any response will do."""
    return {"problems": [problem] if (problem := unreachable()) else []}


class _Sink(socketserver.BaseRequestHandler):
    """Receives everything and confirms its end."""

    def handle(self) -> None:
        with suppress(OSError):
            while self.request.recv(1 << 20):
                pass
            self.request.sendall(b"e")


def listen() -> int:
    """Accept connections on a random port, as gloo and NCCL do, and return the port."""
    server = socketserver.ThreadingTCPServer(("", 0), _Sink)
    server.daemon_threads = True
    server.socket.listen(128)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_address[1]


def connect(targets: Sequence[tuple[str, str, int]], measured: str, timeout: float = 5.0) -> dict[str, Any]:
    """Measure the latency to all other nodes, and the bandwidth to one.

    Args:
        targets: name, address and port of each.
        measured: name of the one to which the bandwidth is measured.
        timeout: seconds for a connection.
    """
    latency, bandwidth, problems = {}, {}, []

    def attempt(target: tuple[str, str, int], measure: Callable[..., float], values: dict[str, float]) -> None:
        name, *address = target
        try:
            values[name] = measure(tuple(address), timeout)
        except OSError as error:
            problems.append(f"no connection to {name}: {error.strerror or error} (port {address[1]})")

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda target: attempt(target, _latency, latency), targets))
    for target in targets:
        if target[0] == measured and measured in latency:
            attempt(target, _bandwidth, bandwidth)
    return {"latency_ms": latency, "bandwidth_mb": bandwidth, "problems": sorted(problems)}


def _latency(address: tuple[str, int], timeout: float) -> float:
    """Milliseconds of the quickest of five handshakes: a round trip."""
    return 1000 * min(timeit.repeat(lambda: socket.create_connection(address, timeout).close(), number=1, repeat=5))


def _bandwidth(address: tuple[str, int], timeout: float) -> float:
    """MB/s of sending 64 MB, or for 0.3 s; the time ends when the other side has received all."""
    with socket.create_connection(address, timeout) as connection:
        connection.settimeout(30.0)
        block, sent, start = bytes(1 << 16), 0, time.perf_counter()
        while sent < 64_000_000 and time.perf_counter() < start + 0.3:
            sent += connection.send(block)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
        return sent / 1e6 / (time.perf_counter() - start)


def open_store(world_size: int) -> int:
    """Open the store through which processes find each other, and return its random port.

    Args:
        world_size: number of these processes.
    """
    _stores.append(TCPStore("0.0.0.0", 0, world_size, is_master=True, wait_for_workers=False))
    return _stores[-1].port


def all_reduce(rank: int, world_size: int, address: str, port: int, backend: str, timeout: float) -> dict[str, Any]:
    """Measure an all-reduce together with all other training nodes.

    Args:
        rank: of this process.
        world_size: number of processes.
        address: of the store's node.
        port: of the store.
        backend: gloo or nccl.
        timeout: seconds to wait for the others.
    """
    limit = timedelta(seconds=timeout)
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")

    def seconds(size: int) -> float:
        values = torch.ones(size, device=device)
        start = time.perf_counter()
        dist.all_reduce(values)
        total = values[[0, -1]].tolist()  # waits for the device
        elapsed = time.perf_counter() - start
        if total != [world_size, world_size]:
            raise RuntimeError(f"the sum of {world_size} ones is {total[0]}")
        return elapsed

    store = TCPStore(address, port, world_size, is_master=False, timeout=limit)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    try:
        latency = sorted(seconds(1) for _ in range(20))[10]
        size = 1_000_000  # float32: 4 MB
        bandwidth = 2 * (world_size - 1) / world_size * 4 * size / 1e6 / min(seconds(size) for _ in range(3))
    finally:
        dist.destroy_process_group()
    return {"backend": backend, "all_reduce_ms": 1000 * latency, "all_reduce_mb": bandwidth}
