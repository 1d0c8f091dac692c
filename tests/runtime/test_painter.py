"""Pictures of a run: what is on them, and that nothing moves when they are made."""

import numpy as np
import pytest
import torch

from ganscale.build import build
from ganscale.runtime.painter import MOST_CLASSES, PER_CLASS, STEPS, WALKS, Painter
from tests.runs import MLP, RING, tiny

CONDITIONAL = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
CPU = torch.device("cpu")
TILE = 58


def test_every_picture_has_its_rows_and_columns() -> None:
    painter = Painter(build(tiny(*MLP, *CONDITIONAL, "log.num_samples=9"), device=CPU))
    first, later = painter.details(first=True), painter.details(first=False)
    assert list(first) == ["interpolation", "classes", "real"]
    assert list(later) == ["interpolation", "classes"]
    assert first["interpolation"].shape == (WALKS * TILE + 2, STEPS * TILE + 2, 3)
    assert first["classes"].shape == (MOST_CLASSES * TILE + 2, PER_CLASS * TILE + 2, 3)
    assert first["real"].shape == painter.paint().shape == (3 * TILE + 2, 3 * TILE + 2, 3)
    for name, picture in later.items():
        np.testing.assert_array_equal(picture, first[name])


def test_rows_are_classes_and_columns_latents() -> None:
    experiment = build(tiny(*MLP, *CONDITIONAL, "log.num_samples=9"), device=CPU)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in experiment.state.ema.module.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=draw))
    picture = Painter(experiment).details(first=True)["classes"]
    tiles = [
        [picture[2 + r * TILE : r * TILE + TILE, 2 + c * TILE : c * TILE + TILE].tobytes() for c in range(PER_CLASS)]
        for r in range(MOST_CLASSES)
    ]
    assert all(len(set(row)) == PER_CLASS for row in tiles)
    assert all(len(set(column)) == MOST_CLASSES for column in zip(*tiles, strict=True))


@pytest.mark.parametrize("latent", ["normal", "uniform"])
def test_an_interpolation_starts_and_ends_at_its_latents(latent: str) -> None:
    experiment = build(tiny(*MLP, f"model.latent={latent}"), device=CPU)
    painter = Painter(experiment)
    seen: list[torch.Tensor] = []
    experiment.state.ema.module.register_forward_hook(lambda module, given, made: seen.append(given[0]))
    assert list(painter.details(first=False)) == ["interpolation"]
    z = seen[0].view(WALKS, STEPS, -1)
    torch.testing.assert_close(z[:, 0], painter._more[:WALKS])
    torch.testing.assert_close(z[:, -1], painter._more[WALKS : 2 * WALKS])
    straight = torch.lerp(z[:, 0], z[:, -1], 3 / (STEPS - 1))
    assert torch.allclose(z[:, 3], straight) == (latent == "uniform")


def test_points_have_a_scatter_plot_alone() -> None:
    painter = Painter(build(tiny(*RING), device=CPU))
    assert painter.details(first=True) == {}
    assert painter.paint().shape == (512, 512, 3)
