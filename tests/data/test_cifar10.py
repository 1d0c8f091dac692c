"""CIFAR-10 through torchvision, on files of the real layout."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from ganscale.config import load
from ganscale.data.cifar10 import load_cifar10
from ganscale.training.build import build_source


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Five tiny batches and the names of the classes, with torchvision's checksums switched off."""
    root = tmp_path / CIFAR10.base_folder
    root.mkdir()
    for part in range(1, 6):
        pixels = np.full((2, 3072), 10 * part, np.uint8)
        (root / f"data_batch_{part}").write_bytes(pickle.dumps({"data": pixels, "labels": [part, part + 1]}))
    (root / "batches.meta").write_bytes(pickle.dumps({"label_names": [str(i) for i in range(10)]}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    return tmp_path


def test_images_and_labels(files: Path) -> None:
    images, labels = load_cifar10(files)
    assert images.shape == (10, 3, 32, 32)
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == [10, 10, 20, 20, 30, 30, 40, 40, 50, 50]
    assert labels.tolist() == [1, 2, 2, 3, 3, 4, 4, 5, 5, 6]


def test_as_a_source(files: Path) -> None:
    config = load(overrides=["data.name=cifar10", f"data.path={files}", "data.resolution=32"])
    source = build_source(config, torch.device("cpu"))
    images, _ = source.read(0, 10)
    assert images.shape == (10, 3, 32, 32)
    assert source.num_classes == 10


def test_missing_or_altered_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="cifar-10-batches-py"):
        load_cifar10(tmp_path)
