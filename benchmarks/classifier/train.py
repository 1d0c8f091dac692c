"""Training of the MNIST classifier: the recipe behind the shipped weights."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, cross_entropy, grid_sample

from ganscale.data.images import normalize
from ganscale.data.mnist import load_mnist
from ganscale.evaluation.metrics.mnist_classifier import MNISTClassifier
from ganscale.parallel.random import Stream, derive_seed, permutation

ROTATION = 12.0
"""Largest rotation in degrees."""
ZOOM = 0.1
"""Largest relative change of size."""
SHIFT = 2.0
"""Largest shift in pixels."""


@dataclass(frozen=True)
class Progress:
    """State after an epoch: its number, from 1, the mean training loss, and the test accuracy in [0, 1]."""

    epoch: int
    loss: float
    accuracy: float


def moved(images: Tensor, numbers: Tensor) -> Tensor:
    """Rotate, resize and shift digits.

    Args:
        images: `[N, 1, H, W]` in [-1, 1].
        numbers: random numbers `[N, 4]` in [0, 1) that determine angle, zoom and shifts.
    """
    spread = numbers * 2.0 - 1.0
    angle = spread[:, 0] * math.radians(ROTATION)
    zoom = 1.0 + spread[:, 1] * ZOOM
    shift = spread[:, 2:] * (2.0 * SHIFT / images.shape[2])
    cos, sin = angle.cos() * zoom, angle.sin() * zoom
    rows = torch.stack((cos, -sin, shift[:, 0], sin, cos, shift[:, 1]), dim=1)
    grid = affine_grid(rows.view(-1, 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images + 1.0, grid, align_corners=False) - 1.0  # + 1: pads with black


@torch.no_grad()
def accuracy(classifier: MNISTClassifier, images: Tensor, labels: Tensor) -> float:
    """Share of digits that are classified correctly.

    Args:
        classifier: to evaluate; it is left in eval mode.
        images: uint8 `[N, 1, 28, 28]`.
        labels: int64 `[N]`.
    """
    classifier.eval()
    correct = 0
    for rows in torch.arange(len(images)).split(500):
        _, logits = classifier(normalize(images[rows], torch.float32))
        correct += int((logits.argmax(1) == labels[rows]).sum())
    return correct / len(images)


def train_classifier(
    classifier: MNISTClassifier, *, epochs: int, batch_size: int, learning_rate: float, seed: int
) -> Iterator[Progress]:
    """Train in place with AdamW, a one-cycle schedule and augmented digits.

    Args:
        classifier: to train.
        epochs: passes over the training set.
        batch_size: digits per update.
        learning_rate: maximum of the schedule.
        seed: of order and augmentation.

    Yields:
        The progress after each epoch.
    """
    images, labels = load_mnist("train")
    test = load_mnist("test")
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, weight_decay=0.01)
    steps = len(images) // batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=epochs * steps)
    moves = Stream(seed, "classifier/moves")
    for epoch in range(epochs):
        classifier.train()
        total = 0.0
        order = permutation(seed, f"classifier/order/{epoch}", len(images))
        for step, rows in enumerate(order[: steps * batch_size].split(batch_size)):
            first = (epoch * steps + step) * batch_size
            batch = moved(normalize(images[rows], torch.float32), moves.uniform(first, first + batch_size, (4,)))
            loss = cross_entropy(classifier(batch)[1], labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        yield Progress(epoch + 1, total / steps, accuracy(classifier, *test))


def new_classifier(seed: int) -> MNISTClassifier:
    """A classifier with random weights; torch's global generator is not changed.

    Args:
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "classifier/weights"))
        return MNISTClassifier()


def save_classifier(classifier: MNISTClassifier, path: Path) -> None:
    """Write the weights as safetensors; the file is replaced atomically.

    Args:
        classifier: whose weights are written.
        path: of the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: value.contiguous() for name, value in classifier.state_dict().items()}
    aside = path.with_name(f".{path.name}")
    safetensors.torch.save_file(state, aside)
    aside.replace(path)
