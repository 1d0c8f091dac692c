"""What the extractors see."""

import shutil
import sys
from io import BytesIO
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from ganscale.config import ConfigError
from ganscale.data.gaussians import GRID
from ganscale.data.images import normalize
from ganscale.data.mnist import load_mnist
from ganscale.evaluation.metrics.extractors import (
    DigitExtractor,
    Observed,
    PixelExtractor,
    PointExtractor,
    inception_weights,
    make_extractor,
    missing_inception,
)
from ganscale.evaluation.metrics.mnist_classifier import WEIGHTS


def test_three_digits_are_one_of_a_thousand_modes() -> None:
    images, labels = load_mnist("test")
    triples = normalize(images[:60], torch.float32).view(20, 3, 28, 28)
    digits = labels[:60].view(20, 3)
    seen = DigitExtractor(3)(triples)
    single = DigitExtractor(1)(triples.reshape(60, 1, 28, 28))
    assert seen.features.shape == (20, 384)
    assert_close(seen.features.view(60, 128), single.features)
    assert seen.probabilities is not None
    assert seen.modes is not None
    assert single.modes is not None
    assert (single.modes == labels[:60]).double().mean() > 0.95
    expected = digits[:, 0] * 100 + digits[:, 1] * 10 + digits[:, 2]
    assert (seen.modes == expected).double().mean() > 0.9
    assert_close(seen.probabilities.sum(1), torch.ones(20))
    assert torch.equal(seen.probabilities.argmax(1), seen.modes)


def test_points_have_the_nearest_mode_and_quality_within_three_sigma() -> None:
    centers, sigma = GRID
    offsets = torch.tensor([[2.9, 0.0], [0.0, 3.1]], dtype=torch.float64) * sigma
    seen = PointExtractor(GRID)((centers[7] + offsets).float())
    assert seen.modes is not None
    assert seen.modes.tolist() == [7, 7]
    assert seen.high_quality is not None
    assert seen.high_quality.tolist() == [True, False]
    assert seen.features.dtype == torch.float64
    assert PointExtractor(GRID).num_modes == 25


def test_pixels_are_features_unless_there_are_too_many() -> None:
    images = torch.randn(5, 3, 8, 8)
    assert_close(PixelExtractor((3, 8, 8))(images).features, images.view(5, 192))
    with pytest.raises(ConfigError, match="too large") as caught:
        PixelExtractor((3, 64, 64))
    assert caught.value.key == "eval.extractor"


def test_rows_are_taken_from_every_part() -> None:
    seen = Observed(torch.arange(6.0).view(3, 2), None, torch.arange(3)).take(torch.tensor([2, 0]))
    assert seen.probabilities is None
    assert seen.modes is not None
    assert seen.modes.tolist() == [2, 0]
    assert seen.features.tolist() == [[4.0, 5.0], [0.0, 1.0]]


@pytest.mark.parametrize(("name", "data", "shape"), [("mnist", "mnist", (1, 28, 28)), ("pixels", "ring", (2,))])
def test_extractors_by_name(name: str, data: str, shape: tuple[int, ...]) -> None:
    extractor = make_extractor(name, data, shape)
    assert extractor.name == name
    assert bool(extractor.sha256) == (name == "mnist")


WEIGHT = {"Conv2d_1a_3x3.conv.weight": torch.zeros(32, 3, 3, 3)}


class _Network(nn.Module):
    """Stands in for Inception: what it is given, as bytes."""

    def __init__(self, name: str, wanted: list[str], weights: BytesIO) -> None:
        super().__init__()
        assert wanted == ["2048", "logits_unbiased"]
        assert torch.load(weights, weights_only=True).keys() == WEIGHT.keys()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(images)
        return images.double().flatten(1)[:, :4], torch.zeros(len(images), 5)


def test_inception_gets_bytes_in_three_channels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = _Network  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    weights = tmp_path / "weights.pth"
    torch.save(WEIGHT, weights)
    extractor = make_extractor("inception", "cifar10", (3, 32, 32), weights=str(weights))
    images = torch.tensor([-1.0, 1.0, 0.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    seen = extractor(images)
    given = extractor.network.seen[0]  # pyright: ignore[reportAttributeAccessIssue]
    assert given.dtype == torch.uint8
    assert given.shape == (3, 3, 4, 4)
    assert given[:, 0, 0, 0].tolist() == [0, 255, 128]
    assert seen.probabilities is not None
    assert_close(seen.probabilities, torch.full((3, 5), 0.2))


@pytest.mark.parametrize(
    ("content", "named", "remedy"),
    [
        (b"", "EOFError", "state dict"),
        (nn.Linear(2, 2), "UnpicklingError", "state dict"),
        ({"cls_token": torch.zeros(1)}, "Conv2d_1a_3x3.conv.weight is missing", "eval.extractor=dinov2"),
    ],
)
def test_other_files_than_inceptions_are_refused_and_run_no_code(
    tmp_path: Path, content: object, named: str, remedy: str
) -> None:
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    for use in (missing_inception, lambda weights: make_extractor("inception", "cifar10", (3, 8, 8), weights=weights)):
        with pytest.raises(ConfigError, match=named) as caught:
            use(str(file))
        assert (caught.value.key, caught.value.value) == ("eval.weights", str(file))
        assert remedy in caught.value.remedy


def test_an_incomplete_inception_is_an_error_of_its_file(tmp_path: Path) -> None:
    torch.save(WEIGHT, tmp_path / "w.pth")
    assert missing_inception(str(tmp_path / "w.pth")) is None
    with pytest.raises(ValueError, match=r"w\.pth.*Missing key") as caught:
        make_extractor("inception", "cifar10", (3, 32, 32), weights=str(tmp_path / "w.pth"))
    assert len(str(caught.value)) < 500


def test_inception_weights_lie_where_they_are_said_to() -> None:
    assert inception_weights("~/w.pth") == Path.home() / "w.pth"
    assert inception_weights("").name == "weights-inception-2015-12-05-6726825d.pth"


def test_the_classifiers_weights_may_lie_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(WEIGHTS, tmp_path / "w.npz")
    assert make_extractor("mnist", "mnist", (1, 28, 28), weights="~/w.npz").sha256
