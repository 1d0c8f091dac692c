"""Image sources: every epoch shows each image once, in an order that position and seed alone decide."""

import pytest
import torch
from torch import Tensor

from ganscale.data import ImageSource, StackedSource
from ganscale.data.images import normalize

CPU = torch.device("cpu")
SIZE = 23


def digits(count: int = SIZE) -> tuple[Tensor, Tensor]:
    """Image i is filled with i, its label is i mod 10."""
    numbers = torch.arange(count)
    return numbers.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous(), numbers % 10


def source(seed: int = 0, dtype: torch.dtype = torch.float32) -> ImageSource:
    return ImageSource(*digits(), 10, seed=seed, device=CPU, dtype=dtype)


def shown(images: Tensor) -> list[int]:
    """Which images were read."""
    return ((images[:, 0, 0, 0] + 1.0) * 127.5).round().long().tolist()


def test_each_epoch_is_another_permutation() -> None:
    epochs = [shown(source().read(epoch * SIZE, (epoch + 1) * SIZE)[0]) for epoch in range(4)]
    assert all(sorted(epoch) == list(range(SIZE)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert shown(source(seed=1).read(0, SIZE)[0]) != epochs[0]


def test_position_alone_decides() -> None:
    """Reads of any size, across borders of epochs, forwards and backwards, and from a fresh source."""
    whole, labels = source().read(0, 5 * SIZE)
    used = source()
    for start, stop in [(0, 1), (20, 26), (22, 24), (23, 46), (0, 5 * SIZE), (90, 100), (5, 70), (3, 9), (45, 47)]:
        for reader in (used, source()):
            images, classes = reader.read(start, stop)
            assert torch.equal(images, whole[start:stop]), (start, stop)
            assert torch.equal(classes, labels[start:stop])


def test_labels_go_with_their_images() -> None:
    images, labels = source().read(10, 60)
    assert labels.tolist() == [number % 10 for number in shown(images)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bytes_become_numbers_from_minus_one_to_one(dtype: torch.dtype) -> None:
    numbers = normalize(torch.arange(256, dtype=torch.uint8), dtype)
    assert numbers.dtype == dtype
    assert numbers.min() >= -1.0
    assert numbers.max() <= 1.0
    torch.testing.assert_close(numbers.double(), torch.linspace(-1, 1, 256, dtype=torch.float64), rtol=0.0, atol=1e-6)
    assert (numbers.diff() > 0).all()
    assert source(dtype=dtype).read(0, 3)[0].dtype == dtype


def stacked(num_images: int, seed: int = 0) -> StackedSource:
    images, labels = digits(200)
    return StackedSource(images, labels, num_images, seed=seed, device=CPU)


def test_stacked_images_are_three_digits_and_say_so() -> None:
    images, labels = stacked(500).read(0, 500)
    assert images.shape == (500, 3, 2, 2)
    numbers = ((images[:, :, 0, 0] + 1.0) * 127.5).round().long()
    assert torch.equal(labels, (numbers % 10) @ torch.tensor([100, 10, 1]))
    assert torch.equal(images.amin((2, 3)), images.amax((2, 3)))


def test_stacked_images_hold_all_classes_alike() -> None:
    triples = stacked(30_000)
    _, labels = triples.read(0, 30_000)
    counts = torch.bincount(labels, minlength=1000)
    assert triples.num_classes == 1000 == counts.numel()
    assert counts.min() > 5
    chi_square = ((counts - 30.0).square() / 30.0).sum().item()
    assert abs(chi_square - 999) < 4 * (2 * 999) ** 0.5


def test_stacked_images_stay_the_same_in_every_epoch() -> None:
    def as_set(images: Tensor) -> set[tuple[float, ...]]:
        return {tuple(row) for row in images[:, :, 0, 0].tolist()}

    triples = stacked(40)
    first, second = (triples.read(epoch * 40, epoch * 40 + 40)[0] for epoch in range(2))
    assert as_set(first) == as_set(second)
    assert not torch.equal(first, second)
    assert as_set(first) != as_set(stacked(40, seed=1).read(0, 40)[0])
