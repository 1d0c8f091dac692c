"""The contract: the number of workers and of micro-batches does not change the trajectory of the parameters."""

import pytest
import torch

from tests.fleet import Fleet
from tests.runs import BATCH_NORM, DCGAN, MLP, RING
from tests.trajectories import (
    TOLERANCE,
    assert_agree,
    assert_same,
    check_world,
    continued,
    in_turn,
    load_state,
    trajectory,
)

pytestmark = pytest.mark.multiprocess

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


@pytest.mark.parametrize(("overrides", "world_size"), in_turn(GRID | MORE, quick=(3, 2, 5)))
def test_world_size_does_not_change_the_trajectory(fleet: Fleet, alone, overrides, world_size: int) -> None:
    check_world(fleet, alone, overrides, world_size)


@pytest.mark.parametrize(("overrides", "world_size"), in_turn(BATCH_NORMS, quick=(2, 3)))
def test_nor_does_it_with_batch_norm(fleet: Fleet, alone, overrides, world_size: int) -> None:
    check_world(fleet, alone, overrides, world_size)


@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("overrides", NETWORKS.values(), ids=NETWORKS)
def test_accumulation_does_not_change_the_trajectory(fleet: Fleet, alone, overrides, world_size: int) -> None:
    whole = fleet.run(trajectory, world_size, overrides)[0]
    for accumulation in (2, 3):
        assert_agree(fleet.run(trajectory, world_size, (*overrides, f"train.accumulation={accumulation}"))[0], whole)


RESUMES = {
    "mlp": (*MLP, "train.precision=float32"),
    "mlp-d2-a2": (*MLP, "train.precision=float32", "optim.d_steps=2", "train.accumulation=2"),
    "dcgan-batch_norm": (*DCGAN, *BATCH_NORM, "train.precision=float32", "train.reuse_fakes=false"),
    "ring": (*RING, "train.precision=float32"),
}


@pytest.mark.parametrize("world_size", [1, pytest.param(2, marks=pytest.mark.slow), 3])
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
