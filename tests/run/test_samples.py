"""Pictures of a run: what is on them, and that nothing moves when they are made."""

import numpy as np
import pytest
import torch

from ganscale.run.samples import MOST_CLASSES, PER_CLASS, STEPS, WALKS, SampleRenderer
from ganscale.tracking.images import image_grid
from ganscale.training.build import Experiment, build
from tests.runs import MLP, RING, tiny

CONDITIONAL = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
CPU = torch.device("cpu")
TILE = 58


def test_every_picture_has_its_rows_and_columns() -> None:
    renderer = SampleRenderer(build(tiny(*MLP, *CONDITIONAL, "log.num_samples=9"), device=CPU))
    first, later = renderer.details(first=True), renderer.details(first=False)
    assert list(first) == ["interpolation", "classes", "real"]
    assert list(later) == ["interpolation", "classes"]
    assert first["interpolation"].shape == (WALKS * TILE + 2, STEPS * TILE + 2, 3)
    assert first["classes"].shape == (MOST_CLASSES * TILE + 2, PER_CLASS * TILE + 2, 3)
    assert first["real"].shape == renderer.render().shape == (3 * TILE + 2, 3 * TILE + 2, 3)
    for name, picture in later.items():
        np.testing.assert_array_equal(picture, first[name])


def lively(*overrides: str) -> Experiment:
    """A conditional run whose samples differ from class to class."""
    experiment = build(tiny(*MLP, *CONDITIONAL, "log.num_samples=25", *overrides), device=CPU)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experiment.state.ema.module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw))
    return experiment


def tile(picture: np.ndarray, row: int, column: int) -> np.ndarray:
    top, left = 2 + row * TILE, 2 + column * TILE
    return picture[top : top + TILE - 2, left : left + TILE - 2]


def sample(experiment: Experiment, z: torch.Tensor, label: int) -> np.ndarray:
    """What the average makes of a latent and a class, as a tile."""
    made = experiment.state.ema.module(z[None], torch.tensor([label]))
    return tile(image_grid(made.detach().numpy()), 0, 0)


def test_row_r_is_class_r_and_column_c_latent_c() -> None:
    experiment = lively()
    renderer = SampleRenderer(experiment)
    picture = renderer.details(first=True)["classes"]
    for row in range(MOST_CLASSES):
        for column in range(PER_CLASS):
            expected = sample(experiment, renderer._more[column], row)
            np.testing.assert_array_equal(tile(picture, row, column), expected, f"row {row}, column {column}")
            assert not np.array_equal(expected, sample(experiment, renderer._more[column], (row + 1) % MOST_CLASSES))


def test_the_grid_has_the_classes_in_turn() -> None:
    experiment = lively()
    renderer = SampleRenderer(experiment)
    picture = renderer.render()
    for index in range(25):
        expected = sample(experiment, renderer._z[index], index % 10)
        np.testing.assert_array_equal(tile(picture, index // 5, index % 5), expected, f"image {index}")


def test_an_interpolation_keeps_the_class_of_its_row() -> None:
    experiment = lively()
    renderer = SampleRenderer(experiment)
    picture = renderer.details(first=False)["interpolation"]
    for row in range(WALKS):
        for column, z in ((0, renderer._more[row]), (STEPS - 1, renderer._more[WALKS + row])):
            np.testing.assert_allclose(tile(picture, row, column).astype(int), sample(experiment, z, row), atol=1)


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_an_interpolation_starts_and_ends_at_its_latents(latent: str) -> None:
    experiment = build(tiny(*MLP, f"model.latent={latent}"), device=CPU)
    renderer = SampleRenderer(experiment)
    seen: list[torch.Tensor] = []
    experiment.state.ema.module.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    assert list(renderer.details(first=False)) == ["interpolation"]
    z = seen[0].view(WALKS, STEPS, -1)
    torch.testing.assert_close(z[:, 0], renderer._more[:WALKS])
    torch.testing.assert_close(z[:, -1], renderer._more[WALKS : 2 * WALKS])
    straight = torch.lerp(z[:, 0], z[:, -1], 3 / (STEPS - 1))
    assert torch.allclose(z[:, 3], straight) == (latent == "uniform")


def test_points_have_a_scatter_plot_alone() -> None:
    renderer = SampleRenderer(build(tiny(*RING), device=CPU))
    assert renderer.details(first=True) == {}
    assert renderer.render().shape == (512, 512, 3)
