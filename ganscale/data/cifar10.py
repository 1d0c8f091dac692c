"""CIFAR-10 (Krizhevsky 2009) from files that the user has; nothing is downloaded."""

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor


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
