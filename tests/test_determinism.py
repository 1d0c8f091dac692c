"""The contract: the number of workers and of micro-batches does not change the trajectory of the parameters."""

import io
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from ganscale.build import build
from ganscale.loop import train
from tests.fleet import Fleet
from tests.runs import BATCH_NORM, DCGAN, MLP, RING, tiny

pytestmark = pytest.mark.multiprocess

ITERATIONS = 50
LOOK_EVERY = 5
TOLERANCE = 1e-9

NETWORKS = {"mlp": MLP, "dcgan": DCGAN}
GRID = {
    f"{network}-{loss}-d{d_steps}-a{accumulation}": (
        *overrides,
        f"loss.name={loss}",
        f"optim.d_steps={d_steps}",
        f"train.accumulation={accumulation}",
    )
    for network, overrides in NETWORKS.items()
    for loss in ("minimax", "non_saturating")
    for d_steps in (1, 2)
    for accumulation in (1, 2)
}
SHALLOW = (*MLP, "model.generator.depth=1", "model.discriminator.depth=1")
MORE = {
    "mlp-fresh_fakes": (*MLP, "train.reuse_fakes=false"),
    "dcgan-fresh_fakes-d2-a2": (*DCGAN, "train.reuse_fakes=false", "optim.d_steps=2", "train.accumulation=2"),
    "dcgan-layer_norm": (*DCGAN, "model.generator.norm=layer", "model.discriminator.norm=layer"),
    "mlp-uniform": (*MLP, "model.latent=uniform"),
    "mlp-hard_labels": (*MLP, "loss.label_smoothing=0"),
    "mlp-ring": RING,
    "mlp-uneven_micro_batches": (*MLP, "train.batch_size=13", "train.accumulation=2"),
}
BATCH_NORMS = {
    "mlp": (*MLP, *BATCH_NORM),
    "mlp-d2-a2": (*SHALLOW, *BATCH_NORM, "optim.d_steps=2", "train.accumulation=2"),
    "mlp-fresh_fakes": (*SHALLOW, *BATCH_NORM, "train.reuse_fakes=false"),
    "dcgan": (*DCGAN, *BATCH_NORM),
}


def trajectory(overrides: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters and buffers of G, D and the moving average, every few iterations: `[ITERATIONS / 5, size]` each."""
    experiment = build(tiny(*overrides))
    state = experiment.state
    networks = {"generator": state.generator, "discriminator": state.discriminator, "ema": state.ema.module}
    rows: dict[str, list[Tensor]] = {f"{name}.{key}": [] for name, net in networks.items() for key in net.state_dict()}
    every = experiment.feed.images_per_iteration
    intervals = {"look": LOOK_EVERY * every}
    for _ in train(state, experiment.step, experiment.feed, intervals=intervals, until=ITERATIONS * every):
        for name, network in networks.items():
            for key, value in network.state_dict().items():
                rows[f"{name}.{key}"].append(value.flatten().clone())
    return {name: torch.stack(values) for name, values in rows.items()}


@pytest.fixture(scope="module")
def alone(fleet: Fleet):
    """The trajectory of one worker, computed once per run."""
    return lru_cache(lambda overrides: fleet.run(trajectory, 1, overrides)[0])


def assert_agree(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each tensor whenever it was looked at, relative to its own largest entry."""
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        assert wanted.isfinite().all(), f"{name} diverged: nothing is compared"
        error = (actual[name] - wanted).abs().amax(dim=1) / wanted.abs().amax(dim=1).clamp_min(1e-300)
        worst = error.max().item()
        assert worst <= TOLERANCE, (
            f"{name}: relative error {worst:.1e} in iteration {LOOK_EVERY * (int(error.argmax()) + 1)}"
        )


def check_world(fleet: Fleet, alone, overrides: tuple[str, ...], world_size: int) -> None:
    """All replicas hold the same bits, and they agree with one worker."""
    ranks = fleet.run(trajectory, world_size, overrides)
    expected = alone(overrides)
    assert_agree(ranks[0], expected)
    for other in ranks[1:]:
        for name in expected:
            assert torch.equal(other[name], ranks[0][name]), f"replicas differ in {name}"


@pytest.mark.parametrize("world_size", [2, 3, 4, 5])
@pytest.mark.parametrize("overrides", [*GRID.values(), *MORE.values()], ids=[*GRID, *MORE])
def test_world_size_does_not_change_the_trajectory(fleet: Fleet, alone, overrides, world_size: int) -> None:
    check_world(fleet, alone, overrides, world_size)


@pytest.mark.parametrize("world_size", [2, 3, *(pytest.param(size, marks=pytest.mark.slow) for size in (4, 5))])
@pytest.mark.parametrize("overrides", BATCH_NORMS.values(), ids=BATCH_NORMS)
def test_nor_does_it_with_batch_norm(fleet: Fleet, alone, overrides, world_size: int) -> None:
    check_world(fleet, alone, overrides, world_size)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("overrides", NETWORKS.values(), ids=NETWORKS)
def test_accumulation_does_not_change_the_trajectory(fleet: Fleet, alone, overrides, world_size: int) -> None:
    whole = fleet.run(trajectory, world_size, overrides)[0]
    for accumulation in (2, 3):
        assert_agree(fleet.run(trajectory, world_size, (*overrides, f"train.accumulation={accumulation}"))[0], whole)


def continued(overrides: tuple[str, ...], saved: bytes | None, until: int) -> bytes:
    """The state after `until` iterations, from the start or from a saved state; as a checkpoint would hold it."""
    experiment = build(tiny(*overrides))
    state = experiment.state
    if saved is not None:
        state.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
    every = experiment.feed.images_per_iteration
    for _ in train(state, experiment.step, experiment.feed, intervals={}, until=until * every):
        pass
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    return file.getvalue()


RESUMES = {
    "mlp": (*MLP, "train.precision=float32"),
    "mlp-d2-a2": (*MLP, "train.precision=float32", "optim.d_steps=2", "train.accumulation=2"),
    "dcgan-batch_norm": (*DCGAN, *BATCH_NORM, "train.precision=float32", "train.reuse_fakes=false"),
    "ring": (*RING, "train.precision=float32"),
}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("overrides", RESUMES.values(), ids=RESUMES)
def test_a_resumed_run_is_bit_identical(fleet: Fleet, overrides, world_size: int) -> None:
    through = fleet.run(continued, world_size, overrides, None, 11)[0]
    half = fleet.run(continued, world_size, overrides, None, 5)[0]
    resumed = fleet.run(continued, world_size, overrides, half, 11)[0]
    assert half != through
    assert_same(load_state(resumed), load_state(through))


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 2)])
def test_a_run_may_go_on_at_another_world_size(fleet: Fleet, before: int, after: int) -> None:
    half = fleet.run(continued, before, MLP, None, 20)[0]
    resumed, expected = (
        load_state(fleet.run(continued, world, MLP, start, 40)[0]) for world, start in ((after, half), (1, None))
    )
    torch.testing.assert_close(resumed, expected, rtol=TOLERANCE, atol=1e-12)


def load_state(saved: bytes) -> dict:
    return torch.load(io.BytesIO(saved), weights_only=True)


def assert_same(actual: dict, expected: dict) -> None:
    """To the bit, optimizers and counters included."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)
