"""`python -m benchmarks.speed saving`: what saving costs the training loop, inline and in a thread, on slow storage."""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any
from unittest.mock import patch

import torch

from benchmarks.speed.command import changed, configs_of, device_of, markdown, write_json
from benchmarks.speed.measure import Spread, machine
from ganscale.config import Config
from ganscale.health.policy import Decision
from ganscale.run.checkpointing import Checkpointer
from ganscale.run.stop_signal import StopReason, StopSignal
from ganscale.run.trackers import TrackerCallback
from ganscale.storage import checkpoint
from ganscale.storage.run_dir import RunDir, checkpoint_store
from ganscale.training.build import Experiment, build
from ganscale.training.loop import train

WAYS = ("none", "inline", "async")
SESSION = SimpleNamespace(
    decision=Decision(),
    metrics={},
    evaluation=None,
    late_evaluations=[],
    pending_evaluations=(),
    stop_reason=StopReason.NONE,
)
"""What a `Checkpointer` asks of a session."""


@dataclass(frozen=True)
class Block:
    """A few intervals of training, with a due checkpoint at the end of each.

    Attributes:
        seconds: in all.
        cpu: seconds of the training thread on a processor.
        paused: seconds in which training stood still for saving.
        paused_cpu: of these, seconds on a processor; where nothing else runs, all but waiting for storage or a GPU.
    """

    seconds: float
    cpu: float
    paused: float
    paused_cpu: float


class SlowFile:
    """A file that takes no more than so many bytes per second.

    Args:
        file: takes the bytes.
        rate: bytes per second.
    """

    def __init__(self, file: IO[bytes], rate: float) -> None:
        self._file, self._rate, self._until = file, rate, 0.0

    def write(self, part: Any) -> int:
        """Write, and return when a slow storage would have taken it.

        Args:
            part: bytes.
        """
        written = self._file.write(part)
        self._until = max(self._until, time.monotonic()) + len(part) / self._rate
        time.sleep(max(0.0, self._until - time.monotonic()))
        return written

    def flush(self) -> None:
        """Flush the file."""
        self._file.flush()


@contextmanager
def slow_storage(rate: float) -> Iterator[None]:
    """Slow down what checkpoints' states are written to while the block runs.

    Args:
        rate: bytes per second.
    """
    write = checkpoint.write_state

    def slowed(file: IO[bytes], state: Mapping[str, Any]) -> dict[str, Any]:
        return write(SlowFile(file, rate), state)  # pyright: ignore[reportArgumentType]

    with patch.object(checkpoint, "write_state", slowed):
        yield


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {}
    for title, config in configs_of(options).items():
        device = device_of(config)
        print(", ".join(f"{key} {value}" for key, value in machine(device).items()), flush=True)
        found = measure(config, device, options)
        print(f"\n{title}\n\n{table(found, options.intervals, options.seconds)}", flush=True)
        report[title] = {way: [asdict(block) for block in blocks] for way, blocks in found.items()}
    write_json(options.json, report)
    return 0


def measure(config: Config, device: torch.device, options: argparse.Namespace) -> dict[str, list[Block]]:
    """Train blocks in turn without saving, with saving inline, and in a thread; all go on from the same state.

    What is still being written at the end of a block is waited for before the next one, and not counted.

    Args:
        config: of the run; its checkpoints are replaced.
        device: to train on.
        options: `seconds` and `rate`, `intervals` per block, `rounds`.
    """
    experiment = build(config, device=device)
    clock = "wall" if device.type == "cuda" else "processor"
    images = _images_in(experiment, options.seconds)
    size = sum(each.nbytes for each in checkpoint_tensors(experiment.state.state_dict()))
    print(
        f"state of {size / 1e6:.0f} MB, due every {images:,} images (about {options.seconds:g} s of {clock} time), "
        f"storage of {options.rate:g} MB/s, blocks of {options.intervals} intervals",
        flush=True,
    )
    found: dict[str, list[Block]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as path, slow_storage(1e6 * options.rate):
        savers = {way: _checkpointer(experiment, Path(path) / way, way, images) for way in WAYS[1:]}
        for number in range(options.rounds):
            for way in WAYS if number % 2 else reversed(WAYS):
                found[way].append(_block(experiment, savers.get(way), images, options.intervals))
                print(f"round {number + 1}, {way}: {found[way][-1]}", flush=True)
        for saver in savers.values():
            saver.on_end(None, completed=True)
    return found


def checkpoint_tensors(state: Any) -> Iterator[torch.Tensor]:
    """The tensors of a state.

    Args:
        state: nested mappings.
    """
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from checkpoint_tensors(value)


def _images_in(experiment: Experiment, seconds: float) -> int:
    """Images that are trained in so many seconds, a multiple of an iteration's; on the CPU of this thread's time."""
    step = experiment.sampler.images_per_iteration
    clock = time.perf_counter if experiment.device.type == "cuda" else time.thread_time
    count, took = 2, 0.0
    while took < min(4.0, seconds):
        count *= 2
        started = clock()
        _advance(experiment, count * step, lambda tick: None)
        took = clock() - started
    return step * max(1, round(count * seconds / took))


def _advance(experiment: Experiment, images: int, call: Callable[[Any], None], every: int = 0) -> None:
    until = experiment.state.images + images
    intervals = {"checkpoint": every} if every else {}
    for tick in train(experiment, intervals=intervals, until=until):
        call(tick)


def _checkpointer(experiment: Experiment, folder: Path, way: str, images: int) -> Checkpointer:
    settings = {"mode": way, "every": images, "keep": 1, "best_metric": ""}
    config = changed(experiment.config, checkpoint=settings)
    run = RunDir(folder)
    trackers = TrackerCallback([], run, lambda line: print(f"  {way}: {line}", flush=True))
    ours = SimpleNamespace(config=config, state=experiment.state)
    signal = StopSignal(experiment.device)
    return Checkpointer(checkpoint_store(config, run), ours, trackers, signal, remembered=run.interval)  # pyright: ignore[reportArgumentType]


def _block(experiment: Experiment, saver: Checkpointer | None, images: int, intervals: int) -> Block:
    paused = paused_cpu = 0.0

    def save(tick: Any) -> None:
        nonlocal paused, paused_cpu
        if saver:
            began, began_cpu = time.perf_counter(), time.thread_time()
            saver.on_tick(replace(tick, due=tick.due - {"end"}), SESSION)
            paused += time.perf_counter() - began
            paused_cpu += time.thread_time() - began_cpu

    started, cpu = time.perf_counter(), time.thread_time()
    _advance(experiment, intervals * images, save, images)
    if experiment.device.type == "cuda":
        torch.cuda.synchronize(experiment.device)
    block = Block(time.perf_counter() - started, time.thread_time() - cpu, paused, paused_cpu)
    if saver:
        saver.flush()
    return block


def table(found: Mapping[str, Sequence[Block]], intervals: int, seconds: float) -> str:
    """Format the blocks as a Markdown table: seconds per checkpoint or interval; ratios are of blocks of one round.

    Args:
        found: by way.
        intervals: per block.
        seconds: wanted between two checkpoints.
    """
    share = f"% of {seconds:g} s"
    rows: list[Sequence[str]] = [
        ("saving", "pause, s", "of it on a processor, s", share, "loop on a processor, s", "wall time, % more")
    ]
    for way, blocks in found.items():
        cells = [
            [each.paused / intervals for each in blocks],
            [each.paused_cpu / intervals for each in blocks],
            [100 * each.paused_cpu / intervals / seconds for each in blocks],
            [each.cpu / intervals for each in blocks],
            [100 * (each.seconds / none.seconds - 1) for each, none in zip(blocks, found["none"], strict=True)],
        ]
        spreads = zip(map(Spread.of, cells), (2, 3, 2, 2, 0), strict=True)
        rows.append((way, *(f"{c.median:.{d}f} [{c.min:.{d}f}..{c.max:.{d}f}]" for c, d in spreads)))
    return markdown(rows)
