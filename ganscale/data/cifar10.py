"""CIFAR-10 (Krizhevsky 2009) from files that the user has; nothing is downloaded."""

from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ganscale.config import Config
from ganscale.data.images import ImageSource, held_out_reader
from ganscale.data.source import LabeledReader


def load_cifar10(path: Path, split: Literal["train", "test"] = "train") -> tuple[Tensor, Tensor]:
    """Read a split: images uint8 `[N, 3, 32, 32]` and labels int64 `[N]`; N is 50,000 or 10,000.

    Args:
        path: the folder that holds `cifar-10-batches-py/`, whose files torchvision checks against their checksums.
        split: which of the two.

    Raises:
        FileNotFoundError: the files are not there or not the originals.
    """
    from torchvision.datasets import CIFAR10  # slow to import, and needed here alone

    try:
        data = CIFAR10(str(path), train=split == "train", download=False)
    except RuntimeError:
        raise FileNotFoundError(f"no intact cifar-10-batches-py/ in {path}") from None
    return torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(data.targets)


@lru_cache(maxsize=1)
def _test_images(path: Path) -> tuple[Tensor, Tensor]:
    """The test split, read once for all that needs it in one process: D's probe and evaluations."""
    return load_cifar10(path, "test")


def open_cifar10(config: Config, device: torch.device, dtype: torch.dtype) -> ImageSource:
    """The training images of a run.

    Args:
        config: the run.
        device: where the images are kept.
        dtype: of the normalized images.
    """
    images, labels = load_cifar10(Path(config.data.path).expanduser())
    return ImageSource(images, labels, 10, seed=config.run.seed, device=device, dtype=dtype, mirror=config.data.mirror)


def held_out_images(config: Config, count: int, seed: int) -> LabeledReader:
    """Random test images.

    Args:
        config: the run.
        count: how many; with replacement if above 10,000.
        seed: of the draw.
    """
    return held_out_reader(*_test_images(Path(config.data.path).expanduser()), count, seed)
