"""Grids and single images: what is where, and what the PNG says of itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.grid import draw, parse_labels, parse_seeds, save_grid, save_images, to_bytes
from ganscale.inference.load import load_generator
from ganscale.tracking.images import image_grid
from tests.runs import MLP, RING, saved

CONDITIONAL = (*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> LoadedGenerator:
    folder = tmp_path_factory.mktemp("plain")
    saved(folder, *MLP, "run.name=try1", images=640)
    return load_generator(folder)


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> LoadedGenerator:
    folder = tmp_path_factory.mktemp("conditional")
    saved(folder, *CONDITIONAL)
    return load_generator(folder)


def test_seeds() -> None:
    assert parse_seeds("0-3,100, 7") == [0, 1, 2, 3, 100, 7]
    assert parse_seeds("5") == [5]


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-2", "1,,2", "1.5", "0-99999999999", f"{2**48}", "²"])
def test_bad_seeds(text: str) -> None:
    with pytest.raises(ConfigError, match="--seeds = "):
        parse_seeds(text)


def test_labels() -> None:
    assert parse_labels("all", 3) == [0, 1, 2]
    assert parse_labels("2, 0", 3) == [2, 0]
    for text, classes in (("3", 3), ("x", 3), ("", 3), ("-1", 3), ("all", 0), ("0", 0)):
        with pytest.raises(ConfigError, match="--labels = "):
            parse_labels(text, classes)


def test_bytes_are_rounded_and_clipped() -> None:
    row = torch.tensor([-1.0, -2.0, 1.0, 9.0, 0.0, -1.0 + 2.6 / 255, float("nan")])
    assert to_bytes(row.view(1, 1, 1, -1)).ravel().tolist() == [0, 0, 255, 255, 128, 1, 0]
    assert to_bytes(torch.rand(2, 3, 4, 5)).shape == (2, 4, 5, 3)


def test_a_grid_shows_the_seeds_in_order(plain: LoadedGenerator) -> None:
    made = plain.sample([9, 2, 5, 7], truncation=0.5).double().numpy()
    assert np.array_equal(draw(plain, [9, 2, 5, 7], truncation=0.5), image_grid(made, columns=2))


def test_a_grid_has_a_row_per_class(conditional: LoadedGenerator) -> None:
    rows = [conditional.sample([4, 8, 6, 9, 2], label).double().numpy() for label in (7, 1)]
    picture = draw(conditional, [4, 8, 6, 9, 2], [7, 1])
    assert np.array_equal(picture, image_grid(np.concatenate(rows), columns=5))
    assert not np.array_equal(rows[0], rows[1])


def test_too_large_a_grid_is_refused(conditional: LoadedGenerator) -> None:
    with pytest.raises(ConfigError, match="too many for a grid"):
        draw(conditional, range(2049), [0, 1])


def test_points_give_a_scatter_plot(tmp_path: Path) -> None:
    saved(tmp_path, *RING)
    generator = load_generator(tmp_path)
    alone = LoadedGenerator(generator.network, generator.description)
    with_reals, without = draw(generator, range(100)), draw(alone, range(100))
    assert with_reals.shape == without.shape == (512, 512, 3)
    assert ((with_reals == 200).all(2)).any(), "no real points"
    assert not ((without == 200).all(2)).any()


def test_a_grid_says_what_it_shows(plain: LoadedGenerator, tmp_path: Path) -> None:
    save_grid(plain, tmp_path / "a" / "grid.png", range(4), truncation=0.7, settings={"seeds": "0-3", "labels": None})
    with Image.open(tmp_path / "a" / "grid.png") as picture:
        text = picture.info
    assert text["run"] == "try1"
    assert text["checkpoint"] == "640"
    assert text["checkpoint_sha256"] == plain.description.sha256
    assert (text["seeds"], text["truncation"]) == ("0-3", "0.7")
    assert "labels" not in text


def test_single_images(plain: LoadedGenerator, conditional: LoadedGenerator, tmp_path: Path) -> None:
    assert save_images(plain, tmp_path / "plain", [12, 3]) == 2
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["seed000003.png", "seed000012.png"]
    with Image.open(tmp_path / "plain" / "seed000012.png") as picture:
        assert picture.info["seed"] == "12"
        assert np.array_equal(np.asarray(picture), to_bytes(plain.sample([12]))[0, :, :, 0])
    assert save_images(conditional, tmp_path / "by_class", [3, 5], [1, 9]) == 4
    with Image.open(tmp_path / "by_class" / "seed000005-class9.png") as picture:
        assert picture.info["label"] == "9"
        assert np.array_equal(np.asarray(picture), to_bytes(conditional.sample([5], 9))[0, :, :, 0])
    save_images(conditional, tmp_path / "own", [13])
    with Image.open(tmp_path / "own" / "seed000013.png") as picture:
        assert picture.info["label"] == "3"


def test_points_are_no_images(tmp_path: Path) -> None:
    saved(tmp_path / "run", *RING)
    with pytest.raises(ConfigError, match="2-D points are no images"):
        save_images(load_generator(tmp_path / "run"), tmp_path / "out", [0])
    assert not (tmp_path / "out").exists()
