"""Walks through the latent space: on the sphere or straight, from seed to seed, closed when they loop."""

import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.interpolate import FRAMES, save_interpolation, slerp, walk
from ganscale.inference.load import load_generator
from ganscale.tracking.images import image_grid
from tests.runs import MLP, RING, saved

CONDITIONAL = (*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection")


def load(folder: Path, *overrides: str) -> LoadedGenerator:
    saved(folder, *overrides)
    return load_generator(folder)


def test_slerp_turns_at_an_even_pace() -> None:
    x, y = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 1.0, 0.0])
    share = torch.linspace(0, 1, 7).unsqueeze(1)
    angle = share * math.pi / 2
    expected = torch.cat((angle.cos(), angle.sin(), torch.zeros(7, 1)), 1)
    torch.testing.assert_close(slerp(x.expand(7, 3), y.expand(7, 3), share), expected)


def test_slerp_keeps_the_length_where_a_straight_line_loses_it() -> None:
    start, end = torch.randn(2, 50, 512, generator=torch.Generator().manual_seed(0))
    half = torch.full((50, 1), 0.5)
    torch.testing.assert_close(slerp(start, end, half).norm(dim=1).mean(), start.norm(dim=1).mean(), atol=0.5, rtol=0)
    assert torch.lerp(start, end, half).norm(dim=1).max() < 18 < slerp(start, end, half).norm(dim=1).min()


def test_slerp_between_equal_latents_stays_there() -> None:
    z = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(slerp(z, z.clone(), torch.full((4, 1), 0.3)), z)


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_a_walk_goes_from_seed_to_seed(latent: str, tmp_path: Path) -> None:
    generator = load(tmp_path, *MLP, f"model.latent={latent}")
    z = generator.latents([3, 8, 1])
    way = walk(generator, [3, 8, 1], 5, closed=False)
    assert way.shape == (2, 5, 8)
    torch.testing.assert_close(way[:, 0], z[:2])
    torch.testing.assert_close(way[:, -1], z[1:])
    middle = (z[0] + z[1]) / 2 if latent == "uniform" else slerp(z[0], z[1], torch.tensor([0.5]))
    torch.testing.assert_close(way[0, 2], middle)
    loop = walk(generator, [3, 8, 1], 4, closed=True)
    assert loop.shape == (3, 4, 8)
    torch.testing.assert_close(loop[:, 0], z)
    torch.testing.assert_close(loop[0], way[0, :4])


def test_files(tmp_path: Path) -> None:
    generator = load(tmp_path / "run", *CONDITIONAL)
    files = save_interpolation(generator, tmp_path / "out", [5, 6, 7], steps=4, settings={"seeds": "5-7"})
    videos = ["interpolation.mp4"] if find_spec("imageio_ffmpeg") else []
    assert [path.name for path in files] == ["interpolation.png", "interpolation.gif", *videos]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in files)
    z = walk(generator, [5, 6, 7], 4, closed=False).flatten(0, 1)
    made = generator.decode(z, torch.full((8,), 5)).double().numpy()
    with Image.open(files[0]) as picture:
        assert picture.info["seeds"] == "5-7"
        assert np.array_equal(np.asarray(picture), image_grid(made, columns=4))
    with Image.open(files[1]) as animation:
        assert animation.n_frames == 3 * FRAMES  # pyright: ignore[reportAttributeAccessIssue]
        assert animation.info["loop"] == 0
        assert animation.size == (256, 256)
    for path in files[2:]:
        assert path.read_bytes()[4:8] == b"ftyp"


def test_a_class_for_all(tmp_path: Path) -> None:
    generator = load(tmp_path / "run", *CONDITIONAL)
    save_interpolation(generator, tmp_path / "out", [5, 6], steps=2, label=8)
    made = generator.sample([5, 6], 8).double().numpy()
    with Image.open(tmp_path / "out" / "interpolation.png") as picture:
        assert picture.info["label"] == "8"
        assert np.abs(np.asarray(picture).astype(int) - image_grid(made, columns=2)).max() <= 1


def test_what_cannot_be_walked_is_refused(tmp_path: Path) -> None:
    generator, points = load(tmp_path / "a", *MLP), load(tmp_path / "b", *RING)
    for seeds, steps in (([3], 5), (range(100), 100)):
        with pytest.raises(ConfigError, match="--seeds"):
            save_interpolation(generator, tmp_path / "out", list(seeds), steps=steps)
    with pytest.raises(ConfigError, match="--interpolate"):
        save_interpolation(points, tmp_path / "out", [0, 1])
    assert not (tmp_path / "out").exists()
