"""Which snapshots of averages there are: the rule, kill and resume, rollbacks, and a run in a bucket."""

from pathlib import Path

import pytest
import torch

from ganscale.config import ConfigError
from ganscale.run.callback import Callback
from ganscale.storage.averages import SnapshotError, drop_after, numbers, read, read_iteration, stride, write
from tests.run.test_session import run

AVERAGES = {"0.05": {"a.weight": torch.ones(3)}, "0.1": {"a.weight": torch.zeros(3, dtype=torch.float64)}}
RUN = ("train.images=1200", "checkpoint.every=480", "ema.profiles=[0.05, 0.1]", "ema.snapshot_every=60")


def test_few_are_kept_at_equal_distances(tmp_path: Path) -> None:
    folder = tmp_path / "averages"
    for number in range(1, 101):
        write(folder, 10 * number, number, AVERAGES, every=10, most=8)
        step = stride(number, 8)
        assert list(numbers(folder)) == [10 * each for each in range(1, number + 1) if each % step == 0]
        assert 4 <= len(numbers(folder)) <= 8 or number < 4
    assert stride(100, 8) == 16
    drop_after(folder, 500)
    assert list(numbers(folder)) == [160, 320, 480]


def test_a_snapshot_reads_back_and_damage_is_found(tmp_path: Path) -> None:
    write(tmp_path, 20, 5, AVERAGES, every=10, most=8)
    snapshot = read(tmp_path, 20)
    assert snapshot.iteration == read_iteration(tmp_path, 20) == 5
    for width, weights in AVERAGES.items():
        for name, each in weights.items():
            torch.testing.assert_close(snapshot.averages[width][name], each, rtol=0.0, atol=0.0)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    for damaged in (content[:-1], content[:20], b"", content[:-1] + bytes([content[-1] ^ 1])):
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError, match=path.name):
            read(tmp_path, 20)
    for damaged in (content[:20], b"", b"\xff" * 8 + content[8:], content[:8] + b"{}"):
        path.write_bytes(damaged)
        with pytest.raises(SnapshotError, match=path.name):
            read_iteration(tmp_path, 20)


class KilledError(Exception):
    """In place of a kill."""


class KillAt(Callback):
    """Ends the process, as it were, at a tick."""

    def __init__(self, images: int) -> None:
        self._images = images

    def on_tick(self, tick, session) -> None:
        if tick.images == self._images:
            raise KilledError


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "run" / "averages").iterdir()}


@pytest.mark.parametrize("most", ["64", "8"])
def test_a_resumed_run_writes_the_same_snapshots(most: str, tmp_path: Path) -> None:
    limits = (*RUN, f"ema.snapshots={most}")
    run(tmp_path / "whole", *limits)
    for images in (900, 540):  # killed twice: between checkpoints, and before one
        with pytest.raises(KilledError):
            run(tmp_path / "killed", *limits, callbacks=(KillAt(images),))
        assert files(tmp_path / "killed")
    run(tmp_path / "killed", *limits)
    wanted = files(tmp_path / "whole")
    assert len(wanted) == {"64": 20, "8": 5}[most]
    assert files(tmp_path / "killed") == wanted


def test_the_averages_belong_to_the_runs_settings(tmp_path: Path) -> None:
    run(tmp_path, *RUN)
    with pytest.raises(ConfigError, match="profiles"):
        run(tmp_path, *RUN, "ema.profiles=[0.05]")
