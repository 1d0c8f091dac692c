"""A small convolutional classifier of MNIST digits, trained by this project: the feature extractor of all digits.

The weights come with the package (`python -m benchmarks.classifier` made them from the 60,000 training digits) and are
checked against a pinned SHA-256.
"""

import hashlib
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

WEIGHTS = Path(__file__).parent / "files" / "mnist_classifier.safetensors"
SHA256 = "08b443ec6d16812bc8c2abd1ca0c2acda3fe21835a0caf6cef5a5d5a4351f788"
"""Of the shipped weights."""

NUM_FEATURES = 128


def _block(channels_in: int, channels_out: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels_out), nn.ReLU(inplace=True))


class MNISTClassifier(nn.Module):
    """Digits `[N, 1, 28, 28]` in [-1, 1] to 128 features and ten logits."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(_block(1, 32, 1), _block(32, 32, 2), _block(32, 64, 1), _block(64, 64, 2))
        self.hidden = nn.Linear(64 * 7 * 7, NUM_FEATURES, bias=False)
        self.norm = nn.BatchNorm1d(NUM_FEATURES)
        self.output = nn.Linear(NUM_FEATURES, 10)

    def forward(self, digits: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[N, 128]`, not negative, and logits `[N, 10]`, of digits `[N, 1, 28, 28]`."""
        features = self.norm(self.hidden(self.convolutions(digits).flatten(1))).relu()
        return features, self.output(features)


def digits(images: Tensor) -> Tensor:
    """Bring images to the 28 pixels that the classifier knows.

    32 pixels lose the border that `data.resolution = 32` adds; other sizes are resized (bilinear, antialiased).

    Args:
        images: `[N, 1, H, W]` in [-1, 1].
    """
    if images.shape[2] == 32:
        return images[:, :, 2:30, 2:30]
    if images.shape[2] != 28:
        return interpolate(images, (28, 28), mode="bilinear", antialias=True)
    return images


def load_classifier(path: Path | None = None, *, device: torch.device | str = "cpu") -> tuple[MNISTClassifier, str]:
    """The classifier in evaluation mode, and the SHA-256 of its weights' file.

    Args:
        path: weights that `python -m benchmarks.classifier` wrote; None for the shipped ones.
        device: where it shall compute.

    Raises:
        FileNotFoundError: no weights there.
        ValueError: they are not this classifier's, or the shipped file was altered.
    """
    file = path or WEIGHTS
    content = file.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    if path is None and digest != SHA256:
        raise ValueError(
            f"{file} is damaged: its SHA-256 is {digest[:12]}..., not {SHA256[:12]}...; reinstall ganscale"
        )
    classifier = MNISTClassifier()
    try:
        classifier.load_state_dict(safetensors.torch.load(content))
    except (RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{file} does not hold this classifier's weights ({type(error).__name__})") from None
    return classifier.to(device).eval().requires_grad_(False), digest
