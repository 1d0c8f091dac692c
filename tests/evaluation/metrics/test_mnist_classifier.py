"""The classifier behind the MNIST metrics: its weights, its accuracy, and how they come about."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from benchmarks.classifier.__main__ import main
from benchmarks.classifier.train import accuracy, moved, new_classifier, save_classifier, train_classifier
from ganscale.data.images import normalize
from ganscale.data.mnist import fit, load_mnist
from ganscale.evaluation.metrics import mnist_classifier
from ganscale.evaluation.metrics.mnist_classifier import NUM_FEATURES, SHA256, digits, load_classifier


def test_the_shipped_weights_know_the_test_digits() -> None:
    classifier, digest = load_classifier()
    assert digest == SHA256
    assert not classifier.training
    assert accuracy(classifier, *load_mnist("test")) >= 0.993


def test_features_and_logits_of_one_digit_do_not_depend_on_its_company() -> None:
    classifier, _ = load_classifier()
    images = normalize(load_mnist("test")[0][:4], torch.float32)
    features, logits = classifier(images)
    assert features.shape == (4, NUM_FEATURES)
    assert logits.shape == (4, 10)
    assert features.min() >= 0
    alone, _ = classifier(images[:1])
    assert_close(features[:1], alone)


def test_damaged_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "weights.safetensors"
    content = bytearray(mnist_classifier.WEIGHTS.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    monkeypatch.setattr(mnist_classifier, "WEIGHTS", damaged)
    with pytest.raises(ValueError, match="damaged"):
        load_classifier()


@pytest.mark.parametrize("content", [b"", b"no weights at all", b"\x08" + b"\x00" * 7 + b"{}      "])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "other.safetensors"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="does not hold this classifier's weights"):
        load_classifier(file)


@pytest.mark.parametrize("resolution", [16, 32, 64])
def test_other_resolutions_come_back_as_28_pixels(resolution: int) -> None:
    images = load_mnist("test")[0][:200]
    labels = load_mnist("test")[1][:200]
    back = digits(normalize(fit(images, resolution), torch.float32))
    assert back.shape == (200, 1, 28, 28)
    if resolution == 32:
        assert_close(back, normalize(images, torch.float32))
    classifier, _ = load_classifier()
    right = (classifier(back)[1].argmax(1) == labels).double().mean()
    assert right > (0.8 if resolution == 16 else 0.98)


def test_digits_are_moved_as_drawn() -> None:
    images = -torch.ones(3, 1, 28, 28)
    images[:, :, 10:12, 5:9] = 1.0
    middle = torch.full((3, 4), 0.5)
    assert_close(moved(images, middle), images, atol=1e-5, rtol=0)
    right = middle.clone()
    right[:, 2] = 0.0  # the view moves by two pixels to the left, so the digit moves to the right
    assert_close(moved(images, right), images.roll(2, 3), atol=1e-5, rtol=0)
    turned = moved(images, torch.rand(3, 4))
    assert turned.min() >= -1.00001
    assert not torch.allclose(turned, images, atol=0.1)


@pytest.mark.slow
def test_training_learns_and_is_a_function_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = load_mnist("train"), load_mnist("test")
    few = {"train": tuple(part[:2000] for part in train), "test": tuple(part[:500] for part in test)}
    monkeypatch.setattr("benchmarks.classifier.train.load_mnist", lambda split: few[split])
    files = [tmp_path / f"{name}.safetensors" for name in "ab"]
    for file in files:
        assert main([str(file), "--epochs", "1", "--batch-size", "50"]) == 0
    assert files[0].read_bytes() == files[1].read_bytes()
    shown = capsys.readouterr().out
    assert "test accuracy" in shown
    assert load_classifier(files[0])[1] in shown
    classifier, _ = load_classifier(files[0])
    assert accuracy(classifier, *few["test"]) > 0.8
    other = new_classifier(1)
    progress = list(train_classifier(other, epochs=1, batch_size=50, learning_rate=3e-3, seed=1))
    assert [row.epoch for row in progress] == [1]
    save_classifier(other, files[1])
    assert files[0].read_bytes() != files[1].read_bytes()
