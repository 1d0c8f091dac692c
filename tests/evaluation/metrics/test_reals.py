"""The reference and the held-out examples of each data set."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.testing import assert_close

from ganscale.config import DATASETS, Config, ConfigError, load
from ganscale.data.images import normalize
from ganscale.data.mnist import load_mnist
from ganscale.data.order import draw
from ganscale.evaluation.metrics.reals import Reals, make_reals
from ganscale.training.build import build_source

CPU = torch.device("cpu")


def reals(config: Config, num_samples: int = 100, seed: int = 0) -> Reals:
    return make_reals(config, build_source(config, CPU), num_samples=num_samples, seed=seed)


def is_among(some: Tensor, many: Tensor) -> bool:
    return all((many == one).flatten(1).all(1).any() for one in some)


def test_draws_are_different_rows_as_long_as_there_are_enough() -> None:
    few = draw(100, 60, seed=1, stream="x")
    assert len(set(few.tolist())) == 60
    many = draw(100, 5000, seed=1, stream="x")
    assert many.shape == (5000,)
    counts = torch.bincount(many, minlength=100)
    assert counts.min() > 10
    assert not torch.equal(few, draw(100, 60, seed=2, stream="x"))


def test_mnist_is_judged_by_its_training_set_and_floored_by_its_test_set() -> None:
    found = reals(load())
    assert found.num_reference == 60_000
    images, _ = load_mnist("train")
    assert_close(found.reference(59_990, 60_000), normalize(images[-10:], torch.float32))
    assert found.held_out is not None
    test = normalize(load_mnist("test")[0], torch.float32)
    held_out = found.held_out(3, 5)
    assert held_out.shape == (2, 1, 28, 28)
    assert is_among(held_out, test)


def test_stacked_mnist_has_triples_of_test_digits() -> None:
    found = reals(load(overrides=["data.name=stacked_mnist"]))
    assert found.num_reference == DATASETS["stacked_mnist"].reference_size
    assert found.reference(5, 7).shape == (2, 3, 28, 28)
    assert found.held_out is not None
    held_out = found.held_out(0, 2)
    assert held_out.shape == (2, 3, 28, 28)
    assert is_among(held_out.view(6, 1, 28, 28), normalize(load_mnist("test")[0], torch.float32))
    assert not torch.equal(held_out[:, 0], held_out[:, 1])


@pytest.mark.parametrize("name", ["ring", "grid"])
def test_points_are_fresh(name: str) -> None:
    found = reals(load(overrides=[f"data.name={name}"]))
    assert found.held_out is not None
    one, other = found.reference(0, 100), found.held_out(0, 100)
    assert one.dtype == torch.float64
    assert torch.cdist(one, other).min() > 0
    trained = build_source(load(overrides=[f"data.name={name}"]), CPU).read(0, 100)[0].double()
    assert torch.cdist(one, trained).min() > 0


def test_a_folder_has_nothing_held_out(tmp_path: Path) -> None:
    for index in range(3):
        Image.fromarray(np.full((8, 8, 3), 40 * index, np.uint8)).save(tmp_path / f"{index}.png")
    found = reals(load(overrides=["data.name=folder", f"data.path={tmp_path}", "data.resolution=8"]))
    assert found.held_out is None
    assert found.num_reference == 3
    assert found.reference(2, 3).mean().item() == pytest.approx(80 / 127.5 - 1, abs=1e-5)


def test_the_identity_follows_the_examples(tmp_path: Path) -> None:
    config = load()
    same, other_seed, fewer = reals(config), reals(config, seed=1), reals(config, num_samples=50)
    assert same.identity == reals(config).identity == other_seed.identity == fewer.identity
    assert len({found.held_out_identity for found in (same, other_seed, fewer)}) == 3
    small = reals(load(overrides=["data.resolution=16"]))
    assert small.identity != same.identity
    stacked = [reals(load(overrides=["data.name=stacked_mnist", f"run.seed={seed}"])).identity for seed in (0, 1)]
    assert stacked[0] != stacked[1], "the triples differ"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "0.png")
    folder = load(overrides=["data.name=folder", f"data.path={tmp_path}", "data.resolution=8"])
    before = reals(folder).identity
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "1.png")
    assert reals(folder).identity != before


def test_an_unknown_data_set_is_an_error_and_not_mnist() -> None:
    known = load()
    config = known.model_copy(update={"data": known.data.model_copy(update={"name": "mnits"})})
    source = build_source(known, CPU)
    for open_it in (lambda: build_source(config, CPU), lambda: make_reals(config, source, num_samples=9, seed=0)):
        with pytest.raises(ConfigError) as caught:
            open_it()
        assert (caught.value.key, caught.value.value) == ("data.name", "mnits")
