"""Pictures of a run: what is on them, and that nothing moves when they are made."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ganscale.data.source import Finite
from ganscale.inference import neighbors
from ganscale.inference.neighbors import nearest
from ganscale.run import reals
from ganscale.run.samples import MOST_CLASSES, PER_CLASS, STEPS, WALKS, SampleRenderer
from ganscale.tracking.images import image_grid, to_pixels
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


TABLE = ("log.table_samples=7", "log.table_reals=300")


def test_a_table_has_the_rows_of_the_grid() -> None:
    experiment = lively(*TABLE)
    renderer = SampleRenderer(experiment)
    table = renderer.table()
    z, labels = renderer._z[:7], torch.arange(7)
    made = experiment.state.ema.module(z, labels).detach()
    np.testing.assert_array_equal(table.samples, to_pixels(made.numpy()))
    assert list(table.classes) == list("0123456")
    discriminator = experiment.state.discriminator.eval()
    np.testing.assert_allclose(table.logits, discriminator(made, labels).detach().numpy())
    source = experiment.sampler.source
    assert isinstance(source, Finite)
    assert len(set(renderer._among.tolist())) == 300
    distances = (source.gather(renderer._among)[0] - made[:, None]).square().mean((2, 3, 4)).sqrt()
    np.testing.assert_allclose(table.distances, distances.min(1).values)
    np.testing.assert_array_equal(table.rows, renderer._among[distances.argmin(1)])
    np.testing.assert_array_equal(table.nearest, to_pixels(source.gather(torch.from_numpy(table.rows))[0].numpy()))


def test_a_whole_set_is_searched_where_it_is_not_larger() -> None:
    experiment = lively("log.table_samples=2", "log.table_reals=1_000_000")
    table = SampleRenderer(experiment).table()
    source = experiment.sampler.source
    assert isinstance(source, Finite)
    made = experiment.state.ema.module(SampleRenderer(experiment)._z[:2], torch.arange(2)).detach()
    np.testing.assert_array_equal(table.rows, nearest(made, source, 1).rows[:, 0])


def test_the_real_images_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = SampleRenderer(lively(*TABLE))
    source = renderer._source
    assert isinstance(source, Finite)
    read: list[int] = []
    gather = source.gather
    monkeypatch.setattr(source, "gather", lambda rows: read.append(len(rows)) or gather(rows))
    first = renderer.table()
    assert sum(read) == 1 + 300 + 7, "the shape, all of them, and the nearest"
    read.clear()
    np.testing.assert_array_equal(renderer.table().rows, first.rows)
    assert sum(read) == 7


def test_large_images_are_searched_smaller_and_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [reals.most(shape) for shape in ((3, 1024, 1024), (3, 256, 256), (3, 64, 64))] == [682, 10922, 21845]
    monkeypatch.setattr(reals, "SIDE", 4)
    monkeypatch.setattr(reals, "KEPT_BYTES", 40 * 4 * 4)
    monkeypatch.setattr(neighbors, "BLOCK_BYTES", 8 * 8 * 8 * 9)
    said: list[str] = []
    experiment = lively(*TABLE)
    mirrored = experiment.config.data.model_copy(update={"mirror": True})  # which a config of digits refuses
    experiment = replace(experiment, config=experiment.config.model_copy(update={"data": mirrored}))
    renderer = SampleRenderer(experiment, said.append)
    table = renderer.table()
    assert said == ["tables of samples search 40 real images of this size, not log.table_reals = 300"]
    source = experiment.sampler.source
    assert isinstance(source, Finite)
    among = source.gather(renderer._among)[0]
    made = experiment.state.ema.module(renderer._z[:7], torch.arange(7)).detach()
    small, sides = torch.nn.functional.avg_pool2d(made, 2), torch.nn.functional.avg_pool2d(among, 2)
    coarse = torch.stack([(each - small[:, None]).square().mean((2, 3, 4)) for each in (sides, sides.flip(3))])
    np.testing.assert_array_equal(table.rows, renderer._among[coarse.amin(0).argmin(1)])
    found = source.gather(torch.from_numpy(table.rows))[0]
    exact = torch.stack([(each - made).square().mean((1, 2, 3)).sqrt() for each in (found, found.flip(3))])
    np.testing.assert_allclose(table.distances, exact.amin(0), rtol=1e-6)
    assert neighbors.block_rows(8 * 8) == 9


@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_table_moves_nothing(norm: str) -> None:
    experiment = lively(*TABLE, f"model.discriminator.norm={norm}")
    discriminator = experiment.state.discriminator
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}
    modes = [module.training for module in discriminator.modules()]
    SampleRenderer(experiment).table()
    torch.testing.assert_close(discriminator.state_dict(), before, rtol=0, atol=0)
    assert [module.training for module in discriminator.modules()] == modes
    assert all(modes)


def test_what_cannot_be_known_is_left_out() -> None:
    none = [f"model.{side}.conditioning=none" for side in ("generator", "discriminator")]
    packed = lively("log.table_samples=5", "log.table_reals=0", "model.packing=2", *none)
    table = SampleRenderer(packed).table()
    assert (len(table.nearest), len(table.distances), len(table.rows), len(table.classes)) == (0, 0, 0, 0)
    assert np.isnan(table.logits).tolist() == [False] * 4 + [True], "the fifth has no partner"
    assert table.logits[0] == table.logits[1] != table.logits[2] == table.logits[3]
    with torch.no_grad():
        next(packed.state.ema.module.parameters()).fill_(torch.nan)
    assert np.isnan(SampleRenderer(packed).table().logits).all()


def test_samples_that_are_not_finite_have_a_nearest_image_all_the_same() -> None:
    broken = lively(*TABLE)
    with torch.no_grad():
        next(broken.state.ema.module.parameters()).fill_(torch.nan)
    renderer = SampleRenderer(broken)
    assert set(renderer.table().rows.tolist()) <= set(renderer._among.tolist())
