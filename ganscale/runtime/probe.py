"""What the doctor looks at on one node; all as plain values, so that nodes with other versions can answer as well."""

import hashlib
import importlib.metadata
import os
import platform
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import ganscale
from ganscale.storage.files import sync_folder, write_synced

GB = 1e9
_BLOCK = bytes(1 << 16)
_SEND_SECONDS, _SEND_BYTES = 0.3, 64_000_000


def describe() -> dict[str, Any]:
    """Versions, GPUs, memory, /dev/shm and name, as fields of `diagnosis.Node`."""
    total, available = _memory()
    return {
        "versions": {
            "python": platform.python_version(),
            "ray": _version("ray"),
            "torch": _version("torch"),
            "ganscale": f"{ganscale.__version__} ({state_hash(Path(ganscale.__path__[0]))})",
        },
        "gpus": _gpus(),
        "memory_gb": total,
        "available_gb": available,
        "shm_gb": _size("/dev/shm"),
        "resolves": _resolve(socket.gethostname()),
        "interface": os.environ.get("GLOO_SOCKET_IFNAME") or os.environ.get("NCCL_SOCKET_IFNAME") or "",
        "wandb_key": _has_key(),
    }


def _has_key() -> bool:
    from ganscale.tracking.wandb_account import has_key

    return has_key()


def state_hash(package: Path) -> str:
    """Seven digits that change when a Python file of a package does."""
    content = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        content.update(str(path.relative_to(package)).encode() + b"\0" + path.read_bytes())
    return content.hexdigest()[:7]


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _gpus() -> tuple[str, ...]:
    import torch

    return tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _memory() -> tuple[float, float]:
    """Total and available memory in GB, of the container where it is smaller than the machine's."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    total = get_system_memory()
    return total / GB, (total - get_used_memory()) / GB


def _size(folder: str) -> float:
    with suppress(OSError):
        return shutil.disk_usage(folder).total / GB
    return 0.0


def _resolve(name: str) -> str:
    with suppress(OSError):
        return socket.gethostbyname(name)
    return ""


def write(folder: Path, name: str) -> dict[str, Any]:
    """Write, sync and rename as a checkpoint is written; leaves a file for the other nodes to see.

    Args:
        folder: a new folder on the storage, for this check alone.
        name: of the file.

    Returns:
        Fields of `diagnosis.Storage`.
    """
    start = time.monotonic()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free / GB
        place = folder / name
        for _ in range(2):  # the second takes the first one's place
            content = uuid.uuid4().bytes * 65_536
            aside = folder / f".{name}.new"
            write_synced(aside, content)
            aside.replace(place)
            sync_folder(folder)
            if place.read_bytes() != content:
                return {"problem": "a renamed file has other content", "free_gb": free}
        (folder / f".{name}.d").mkdir()
        (folder / f".{name}.d").rename(folder / f"{name}.d")
    except OSError as error:
        return {"problem": f"{error.strerror or error} ({error.filename or folder})", "free_gb": _free(folder)}
    return {"free_gb": free, "seconds": (time.monotonic() - start) / 2}


def _free(folder: Path) -> float:
    """Free space of the nearest folder that is there, in GB."""
    for place in (folder, *folder.parents):
        with suppress(OSError):
            return shutil.disk_usage(place).free / GB
    return 0.0


def look(folder: Path, names: Sequence[str], patience: float = 5.0) -> list[str]:
    """Which of the files `names` are not seen; a network file system may show them some seconds late."""
    until = time.monotonic() + patience
    while True:
        try:
            here = set(os.listdir(folder))
        except OSError:
            here = set()
        missing = [name for name in names if name not in here]
        if not missing or time.monotonic() > until:
            return missing
        time.sleep(0.2)


def clean(folder: Path) -> None:
    """Remove what `write` left."""
    shutil.rmtree(folder, ignore_errors=True)


def reach_wandb() -> str:
    """Why W&B cannot be reached from here; empty when it answers, whatever it says."""
    from ganscale.tracking.wandb_account import unreachable

    return unreachable()


def listen() -> int:
    """Take connections on a random port, as gloo and NCCL do, and return it."""
    server = socket.create_server(("", 0), backlog=128)
    threading.Thread(target=_serve, args=(server,), daemon=True).start()
    return server.getsockname()[1]


def _serve(server: socket.socket) -> None:
    while True:
        connection, _ = server.accept()
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    """Send back the first bytes, one by one; swallow the rest and say so."""
    with connection, suppress(OSError):
        connection.settimeout(60.0)
        while connection.recv(1) == b"p":
            connection.sendall(b"p")
        while connection.recv(1 << 20):
            pass
        connection.sendall(b"e")


def connect(targets: Sequence[tuple[str, str, int]], measured: str, patience: float = 5.0) -> dict[str, dict[str, Any]]:
    """Try every other node.

    Args:
        targets: name, address and port of each.
        measured: name of the one to which the speed is measured.
        patience: seconds for a connection.

    Returns:
        Fields of `diagnosis.Link` by name.
    """
    with ThreadPoolExecutor(16) as pool:
        links = dict(
            zip((name for name, _, _ in targets), pool.map(lambda t: _ping(t[1], t[2], patience), targets), strict=True)
        )
    for name, address, port in targets:
        if name == measured and "problem" not in links[name]:
            links[name] |= _speed(address, port)
    return links


def _ping(address: str, port: int, patience: float) -> dict[str, Any]:
    try:
        with socket.create_connection((address, port), timeout=patience) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            best = patience
            for _ in range(10):
                start = time.perf_counter()
                connection.sendall(b"p")
                connection.recv(1)
                best = min(best, time.perf_counter() - start)
            return {"milliseconds": 1000 * best}
    except OSError as error:
        return {"problem": f"{error.strerror or error} (port {port})"}


def _speed(address: str, port: int) -> dict[str, Any]:
    """Send for a moment; the time ends when the other side has it all."""
    try:
        with socket.create_connection((address, port), timeout=30.0) as connection:
            connection.sendall(b"s")
            sent, start = 0, time.perf_counter()
            while sent < _SEND_BYTES and time.perf_counter() < start + _SEND_SECONDS:
                sent += connection.send(_BLOCK)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)
            return {"megabytes": sent / 1e6 / (time.perf_counter() - start)}
    except OSError as error:
        return {"problem": f"{error.strerror or error} (port {port})"}


def open_store(world_size: int) -> tuple[Any, int]:
    """The meeting place of a process group, on a random port; to be kept while the group lives."""
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    store = TCPStore("0.0.0.0", 0, world_size, is_master=True, wait_for_workers=False)
    return store, store.port


def all_reduce(rank: int, world_size: int, address: str, port: int, backend: str, patience: float) -> dict[str, Any]:
    """Reduce together with all other nodes.

    Returns:
        Fields of `diagnosis.AllReduce`.
    """
    import torch
    import torch.distributed as dist
    from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]

    limit = timedelta(seconds=patience)
    device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
    store = TCPStore(address, port, world_size, is_master=False, timeout=limit)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=limit)
    try:
        small = sorted(_time_reduction(torch.ones(1, device=device)) for _ in range(20))[10]
        size = 250_000  # numbers: a megabyte
        seconds = max(_time_reduction(torch.ones(size, device=device)) for _ in range(2))
        slowest = torch.tensor([seconds], device=device)
        dist.all_reduce(slowest, dist.ReduceOp.MAX)
        if slowest.item() < 0.2:
            size *= 256 if backend == "nccl" else 16
            seconds = min(_time_reduction(torch.ones(size, device=device)) for _ in range(3))
        moved = 2 * (world_size - 1) / world_size * 4 * size
        return {"milliseconds": 1000 * small, "megabytes": moved / 1e6 / seconds}
    finally:
        dist.destroy_process_group()


def _time_reduction(values: Any) -> float:
    """Seconds of an all-reduce.

    Raises:
        RuntimeError: the sum is wrong.
    """
    import torch
    import torch.distributed as dist

    start = time.perf_counter()
    dist.all_reduce(values)
    if values.device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if values[0].item() != dist.get_world_size() or values[-1].item() != dist.get_world_size():
        raise RuntimeError(f"the sum of {dist.get_world_size()} ones is {values[0].item()}")
    return seconds
