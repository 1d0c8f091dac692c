"""Mixed styles, and projection and truncation in w."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.inference.generator import LoadedGenerator, build_network
from ganscale.inference.load import load_generator
from ganscale.inference.project import project, spaces_of
from ganscale.inference.styles import mix, num_styles, parse_layers, save_mixing, styles, synthesize
from ganscale.inference.truncation import Truncated
from tests.runs import STYLEGAN2, saved


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> LoadedGenerator:
    folder = tmp_path_factory.mktemp("run")
    saved(folder, *STYLEGAN2, "train.precision=float64")
    loaded = load_generator(folder)
    return LoadedGenerator(
        build_network(loaded.description), loaded.description
    )  # images that are not all black or white


def test_synthesis_of_a_seeds_styles_is_its_image(generator: LoadedGenerator) -> None:
    for psi in (1.0, 0.4):
        made = synthesize(generator, styles(generator, [3, 9], truncation=psi)).clamp(-1.0, 1.0)
        torch.testing.assert_close(made, generator.sample([3, 9], truncation=psi))
        z = generator.latents([3, 9])
        torch.testing.assert_close(Truncated(generator, psi)(z).clamp(-1.0, 1.0), made)


def test_mixed_styles_are_those_of_the_sources_at_the_layers(generator: LoadedGenerator) -> None:
    count = num_styles(generator)
    own = generator.sample([3, 9, 4])
    torch.testing.assert_close(mix(generator, [3, 9, 4], [1], [])[0], own)
    whole = mix(generator, [3, 9, 4], [1, 2], range(count))
    torch.testing.assert_close(whole, generator.sample([1, 2])[:, None].expand(-1, 3, -1, -1, -1))
    w = styles(generator, [3]).clone()
    w[:, 1] = styles(generator, [1])[:, 1]
    torch.testing.assert_close(mix(generator, [3], [1], [1])[0, 0], synthesize(generator, w).clamp(-1.0, 1.0)[0])


@pytest.mark.parametrize("seeds", [[3], [3, 9, 4], [9, 41, *range(40)]])
def test_pictures_of_a_mixing_grid_are_those_of_sample_to_the_bit(tmp_path: Path, seeds: list[int]) -> None:
    wide = [f"model.generator.{each}" for each in ("channel_base=1024", "channel_max=64", "w_dim=64")]
    saved(
        tmp_path,
        *STYLEGAN2,
        *wide,
        "model.generator.conditioning=concat",
        "model.discriminator.conditioning=projection",
    )
    loaded = load_generator(tmp_path)
    generator = LoadedGenerator(build_network(loaded.description), loaded.description)
    for psi in (1.0, 0.4):
        own = generator.sample(seeds, 2, psi)
        assert torch.equal(mix(generator, seeds, [1], [], label=2, truncation=psi)[0], own)
        assert torch.equal(mix(generator, seeds, seeds[:1], [2], label=2, truncation=psi)[0, 0], own[0])


def test_layers() -> None:
    assert [parse_layers(name, 7) for name in ("coarse", "middle", "fine")] == [[0, 1, 2], [3, 4], [5, 6]]
    assert parse_layers("0-2,5", 7) == [0, 1, 2, 5]
    for text in ("", "7", "3-1", "some"):
        with pytest.raises(ConfigError) as caught:
            parse_layers(text, 7)
        assert (caught.value.key, caught.value.value) == ("--layers", text)


def test_a_grid_of_mixed_styles(generator: LoadedGenerator, tmp_path: Path) -> None:
    path = save_mixing(generator, tmp_path, [3, 9, 4], [1, 2], "fine", settings={"seeds": "3,9,4"})
    with Image.open(path) as picture:
        shape = np.asarray(picture).shape
        assert picture.info["layers"] == "fine"
    assert shape[1] * 3 == shape[0] * 4 or abs(shape[1] / 4 - shape[0] / 3) < 2, "four columns, three rows"
    with pytest.raises(ConfigError) as caught:
        save_mixing(generator, tmp_path, range(100), range(100))
    assert caught.value.key == "--mix"


def test_a_picture_is_projected_into_w(generator: LoadedGenerator) -> None:
    assert spaces_of(generator) == ("w", "z")
    target = generator.sample([70_001])
    found = project(generator, target, iterations=400)
    assert (found.space, found.latents.shape) == ("w", (1, 8))
    w = found.latents[:, None].expand(-1, num_styles(generator), -1)
    torch.testing.assert_close(synthesize(generator, w).clamp(-1.0, 1.0), found.images)
    mean = styles(generator, range(512))[:, :1].mean(0, keepdim=True).expand(-1, num_styles(generator), -1)
    start = (synthesize(generator, mean).clamp(-1.0, 1.0) - target).square().mean().sqrt()
    assert float(found.distances) < 0.5 * float(start)
