"""Nearest training images: all of the set is searched, exactly, and the yardstick leaves out the image itself."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.data import ImageSource
from ganscale.evaluation.metrics.extractors import DigitExtractor
from ganscale.inference import neighbors as neighbors
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.load import load_generator
from ganscale.inference.neighbors import features_of, nearest, pixels, save_neighbors
from tests.runs import MLP, RING, saved


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 16)


@pytest.fixture
def source() -> ImageSource:
    images = torch.randint(0, 256, (50, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    return ImageSource(images, torch.zeros(50, dtype=torch.int64), 1, seed=0, device=torch.device("cpu"))


def brute_force(images: torch.Tensor, source: ImageSource) -> torch.Tensor:
    reals = source.gather(torch.arange(50))[0].double()
    return (images.double().unsqueeze(1) - reals).square().mean((2, 3, 4)).sqrt()


def test_the_whole_set_is_searched(source: ImageSource) -> None:
    images = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = nearest(images, source, 5)
    distances, rows = brute_force(images, source).sort(1)
    torch.testing.assert_close(found.distances, distances[:, :5])
    assert torch.equal(found.rows, rows[:, :5])


def test_only_the_rows_that_are_named_are_searched(source: ImageSource) -> None:
    images = torch.rand(7, 1, 4, 4, generator=torch.Generator().manual_seed(1)) * 2 - 1
    among = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 48, 49])
    found = nearest(images, source, 2, among=among)
    distances, places = brute_force(images, source)[:, among].sort(1)
    torch.testing.assert_close(found.distances, distances[:, :2])
    assert torch.equal(found.rows, among[places[:, :2]])


def test_blocks_are_bounded_by_their_bytes(source: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = nearest(source.gather(torch.arange(7))[0], source, 3)
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 5 * 16 * 8 + 1)
    sizes: list[int] = []
    gather = source.gather
    monkeypatch.setattr(source, "gather", lambda rows: sizes.append(len(rows)) or gather(rows))
    assert torch.equal(nearest(gather(torch.arange(7))[0], source, 3).rows, whole.rows)
    assert sizes == [5] * 10
    assert neighbors.block_rows(3 * 1024**2 * 1000) == 1, "an image above the bound is compared all the same"


def test_copies_have_distance_zero(source: ImageSource) -> None:
    rows = torch.tensor([3, 17, 49])
    found = nearest(source.gather(rows)[0], source, 1)
    assert torch.equal(found.rows[:, 0], rows)
    assert float(found.distances.max()) == 0.0


def test_an_image_is_not_its_own_neighbor(source: ImageSource) -> None:
    rows = torch.tensor([0, 15, 16, 49])
    images = source.gather(rows)[0]
    distances = brute_force(images, source)
    distances[torch.arange(4), rows] = torch.inf
    found = nearest(images, source, 2, without=rows)
    torch.testing.assert_close(found.distances, distances.sort(1)[0][:, :2])


def test_mirrored_copies_are_found_where_training_mirrored(source: ImageSource) -> None:
    images = source.gather(torch.tensor([8, 30]))[0].flip(3)
    assert float(nearest(images, source, 1).distances.min()) > 0.1
    found = nearest(images, source, 1, mirror=True)
    assert found.rows.flatten().tolist() == [8, 30]
    assert float(found.distances.max()) == 0.0


def test_other_features_can_be_compared(source: ImageSource) -> None:
    images = torch.rand(3, 1, 4, 4) * 2 - 1
    found = nearest(images, source, 1, features=lambda x: x.mean((2, 3)))
    reals = source.gather(torch.arange(50))[0].double().mean((1, 2, 3))
    expected = (images.double().mean((1, 2, 3)).unsqueeze(1) - reals).abs().min(1).values
    torch.testing.assert_close(found.distances[:, 0], expected, atol=1e-6, rtol=0)


SMALL = (*MLP, "data.name=stacked_mnist", "data.num_images=60")


def test_files(tmp_path: Path) -> None:
    saved(tmp_path / "run", *SMALL)
    generator = load_generator(tmp_path / "run")
    report = save_neighbors(generator, tmp_path / "out", [4, 9], 3, truncation=0.5, settings={"seeds": "4,9"})
    assert [path.name for path in report.files] == ["nearest.png", "nearest.json"]
    said = json.loads(report.files[1].read_text())
    assert said["training_images"] == report.num_images == 60
    assert (said["seeds"], said["truncation"], said["neighbors"]) == ("4,9", "0.5", "3")
    assert [row["seed"] for row in said["samples"]] == [4, 9]
    nearest_two = [row["distances"][0] for row in said["samples"]]
    assert said["median_samples"] == report.samples == pytest.approx(min(nearest_two))  # the lower median of two
    assert said["median_reals"] == report.reals > 0.0
    with Image.open(report.files[0]) as picture:
        pixels = np.asarray(picture)
        assert picture.info["seeds"] == "4,9"
    assert pixels.shape == (2 * (56 + 14) + 14, 4 * (56 + 14) + 14, 3)
    first = ((generator.sample([4], truncation=0.5)[0].double() + 1) * 127.5).round().permute(1, 2, 0).byte().numpy()
    assert np.array_equal(pixels[14:70:7, 14:70:7], first)


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "run", *SMALL)
    saved(tmp_path / "ring", *RING)
    generator, points = load_generator(tmp_path / "run"), load_generator(tmp_path / "ring")
    exported = LoadedGenerator(generator.network, generator.description)
    for what, seeds, count, words in (
        (exported, [0], 1, "no training set"),
        (points, [0], 1, "no finite training set"),
        (generator, [0], 60, "too many neighbors"),
        (generator, range(1000), 5, "too many images"),
    ):
        with pytest.raises(ConfigError, match=words):
            save_neighbors(what, tmp_path / "out", list(seeds), count)
    assert not (tmp_path / "out").exists()


def test_features_by_name(tmp_path: Path) -> None:
    saved(tmp_path / "run", *SMALL)
    saved(tmp_path / "ring", *RING)
    generator = load_generator(tmp_path / "run")
    assert features_of("pixels", generator) is pixels
    images = generator.sample(2)
    found = features_of("mnist", generator)(images)
    assert found.shape == (2, 384)
    torch.testing.assert_close(found, DigitExtractor(3)(images).features)
    with pytest.raises(ConfigError, match="use pixels"):
        features_of("mnist", load_generator(tmp_path / "ring"))
    with pytest.raises(ConfigError, match=r"docs/metrics\.md"):
        features_of("inception", generator)
