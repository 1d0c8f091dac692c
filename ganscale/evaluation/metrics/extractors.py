"""What turns examples into features, classes and modes: the MNIST classifier, Inception-V3, the pixels themselves.

`vit_extractors` and `patches` have the others.
"""

import hashlib
import importlib.util
import io
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ganscale.config import DATASETS, EXTRACTORS, ConfigError, Dataset
from ganscale.config.checks import check_pixels
from ganscale.config.table import find, resolve
from ganscale.data.gaussians import Mixture
from ganscale.evaluation.metrics.mnist_classifier import digits, load_classifier
from ganscale.evaluation.metrics.modes import gaussian_modes, nearest_modes
from ganscale.evaluation.metrics.vit_weights import read_tensors


class Observed(NamedTuple):
    """What an extractor sees in N examples.

    Attributes:
        features: `[N, D]`.
        probabilities: of K classes, `[N, K]`, rows sum to 1; None where the extractor knows no classes.
        modes: int64 `[N]`, the mode nearest to each example; None where there are no modes.
        high_quality: bool `[N]`, whether it is as near as a real example would be; None where that is not known.
        thumbnails: `[N, D]`, by which examples are compared one by one where the features are not made for it.
        nearest: distance to the nearest training example, float64 `[N]`; the evaluator adds it where it is asked for.
    """

    features: Tensor
    probabilities: Tensor | None = None
    modes: Tensor | None = None
    high_quality: Tensor | None = None
    thumbnails: Tensor | None = None
    nearest: Tensor | None = None

    @property
    def compared(self) -> Tensor:
        """What examples are compared by one by one: `[N, D]`."""
        return self.features if self.thumbnails is None else self.thumbnails

    def take(self, rows: Tensor) -> "Observed":
        """Some of the examples.

        Args:
            rows: indices of the examples, int64 `[n]`.
        """
        return Observed(*(None if part is None else part[rows.to(part.device)] for part in self))  # pyright: ignore


class Extractor(Protocol):
    """Examples `[N, *shape]` (images in [-1, 1]) to what is seen in them.

    Attributes:
        name: as in the config.
        sha256: of the weights' file; empty where there are no weights.
        num_modes: number of modes that it distinguishes; 0 for none.
    """

    name: str
    sha256: str
    num_modes: int

    def __call__(self, examples: Tensor) -> Observed:
        """Look at some examples."""
        ...


class DigitExtractor:
    """The MNIST classifier on one digit, or on the three digits of stacked MNIST (1000 modes).

    Args:
        channels: 1 or 3.
        weights: of the classifier; None for the bundled ones.
        device: where it computes.
    """

    name = "mnist"

    def __init__(self, channels: int, *, weights: Path | None = None, device: torch.device | str = "cpu") -> None:
        self.classifier, self.sha256 = load_classifier(weights, device=device)
        self.num_modes = 10**channels

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Observed:
        """Features of all channels side by side `[N, 128 C]`; the joint probabilities of the digits `[N, 10^C]`."""
        count, channels = examples.shape[:2]
        single = digits(examples.float().reshape(-1, 1, *examples.shape[2:]))
        features, logits = self.classifier(single)
        each = logits.softmax(1).view(count, channels, 10)
        joint = each[:, 0]
        modes = each[:, 0].argmax(1)
        for channel in range(1, channels):
            joint = (joint.unsqueeze(2) * each[:, channel].unsqueeze(1)).flatten(1)
            modes = modes * 10 + each[:, channel].argmax(1)
        return Observed(features.view(count, -1), joint, modes)


class PixelExtractor:
    """Images as they are, flattened.

    Args:
        shape: of one example.

    Raises:
        ConfigError: an image has too many numbers.
    """

    name = "pixels"
    sha256 = ""
    num_modes = 0

    def __init__(self, shape: tuple[int, ...]) -> None:
        check_pixels(shape)

    def __call__(self, examples: Tensor) -> Observed:
        """Features `[N, C H W]`."""
        return Observed(examples.flatten(1))


class PointExtractor:
    """2-D points as they are, the center nearest to each, and whether it is within three sigma of it.

    Args:
        mixture: that the points should come from.
    """

    name = "pixels"
    sha256 = ""

    def __init__(self, mixture: Mixture) -> None:
        self.centers, self.sigma = mixture
        self.num_modes = len(self.centers)

    def __call__(self, examples: Tensor) -> Observed:
        """Features `[N, 2]`, modes and quality by the benchmark's protocol (Lin et al. 2018, section 4.1)."""
        points = examples.double()
        centers = self.centers.to(points.device)
        within, _ = gaussian_modes(points, centers, self.sigma)
        return Observed(points, None, nearest_modes(points, centers), within >= 0)


def rgb_bytes(examples: Tensor) -> Tensor:
    """Images as they would be stored, uint8 `[N, 3, H, W]`: gray repeated, RGBA on white.

    Args:
        examples: `[N, C, H, W]` in [-1, 1] with 1, 3 or 4 channels.
    """
    if examples.shape[1] == 4:
        alpha = (examples[:, 3:] + 1.0) / 2.0
        examples = examples[:, :3] * alpha + (1.0 - alpha)
    images = ((examples + 1.0) * 127.5).round().clamp(0, 255).byte()
    return images.repeat(1, 3, 1, 1) if images.shape[1] == 1 else images


class InceptionExtractor:
    """Inception-V3 with the weights of FID (Heusel et al. 2017), as torch-fidelity ports it from the original graph.

    Args:
        weights: the file `weights-inception-2015-12-05-6726825d.pth`.
        device: where it computes.

    Raises:
        ImportError: torch-fidelity is not installed.
        FileNotFoundError: no weights there.
        ValueError: they are damaged, or another network's.
    """

    name = "inception"
    num_modes = 0

    def __init__(self, weights: Path, *, device: torch.device | str = "cpu") -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.sha256 = hashlib.sha256(weights.read_bytes()).hexdigest()
        wanted, content = ["2048", "logits_unbiased"], io.BytesIO()
        torch.save(_inception_tensors(weights), content)  # torch-fidelity would run code in the file
        content.seek(0)
        try:
            network = FeatureExtractorInceptionV3("inception-v3-compat", wanted, content)
        except Exception as error:  # load_state_dict and torch-fidelity have errors of their own
            text = " ".join(str(error).split())[:300]
            raise ValueError(f"no weights of Inception-V3 in {weights} ({text})") from None
        self.network = network.to(device).eval()

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Observed:
        """Features `[N, 2048]` and probabilities of its 1008 classes, from images as bytes; RGBA on white."""
        features, logits = self.network(rgb_bytes(examples))
        return Observed(features, logits.softmax(1))


INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"


def inception_weights(path: str) -> Path:
    """The file of Inception's weights: `path`, or where torch-fidelity's download would put it.

    Args:
        path: `eval.weights`; empty for the default.
    """
    if path:
        return Path(path).expanduser()
    return Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE


def _inception_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of Inception's file; raises ConfigError if they are another network's."""
    tensors, first = read_tensors(file), "Conv2d_1a_3x3.conv.weight"
    if first not in tensors:
        remedy = f"name {INCEPTION_FILE}, or use eval.extractor=dinov2, clip or openclip if these are its weights"
        problem = f"no weights of Inception-V3: {first} is missing"
        raise ConfigError(problem, key="eval.weights", value=str(file), remedy=remedy)
    return tensors


def missing_inception(weights: str) -> str | None:
    """Why Inception-V3 cannot be used on this machine, with the remedy; None if it can.

    Args:
        weights: `eval.weights`.

    Raises:
        ConfigError: the weights are there, but damaged, or another network's.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        return "Inception-V3 needs torch-fidelity; install ganscale[inception], or use eval.extractor=patches"
    file = inception_weights(weights)
    if not file.is_file():
        remedy = f"put {INCEPTION_FILE} there, name it in eval.weights, or use eval.extractor=patches"
        return f"no weights of Inception-V3 at {file}; {remedy}"
    _inception_tensors(file)
    return None


def open_digits(data: Dataset, shape: tuple[int, ...], weights: str, device: torch.device) -> DigitExtractor:
    """The MNIST classifier.

    Args:
        data: the data set; not used.
        shape: of one example, `(1 or 3, H, W)`.
        weights: file of the classifier's weights; empty for the bundled ones.
        device: where it computes.
    """
    return DigitExtractor(shape[0], weights=Path(weights).expanduser() if weights else None, device=device)


def open_inception(data: Dataset, shape: tuple[int, ...], weights: str, device: torch.device) -> InceptionExtractor:
    """Inception-V3.

    Args:
        data: the data set; not used.
        shape: of one example; not used.
        weights: as for `inception_weights`.
        device: where it computes.
    """
    return InceptionExtractor(inception_weights(weights), device=device)


def open_pixels(data: Dataset, shape: tuple[int, ...], weights: str, device: torch.device) -> Extractor:
    """Examples as they are, with their modes where the data set is a mixture.

    Args:
        data: the data set.
        shape: of one example.
        weights: not used.
        device: not used.
    """
    return PixelExtractor(shape) if data.mixture is None else PointExtractor(resolve(data.mixture))


def make_extractor(
    name: str, data: str, shape: tuple[int, ...], *, weights: str = "", device: torch.device | str = "cpu"
) -> Extractor:
    """The extractor of this name for a data set's examples.

    Args:
        name: of the extractor.
        data: name of the data set.
        shape: of one example.
        weights: file of the extractor's weights; empty for its own.
        device: where it computes.

    Raises:
        ConfigError: the extractor or the data set is unknown, or the images are too large.
        ImportError: a package that it needs is not installed.
        FileNotFoundError: the weights are not there.
        ValueError: the weights are damaged.
    """
    entry = find(EXTRACTORS, name, key="eval.extractor")
    return resolve(entry.build)(find(DATASETS, data, key="data.name"), shape, weights, torch.device(device))
