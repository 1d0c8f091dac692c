"""The bundled MNIST is the real one, at any resolution."""

import gzip
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganscale.config import load
from ganscale.data import mnist
from ganscale.data.mnist import fit, load_mnist

HISTOGRAMS = {
    "train": [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    "test": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
}
MOMENTS = {"train": (0.1307, 0.3081), "test": (0.1325, 0.3105)}


@pytest.mark.parametrize("split", ["train", "test"])
def test_counts_labels_and_moments_are_the_published_ones(split) -> None:
    images, labels = load_mnist(split)
    assert images.dtype == torch.uint8
    assert images.shape == (sum(HISTOGRAMS[split]), 1, 28, 28)
    assert len(images) == {"train": 60_000, "test": 10_000}[split]
    assert labels.dtype == torch.int64
    assert torch.bincount(labels).tolist() == HISTOGRAMS[split]
    numbers = images.double() / 255.0
    mean, std = MOMENTS[split]
    assert numbers.mean().item() == pytest.approx(mean, abs=5e-5)
    assert numbers.std().item() == pytest.approx(std, abs=5e-5)


def test_the_first_digits_are_upright() -> None:
    """The fourth is a 1: taller than it is wide."""
    images, labels = load_mnist()
    assert labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    one = images[3, 0] > 0
    height, width = one.any(1).sum(), one.any(0).sum()
    assert height >= 18
    assert width <= 14


@pytest.mark.parametrize("resolution", [8, 16, 28, 32, 64])
def test_other_resolutions_keep_the_picture(resolution: int) -> None:
    images = load_mnist("test")[0][:500]
    fitted = fit(images, resolution)
    assert fitted.dtype == torch.uint8
    assert fitted.shape == (500, 1, resolution, resolution)
    brightness = [pictures.double().mean(dim=(1, 2, 3)) for pictures in (images, fitted)]
    if resolution == 32:
        assert torch.equal(fitted[:, :, 2:-2, 2:-2], images)
        brightness[1] *= 32**2 / 28**2
    torch.testing.assert_close(brightness[1], brightness[0], rtol=0.05, atol=0.5)


def _damage(folder: Path, change) -> None:
    content = gzip.decompress((mnist.FILES / "t10k-labels-idx1-ubyte.gz").read_bytes())
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(change(content)))
    name = "t10k-images-idx3-ubyte.gz"
    (folder / name).write_bytes((mnist.FILES / name).read_bytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: b"\0\0\x08\x05" + content[4:], "wrong magic number"),
        (lambda content: content[:-7], "holds 9993 bytes, not 10000"),
    ],
    ids=["magic", "short"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, monkeypatch, change, words: str) -> None:
    _damage(tmp_path, change)
    monkeypatch.setattr(mnist, "FILES", tmp_path)
    with pytest.raises(ValueError, match=words):
        load_mnist("test")


def test_a_missing_file_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(mnist, "FILES", tmp_path)
    with pytest.raises(FileNotFoundError, match="train-images"):
        load_mnist()


def test_images_may_be_written_to() -> None:
    images: Tensor = load_mnist("test")[0]
    images[0] = 1


def test_held_out_digits_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    monkeypatch.setattr(mnist, "load_mnist", lambda *split: reads.append(split) or load_mnist(*split))
    mnist.digits.cache_clear()
    config = load(overrides=["data.resolution=8"])
    few, many = (mnist.held_out_digits(config, count, count)(0, 5)[0] for count in (5, 20_000))
    assert not torch.equal(few, many)
    assert reads == [("test", 8)]
