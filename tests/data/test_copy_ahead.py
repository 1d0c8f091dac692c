"""Copies ahead of their use, with stand-ins for CUDA's streams: a copy arrives only where a stream waits for it."""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganscale.config import ConfigError
from ganscale.data import copy_ahead, folder
from ganscale.data.copy_ahead import CopyAhead
from ganscale.data.folder import FolderSource
from tests.data.test_folder import png

CUDA = torch.device("cuda", 0)
Event = list[tuple[Tensor, Tensor]]


class Gpu:
    """Streams whose copies are done when another stream waits for an event after them; `calls` has their order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.computing = self.current = Stream(self)

    def upload(self, tensor: Tensor, device: torch.device) -> Tensor:
        if self.current is self.computing:
            return tensor
        assert device == CUDA
        self.calls.append(f"copy {int(tensor.flatten()[0])}")
        target = torch.full_like(tensor, 99)
        self.current.copies.append((target, tensor))
        return target

    @contextmanager
    def stream(self, stream: "Stream") -> Iterator[None]:
        self.current = stream
        yield
        self.current = self.computing

    def record_stream(self, tensor: Tensor, stream: "Stream") -> None:
        assert stream is self.computing
        self.calls.append(f"keep {int(tensor.flatten()[0])}")


class Stream:
    """Stands in for `torch.cuda.Stream`."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.copies: Event = []

    def record_event(self) -> Event:
        return list(self.copies)

    def wait_event(self, event: Event) -> None:
        assert self is self.gpu.computing
        self.gpu.calls.append("wait")
        for target, source in event:
            target.copy_(source)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    gpu = Gpu()
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: Stream(gpu))
    monkeypatch.setattr(torch.cuda, "stream", gpu.stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: gpu.computing)
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, stream: gpu.record_stream(tensor, stream))
    for module in (copy_ahead, folder):
        monkeypatch.setattr(module, "upload", gpu.upload)
    return gpu


def test_a_batch_is_copied_while_the_one_before_is_used(gpu: Gpu) -> None:
    ahead = CopyAhead(((torch.full((2, 3), number),) for number in itertools.count()), CUDA)
    (first,) = next(ahead)
    assert gpu.calls == ["copy 0", "copy 1", "wait", "keep 0"]
    (second,) = next(ahead)
    assert gpu.calls[4:] == ["copy 2", "wait", "keep 1"]
    assert [batch.unique().tolist() for batch in (first, second)] == [[0], [1]]


@pytest.mark.parametrize("broken", [0, 2])
def test_what_fails_is_raised_when_it_is_due_and_from_then_on(gpu: Gpu, broken: int) -> None:
    """The iterator of a DataLoader goes on after an error, with the batch after it."""

    def batch(number: int) -> tuple[Tensor]:
        if number == broken:
            raise ValueError("broken")
        return (torch.full((2,), number),)

    ahead = CopyAhead(map(batch, itertools.count()), CUDA)
    assert [int(next(ahead)[0][0]) for _ in range(broken)] == list(range(broken))
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            next(ahead)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Twelve pictures of different gray in two classes."""
    for index in range(12):
        path = tmp_path / "pictures" / ("cats" if index < 6 else "dogs") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png((20 * index, 20 * index, 20 * index)))
    return tmp_path / "pictures"


def reads_from(start: int) -> Callable[[], Iterator[tuple[int, int]]]:
    return lambda: ((first, first + 4) for first in range(start, 10**9, 4))


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_a_folder_gives_a_gpu_the_same_batches_after_each_return(gpu: Gpu, pictures: Path) -> None:
    plain = FolderSource(pictures, 8, seed=1, device=torch.device("cpu"))
    source = FolderSource(pictures, 8, seed=1, device=CUDA, num_workers=1)
    for begin in (8, 0):
        source.expect(reads_from(begin))
        for start in range(begin, begin + 12, 4):
            torch.testing.assert_close(source.read(start, start + 4), plain.read(start, start + 4), rtol=0, atol=0)
    assert gpu.calls.count("wait") == 6
    for start, stop in ((0, 3), (12, 16)):  # not expected
        torch.testing.assert_close(source.read(start, stop), plain.read(start, stop), rtol=0, atol=0)
    assert gpu.calls.count("wait") == 6


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_a_broken_picture_is_named_when_its_batch_is_read(gpu: Gpu, pictures: Path) -> None:
    source = FolderSource(pictures, 8, seed=1, device=CUDA, num_workers=1)
    broken = source._pictures.contents.name(int(source._order.rows(4, 8)[2]))
    (pictures / broken).write_bytes(b"not a png")
    source.expect(reads_from(0))
    source.read(0, 4)
    with pytest.raises(ConfigError, match=broken) as caught:
        source.read(4, 8)
    assert caught.value.key == "data.path"
