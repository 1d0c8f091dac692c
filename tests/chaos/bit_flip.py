"""Flip a bit in another process's memory, as faulty hardware does; the place is found by the numbers around it."""

import signal
from collections.abc import Iterator
from contextlib import suppress
from os import kill
from pathlib import Path
from typing import BinaryIO

import numpy as np

CHUNK = 1 << 26
"""Bytes that are read at a time."""


def flip(pid: int, numbers: np.ndarray, *, within: float, bit: int = 20) -> int:
    """Flip a bit wherever a process's memory holds about these numbers; return the number of places.

    The process is stopped meanwhile. Root may do it to any process; others mostly may not.

    Args:
        pid: of the process.
        numbers: float32, (n,), as they were a moment ago; enough of them to be found nowhere else by chance.
        within: how much each may have changed since.
        bit: of the first number; 20 changes it by about a tenth.

    Raises:
        OSError: the system does not allow it, or there is no such process.
    """
    wanted = np.asarray(numbers, np.float32)
    kill(pid, signal.SIGSTOP)
    try:
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            places = [place for start, end in _writable(pid) for place in _found(memory, start, end, wanted, within)]
            for place in places:
                memory.seek(place)
                old = int.from_bytes(memory.read(4), "little")
                memory.seek(place)
                memory.write((old ^ 1 << bit).to_bytes(4, "little"))
            return len(places)
    finally:
        with suppress(ProcessLookupError):
            kill(pid, signal.SIGCONT)


def _writable(pid: int) -> Iterator[tuple[int, int]]:
    """First and last address of each writable piece of memory that is the process's alone."""
    for line in Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines():
        addresses, rights, *rest = line.split(maxsplit=5)
        if rights == "rw-p" and not (len(rest) == 4 and rest[3].startswith("[v")):
            start, _, end = addresses.partition("-")
            yield int(start, 16), int(end, 16)


def _found(memory: BinaryIO, start: int, end: int, wanted: np.ndarray, within: float) -> Iterator[int]:
    """Addresses at which all of `wanted` follow one another, in a piece of memory; chunks overlap by their length."""
    size = 4 * len(wanted)
    for first in range(start, end, CHUNK):
        memory.seek(first)
        with suppress(OSError):  # unmapped or never touched
            content = memory.read(min(CHUNK + size - 4, end - first))
            numbers = np.frombuffer(content, np.float32, count=len(content) // 4)
            if len(numbers) < len(wanted):
                continue
            with np.errstate(all="ignore"):
                places = np.flatnonzero(np.abs(numbers[: len(numbers) - len(wanted) + 1] - wanted[0]) <= within)
                for offset in range(1, len(wanted)):
                    places = places[np.abs(numbers[places + offset] - wanted[offset]) <= within]
            yield from (first + 4 * int(place) for place in places)
