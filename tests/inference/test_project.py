"""Projection: pictures that a generator made are found again, and what cannot be projected is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.load import load_generator
from ganscale.inference.project import distance, project, read_pictures, save_projection
from tests.runs import MLP, RING, saved

CONDITIONAL = (*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection")


def load(folder: Path, *overrides: str) -> LoadedGenerator:
    """A generator whose images differ by more than a projection leaves."""
    saved(folder, *overrides, "train.precision=float64")
    generator = load_generator(folder)
    with torch.no_grad():
        for weight in generator.network.parameters():
            weight.mul_(2.0)
    return generator


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_a_generated_picture_is_found_again(latent: str, tmp_path: Path) -> None:
    generator = load(tmp_path, *MLP, f"model.latent={latent}")
    targets = generator.sample([70_001, 70_002])
    others = (generator.sample(64)[:, None] - targets).square().flatten(2).mean(2).sqrt().amin(0)
    found = project(generator, targets, iterations=300)
    assert found.space == "z"
    assert found.latents.shape == (2, 8)
    torch.testing.assert_close(generator.decode(found.latents), found.images)
    rms = (found.images - targets).square().flatten(1).mean(1).sqrt()
    torch.testing.assert_close(found.distances, rms)
    assert (rms < 0.2 * others).all(), (rms, others)
    if latent == "uniform":
        assert found.latents.abs().max() <= 1.0
    else:
        assert ((found.latents.norm(dim=1) - 8.0**0.5).abs() <= 1.5 + 1e-9).all()


def test_the_same_arguments_find_the_same(tmp_path: Path) -> None:
    generator = load(tmp_path, *MLP)
    targets = generator.sample([5])
    first, again = (project(generator, targets, iterations=20, seed=1) for _ in range(2))
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.latents, project(generator, targets, iterations=20, seed=2).latents)


def test_the_class_of_a_conditional_generator_is_given(tmp_path: Path) -> None:
    generator = load(tmp_path, *CONDITIONAL)
    targets = generator.sample([5], 7)
    right, wrong = (project(generator, targets, label, iterations=200).distances for label in (7, 2))
    assert right < wrong


def test_coarse_bands_count_as_much_as_fine_ones() -> None:
    images = torch.zeros(2, 1, 64, 64, dtype=torch.float64)
    images[0] += 0.1
    images[1, :, ::2] += 0.1
    images[1, :, 1::2] -= 0.1
    even, fine = distance(images, torch.zeros_like(images))
    torch.testing.assert_close(even, torch.tensor(0.01, dtype=torch.float64))
    assert fine < 1.5 * even


def test_files_are_written(tmp_path: Path) -> None:
    generator = load(tmp_path / "run", *MLP)
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(pictures):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    files, found = save_projection(generator, tmp_path / "out", pictures, iterations=5)
    assert [file.name for file in files] == ["projection.png", "projection.npz", "projection.json"]
    with np.load(files[1]) as arrays:
        np.testing.assert_array_equal(arrays["latents"], found.latents.numpy())
        assert str(arrays["space"]) == "z"
    alone = save_projection(generator, tmp_path / "alone", pictures[1:], iterations=5)[1]
    assert torch.equal(alone.latents[0], found.latents[1]), "a picture's latent does not depend on the others"


def test_pictures_are_read_as_the_run_reads_its_data(tmp_path: Path) -> None:
    generator = load(tmp_path / "run", *MLP)
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 255
    Image.fromarray(wide).save(tmp_path / "wide.png")
    torch.testing.assert_close(
        read_pictures([tmp_path / "wide.png"], generator), torch.ones(1, 1, 8, 8, dtype=torch.float64)
    )


def test_what_cannot_be_projected_is_refused(tmp_path: Path) -> None:
    generator = load(tmp_path / "run", *MLP)
    (tmp_path / "text.png").write_text("no picture")
    for path in (tmp_path / "text.png", tmp_path / "missing.png"):
        with pytest.raises(ConfigError) as caught:
            read_pictures([path], generator)
        assert (caught.value.key, caught.value.value) == ("--project", str(path))
    Image.new("L", (8, 8)).save(tmp_path / "ok.png")
    with pytest.raises(ConfigError) as caught:
        save_projection(generator, tmp_path, [tmp_path / "ok.png"], space="w")
    assert caught.value.key == "--space"
    saved(tmp_path / "ring", *RING)
    with pytest.raises(ConfigError, match="points"):
        read_pictures([tmp_path / "ok.png"], load_generator(tmp_path / "ring"))
    with pytest.raises(ValueError, match="shape"):
        project(generator, torch.zeros(1, 3, 8, 8))
