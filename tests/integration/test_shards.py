"""`train.shards`: the bits of weights, optimizers and rows do not depend on the number of workers."""

import io
import math

import pytest
import torch

from ganscale.run.health_monitor import TIMES
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.fleet import Fleet
from tests.runs import BATCH_NORM, BIGGAN, DCGAN, MLP, RESNET, RING, STYLEGAN2, TRANSFORMER, tiny
from tests.trajectories import assert_agree, assert_same, load_state, trajectory

SINGLE = ("train.precision=float32", "train.batch_size=13", "train.shards=5", "train.device=cpu")
PROJECTION = ("model.generator.conditioning=norm", "model.discriminator.conditioning=projection")
REACGAN = (
    *("model.generator.conditioning=norm", "model.generator.norm=batch"),
    *("model.discriminator.conditioning=reacgan", "loss.name=hinge"),
)
RPGAN = ("loss.name=relativistic_pairing", "loss.label_smoothing=0", "penalty.r2=0.1", "penalty.r1=0.1")
AVERAGE = ("loss.name=relativistic_average", "loss.label_smoothing=0")
ADA = ("augment.transforms=[flip, cutout]", "augment.adaptive=true", "augment.every=2", "augment.speed=100")
STDDEV = ("model.discriminator.minibatch_stddev=true",)
RUNS = {
    "mlp-d2-a2": (*MLP, "optim.d_steps=2", "train.accumulation=2"),
    "dcgan-batch_norm-r1": (*DCGAN, *BATCH_NORM, "penalty.r1=1", "penalty.r1_every=2", "optim.clip_grad_norm_d=1"),
    "resnet-projection": (*RESNET, *PROJECTION, "model.generator.norm=batch", "loss.name=hinge"),
}
MORE = {
    "ring-fresh_fakes": (*RING, "train.reuse_fakes=false"),
    "mlp-average-features": (
        *MLP,
        "loss.name=relativistic_average",
        "loss.label_smoothing=0",
        "loss.feature_matching=1",
    ),
    "dcgan-stddev-ada-gp": (*DCGAN, *STDDEV, *ADA, "penalty.gp=1", "train.reuse_fakes=false"),
    "dcgan-recomputed": (*DCGAN, *BATCH_NORM, "train.checkpoint_activations=true", "train.channels_last=true"),
    "mlp-packing-dragan": (*MLP, "model.packing=2", "penalty.dragan=1", "train.batch_size=12"),
    "resnet-reacgan": (*RESNET, *REACGAN, "penalty.orthogonal=1e-3", "optim.name_d=adamw", "optim.weight_decay_d=0.1"),
    "mlp-spectral": (*MLP, "model.discriminator.spectral_norm=true", "loss.name=hinge"),
    "mlp-lecam": (*MLP, "penalty.lecam=0.3", "train.accumulation=2"),
    "mlp-auto_gamma": (*MLP, *RPGAN[:2], "penalty.auto=true"),
    "mlp-bfloat16": (*MLP, *BATCH_NORM, "train.precision=bfloat16"),
    "r1_r2": (*DCGAN, *BATCH_NORM, *RPGAN),
    "stylegan2": (
        *STYLEGAN2,
        "model.discriminator.stddev_group=4",
        "penalty.r1=1",
        "penalty.r1_every=3",
        "penalty.r1_separate=true",
        "penalty.path_length=2",
        "penalty.path_length_every=2",
    ),
    "biggan": (
        *BIGGAN,
        "loss.name=hinge",
        "penalty.orthogonal=1e-3",
        "train.reuse_reals=false",
        "train.reuse_fakes=false",
    ),
    "transformer": (*TRANSFORMER, *RPGAN, "penalty.r1_mode=finite_difference", "penalty.r2_mode=finite_difference"),
}
QUICK = (*RUNS, "mlp-spectral", "mlp-lecam", "mlp-bfloat16", "dcgan-stddev-ada-gp")
EVERY = [
    pytest.param(case, id=name, marks=() if name in QUICK else pytest.mark.slow) for name, case in (RUNS | MORE).items()
]


def segment(overrides: tuple[str, ...], saved: bytes | None, until: int) -> tuple[bytes, list[dict[str, float]]]:
    """State and rows, every other iteration, of iterations up to `until`, from the start or from a saved state."""
    experiment = build(tiny(*SINGLE, *overrides))
    state, every = experiment.state, experiment.sampler.images_per_iteration
    if saved is not None:
        state.load_state_dict(load_state(saved))
    rows = []
    for tick in train(experiment, intervals={"log": 2 * every}, until=until * every):
        metrics = {name: value for name, value in tick.metrics.items() if name not in TIMES}
        rows.append({"images": tick.images, **metrics, **{f"bins_{k}": sum(v) for k, v in tick.histograms.items()}})
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    return file.getvalue(), rows


@pytest.mark.multiprocess
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_one_hash_through_other_numbers_of_workers(fleet: Fleet, overrides: tuple[str, ...]) -> None:
    through, rows = segment(overrides, None, 8)
    saved, found = None, []
    for world_size, until in ((2, 2), (3, 6), (1, 8)):
        ranks = fleet.run(segment, world_size, overrides, saved, until)
        saved = ranks[0][0]
        found += ranks[0][1]
        for other, _ in ranks[1:]:
            assert_same(load_state(other), load_state(saved))
    assert saved is not None
    assert_same(load_state(saved), load_state(through))
    assert found == rows
    assert all(math.isfinite(value) for row in rows for value in row.values())


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.parametrize("overrides", [*MORE.values(), *RUNS.values()], ids=[*MORE, *RUNS])
def test_every_world_size_has_the_same_bits(fleet: Fleet, overrides: tuple[str, ...]) -> None:
    alone, rows = segment(overrides, None, 6)
    for world_size in (2, 3, 4, 5):
        state, found = fleet.run(segment, world_size, overrides, None, 6)[0]
        assert_same(load_state(state), load_state(alone))
        assert found == rows


@pytest.mark.parametrize("overrides", EVERY)
def test_the_bits_do_not_depend_on_how_many_threads_run_at_once(overrides: tuple[str, ...]) -> None:
    first, rows = segment(overrides, None, 4)
    other, found = segment((*overrides, "cluster.cpus_per_worker=3"), None, 4)
    assert_same(load_state(other), load_state(first))
    assert found == rows


@pytest.mark.parametrize("overrides", [each for each in EVERY if each.id != "mlp-bfloat16"])
def test_shards_compute_what_the_whole_batch_does(alone, overrides: tuple[str, ...]) -> None:
    assert_agree(trajectory((*overrides, "train.shards=4", "train.device=cpu")), alone(overrides))


def test_one_shard_is_the_whole_batch() -> None:
    state, rows = segment((*MLP, "train.shards=1"), None, 3)
    plain, found = segment((*MLP, "train.shards=0"), None, 3)
    assert_same(load_state(state), load_state(plain))
    assert found == rows
