"""R3GAN's pickles: the same outputs from networks of this package, and refusals of all else."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import one_hot

from ganscale.config import ConfigError
from ganscale.inference.foreign import read_foreign
from ganscale.inference.load import load_generator
from tests.inference import r3gan_layout

SMALL = ((8, 8), (1, 1))
"""Widths and blocks from 4 pixels on."""
NETWORKS: dict[str, tuple[tuple[tuple[int, ...], tuple[int, ...]], dict[str, int]]] = {
    "equal_widths": (((16, 16, 16), (2, 2, 2)), {"group_size": 4}),
    "halved_widths": (((16, 16, 8, 4), (1, 1, 1, 1)), {"group_size": 4}),
    "classes": (((8, 8, 4), (2, 2, 2)), {"group_size": 4, "num_classes": 5}),
    "expansion": (((8, 8, 8), (1, 1, 1)), {"group_size": 8, "expansion": 3}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_original(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    (widths, blocks), options = NETWORKS[name]
    networks = r3gan_layout.networks(widths, blocks, **options)
    path = tmp_path / "network-snapshot-000000123.pkl"
    r3gan_layout.write(path, {**networks, "training_set_kwargs": {"path": "x"}, "cur_nimg": 123_456})
    found, num_classes = read_foreign(path), options.get("num_classes", 0)
    side = 4 * 2 ** (len(widths) - 1)
    assert (found.geometry.shape, found.geometry.latent_dim) == ((3, side, side), 8)
    assert (found.geometry.num_classes, found.images) == (num_classes, 123_456)
    z, x = torch.randn(16, 8), torch.randn(16, 3, side, side)
    labels = torch.arange(16) % num_classes if num_classes else None
    hot = one_hot(labels, num_classes).float() if labels is not None else None
    with torch.no_grad():
        for own, theirs, given in (
            (found.generator, "G", z),
            (found.ema, "G_ema", z),
            (found.discriminator, "D", x),
        ):
            expected = networks[theirs](given, hot)
            assert expected.std() > 0.01
            scale = float(expected.abs().max())
            torch.testing.assert_close(own(given, labels), expected, rtol=0.0, atol=1e-5 * max(1.0, scale))


def test_it_is_a_generator_like_any_other(tmp_path: Path) -> None:
    torch.manual_seed(0)
    networks = r3gan_layout.networks((8, 8, 8), (1, 1, 1), group_size=4)
    path = tmp_path / "cifar10.pkl"
    r3gan_layout.write(path, networks)
    generator = load_generator(path)
    with torch.no_grad():
        expected = networks["G_ema"](generator.latents(range(3))).clamp(-1.0, 1.0)
    torch.testing.assert_close(generator.sample(3), expected, rtol=0.0, atol=1e-5)
    with pytest.raises(ConfigError, match="has no checkpoints"):
        load_generator(path, checkpoint="best")


def test_the_pickle_cannot_be_read_by_pickle_itself(tmp_path: Path) -> None:
    """Its classes are not importable here, as R3GAN's are not where its code is missing."""
    path = tmp_path / "a.pkl"
    r3gan_layout.write(path, r3gan_layout.networks(*SMALL, group_size=4))
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(path.read_bytes())


def _other_filter(networks: dict[str, Any]) -> None:
    networks["G"].Model.MainLayers[1].Layers[0].Resampler.Kernel.copy_(torch.full((4, 4), 1 / 16))


def _further_tensor(networks: dict[str, Any]) -> None:
    networks["D"].Model.register_parameter("Noise", torch.nn.Parameter(torch.ones(3)))


def _other_shape(networks: dict[str, Any]) -> None:
    networks["D"].Model.ExtractionLayer.Layer.weight = torch.nn.Parameter(torch.ones(8, 1, 1, 1))


def _missing_tensor(networks: dict[str, Any]) -> None:
    del networks["G"].Model.AggregationLayer


def _other_average(networks: dict[str, Any]) -> None:
    networks["G_ema"] = r3gan_layout.networks((16, 8), (1, 1), group_size=4)["G_ema"]


def _no_average(networks: dict[str, Any]) -> None:
    del networks["G_ema"]


def _other_code(networks: dict[str, Any]) -> None:
    networks["G"] = torch.nn.Linear(2, 2)


CHANGES = (_other_filter, _further_tensor, _other_shape, _missing_tensor, _other_average, _no_average, _other_code)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__[1:])
def test_what_is_no_r3gan_is_refused(change: Any, tmp_path: Path) -> None:
    networks: dict[str, Any] = dict(r3gan_layout.networks((8, 8, 8), (1, 1, 1), group_size=4))
    change(networks)
    r3gan_layout.write(tmp_path / "a.pkl", networks)
    with pytest.raises(ConfigError, match=r"a\.pkl"):
        read_foreign(tmp_path / "a.pkl")


@pytest.mark.parametrize(
    ("widths", "blocks", "problem"),
    [((8, 8, 8), (1, 2, 1), "numbers of blocks"), ((4, 8, 8), (1, 1, 1), "do not double")],
)
def test_stages_that_the_architecture_cannot_have(
    widths: tuple[int, ...], blocks: tuple[int, ...], problem: str, tmp_path: Path
) -> None:
    r3gan_layout.write(tmp_path / "a.pkl", r3gan_layout.networks(widths, blocks, group_size=4))
    with pytest.raises(ConfigError, match=problem):
        read_foreign(tmp_path / "a.pkl")


def test_files_that_are_no_pickles(tmp_path: Path) -> None:
    (tmp_path / "text.pkl").write_text("hello")
    for path in (tmp_path / "text.pkl", tmp_path / "none.pkl", tmp_path):
        with pytest.raises(ConfigError) as caught:
            read_foreign(path, key="train.init_from")
        assert caught.value.key == "train.init_from"
        assert path.name in str(caught.value)
