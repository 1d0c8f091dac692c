"""The contract for the whole family: every objective, penalty and trick whose rows meet, at any number of workers."""

import pytest
import torch

from ganscale.run.health_monitor import TIMES
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.fleet import Fleet
from tests.runs import BIGGAN, DCGAN, MLP, R3GAN, RESNET, RING, STYLEGAN2, TRANSFORMER, tiny
from tests.trajectories import assert_agree, assert_same, check_world, continued, in_turn, load_state, trajectory

pytestmark = pytest.mark.multiprocess

RPGAN = ("loss.name=relativistic_pairing", "penalty.r1=1", "penalty.r2=1")
ESTIMATED = ("penalty.r1_mode=finite_difference", "penalty.r2_mode=finite_difference")
D_BATCH = ("model.discriminator.norm=batch", "model.discriminator.depth=1", "model.generator.depth=1")
ACCUMULATED = "train.accumulation=2"
PROJECTION = ("model.generator.conditioning=norm", "model.discriminator.conditioning=projection")
CONCAT = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
ACGAN = ("model.generator.conditioning=concat", "model.discriminator.conditioning=acgan")
DIFFAUGMENT = "augment.transforms=[flip, rotate90, brightness, saturation, contrast, translation, cutout]"
ADA = (DIFFAUGMENT, "augment.adaptive=true", "augment.p=0.1", "augment.speed=600", "augment.every=2")
REACGAN = (*ACGAN[:1], "model.discriminator.conditioning=reacgan", "loss.name=hinge")
WHOLE_ADA = (
    *("augment.transforms=[bgcfnc]", "augment.strength={color: 0.5}"),
    "augment.p={start: 0.2, end: 1, over: 400}",
)
SCHEDULES = (
    "optim.lr_g={start: 1e-3, end: 1e-4, over: 500, begin: 60}",
    "optim.lr_d={start: 1e-3, end: 1e-4, over: 400, curve: exponential}",
    "optim.beta2={start: 0.9, end: 0.99, over: 500, curve: cosine}",
    "penalty.r1={start: 2, end: 0.2, over: 500}",
    "augment.noise={start: 0.3, end: 0, over: 300}",
    "ema.half_life={start: 0, end: 100, over: 200}",
    "ema.rampup=0.05",
)
SPECTRAL = ("model.discriminator.spectral_norm=true", "model.generator.spectral_norm=true", "loss.name=hinge")
LECAM = "penalty.lecam=0.3"
NEW_REALS = ("train.reuse_reals=false", "train.reuse_fakes=false")
RECOMPUTED = "train.checkpoint_activations=true"
STDDEV = "model.discriminator.minibatch_stddev=true"
SEPARATE = ("penalty.r1=1", "penalty.r1_every=3", "penalty.r1_separate=true")
LENGTHS = ("penalty.path_length=2", "penalty.path_length_every=2")
LAZY = ("optim.d_steps=2", "penalty.r1=1", "penalty.r1_every=3", "penalty.gp=1", "penalty.gp_every=4")

BIG = (*BIGGAN, "loss.name=hinge", "penalty.orthogonal=1e-3")

CORNERS = {
    "biggan": BIG,
    "biggan-a2-d2": (*BIG, ACCUMULATED, "optim.d_steps=2"),
    "wgan_gp-layer_norm": (*DCGAN, "loss.name=wasserstein", "penalty.gp=10", "model.discriminator.norm=layer"),
    "r3gan": (*R3GAN, *RPGAN),
    "transformer": (*TRANSFORMER, *RPGAN, *ESTIMATED),
    "transformer-recomputed": (*TRANSFORMER, *RPGAN, RECOMPUTED),
    "sngan": (*RESNET, *SPECTRAL),
    "stylegan2": (*STYLEGAN2, *SEPARATE, *LENGTHS),
    "stylegan2-conditional-d2-fresh": (
        *STYLEGAN2,
        *SEPARATE,
        *LENGTHS,
        *CONCAT,
        "optim.d_steps=2",
        "train.reuse_fakes=false",
    ),
    "stylegan2-a2": (*STYLEGAN2, *SEPARATE, *LENGTHS, RECOMPUTED, ACCUMULATED),
    "path_length-batch_norm": (*MLP, "model.generator.norm=batch", *LENGTHS, "loss.name=hinge"),
    "r1_separate-stddev": (*R3GAN, STDDEV, *SEPARATE, "model.packing=2", "train.batch_size=20"),
    "relativistic_average": (*MLP, "loss.name=relativistic_average"),
    "relativistic_average-a2": (*MLP, "loss.name=relativistic_average", ACCUMULATED),
    "batch_norm-gp": (*MLP, *D_BATCH, "penalty.gp=1"),
    "batch_norm-r1-a2": (*MLP, *D_BATCH, "penalty.r1=0.1", ACCUMULATED),
    "batch_norm-rpgan-r1-r2": (*MLP, *D_BATCH, *RPGAN[:1], "penalty.r1=0.1", "penalty.r2=0.1"),
    "stddev": (*R3GAN, *RPGAN, STDDEV),
    "stddev-gp-a2": (*MLP, STDDEV, "penalty.gp=1", ACCUMULATED),
    "packing2": (*DCGAN, "model.packing=2", "penalty.gp=1", "train.batch_size=20"),
    "packing3": (*RING, "model.packing=3", "train.batch_size=33", "penalty.r1=1", "penalty.dragan=1"),
    "feature_matching": (*MLP, "loss.feature_matching=1"),
    "feature_matching-a2": (
        *MLP,
        *D_BATCH,
        "loss.feature_matching=1",
        ACCUMULATED,
        "model.packing=2",
        "train.batch_size=20",
    ),
    "dragan-drift": (*DCGAN, "penalty.dragan=10", "penalty.drift=0.01"),
    "lecam": (*DCGAN, "loss.name=hinge", LECAM, "penalty.centering=0.01", "optim.d_steps=2"),
    "new_reals": (*R3GAN, *RPGAN, *NEW_REALS, ACCUMULATED),
    "noise": (*RING, "augment.noise=0.1", "optim.d_steps=2"),
    "diffaugment": (*DCGAN, DIFFAUGMENT, "loss.name=hinge", "penalty.r1=1"),
    "ada": (*DCGAN, *ADA),
    "reacgan-gp": (*DCGAN, *REACGAN, "penalty.gp=1"),
    "reacgan-batch_norm-a2-d2": (*MLP, *D_BATCH, *REACGAN, ACCUMULATED, "optim.d_steps=2"),
    "whole_ada": (*DCGAN, *WHOLE_ADA, "penalty.r1=1"),
    "acgan": (*DCGAN, *ACGAN, "loss.name=hinge", "penalty.gp=1"),
    "projection-conditional_batch_norm": (*DCGAN, *PROJECTION, "model.generator.norm=batch", "loss.name=hinge"),
    "clip_weights": (*MLP, "loss.name=wasserstein", "loss.clip_weights=0.05", "optim.d_steps=3"),
    "clip_gradients": (*MLP, "optim.clip_grad_norm_d=0.1", "optim.clip_grad_norm_g=0.1", "loss.name=least_squares"),
    "schedules": (*MLP, *SCHEDULES),
    "lazy": (*MLP, *LAZY),
    "checkpoint_activations": (*DCGAN, *PROJECTION, "model.generator.norm=batch", RECOMPUTED, "penalty.gp=1"),
    "checkpoint_activations-stddev": (*R3GAN, *RPGAN, STDDEV, RECOMPUTED),
    "finite_difference": (*R3GAN, *RPGAN, *ESTIMATED, DIFFAUGMENT),
    "finite_difference-batch_norm-packing2": (
        *MLP,
        *D_BATCH,
        *RPGAN,
        *ESTIMATED,
        "penalty.sigma=0.1",
        "model.packing=2",
        "train.batch_size=20",
    ),
}


UNEVEN = "train.batch_size=13"
"""5 + 4 + 4 images on 3 workers; a corner's own batch size comes after it."""


@pytest.mark.parametrize(("overrides", "world_size"), in_turn(CORNERS, quick=(3, 2)))
def test_world_size_does_not_change_the_trajectory(fleet: Fleet, alone, overrides, world_size: int) -> None:
    check_world(fleet, alone, (UNEVEN, *overrides), world_size)


RESUMES = {
    "biggan": (*BIG, "optim.d_steps=2"),
    "reacgan": (*BIGGAN, *REACGAN, ACCUMULATED),
    "stylegan2": (*STYLEGAN2, *SEPARATE, *LENGTHS, *CONCAT, ADA[0]),
    "ada": (*MLP, "data.resolution=16", *ADA),
    "whole_ada": (*MLP, *WHOLE_ADA, "penalty.r1=1"),
    "lecam-new_reals": (*MLP, *RPGAN[:1], LECAM, *NEW_REALS, "penalty.centering=0.01", ACCUMULATED),
    "schedules": (*MLP, *SCHEDULES),
    "spectral_norm": (*RESNET, *SPECTRAL),
    "transformer": (*TRANSFORMER, *RPGAN, *ESTIMATED),
    "transformer-exact": (*TRANSFORMER, *PROJECTION[1:], "model.generator.conditioning=concat", *RPGAN, RECOMPUTED),
    "lazy-mlp": (*MLP, "penalty.gp=1", "penalty.gp_every=4", "penalty.r1=1", "penalty.r1_every=4"),
    "checkpoint_activations": (*DCGAN, *PROJECTION, "model.generator.norm=batch", RECOMPUTED, "penalty.gp=1"),
    "checkpoint_activations-stddev": (*R3GAN, *RPGAN, STDDEV, RECOMPUTED),
    "finite_difference": (*R3GAN, *RPGAN, *ESTIMATED, "penalty.r1_every=3", "penalty.r2_every=2"),
    "lazy": (*R3GAN, *RPGAN, "penalty.r1_every=3", "penalty.r2_every=3", "penalty.gp=1", "penalty.gp_every=2"),
}


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize("overrides", RESUMES.values(), ids=RESUMES)
def test_a_resumed_run_is_bit_identical(fleet: Fleet, overrides, world_size: int) -> None:
    overrides = (UNEVEN, "train.precision=float32", *overrides)
    through = fleet.run(continued, world_size, overrides, None, 12)[0]
    for iterations in (5, 6):  # after 6 the lazy penalties are due
        half = fleet.run(continued, world_size, overrides, None, iterations)[0]
        resumed = fleet.run(continued, world_size, overrides, half, 12)[0]
        assert_same(load_state(resumed), load_state(through))


PENALISED = {
    "stylegan2": (*STYLEGAN2, *SEPARATE, *LENGTHS, "model.discriminator.stddev_group=0"),
    "gp-lazy-d2": (*RESNET, "penalty.gp=10", "penalty.gp_every=3", "optim.d_steps=2"),
    "r1_r2-projection": (*DCGAN, *PROJECTION, "model.generator.norm=layer", *RPGAN),
    "finite_difference-d2": (*DCGAN, *RPGAN, *ESTIMATED, "optim.d_steps=2"),
    "transformer": (*TRANSFORMER, *RPGAN, *ESTIMATED),
    "r1-noise-transforms": (*RESNET, DIFFAUGMENT, "augment.noise=0.1", "penalty.r1=1"),
    "dragan-drift-packing": (*RING, "model.packing=2", "penalty.dragan=1", "penalty.drift=1"),
    "lecam-centering": (*MLP, LECAM, "penalty.centering=0.1"),
}


@pytest.mark.parametrize("overrides", PENALISED.values(), ids=PENALISED)
def test_accumulation_does_not_change_the_trajectory_where_rows_do_not_meet(fleet: Fleet, alone, overrides) -> None:
    for accumulation in (2, 3):
        accumulated = fleet.run(trajectory, 1, (*overrides, f"train.accumulation={accumulation}"))[0]
        assert_agree(accumulated, alone(overrides))


def logged(overrides: tuple[str, ...]) -> list[dict[str, float]]:
    """The metrics of a short run, two iterations a tick, without times."""
    experiment = build(tiny(*overrides))
    every = 2 * experiment.sampler.images_per_iteration
    ticks = train(experiment, intervals={"log": every}, until=4 * every)
    return [{name: x for name, x in tick.metrics.items() if name not in TIMES} for tick in ticks]


def test_metrics_do_not_depend_on_the_number_of_workers(fleet: Fleet) -> None:
    """Penalties are those of when they were last due, though ticks and lazy updates never meet here."""
    penalties = ("penalty.r1=1", "penalty.r1_every=4", "penalty.drift=1", "penalty.gp=1", "penalty.gp_every=3")
    overrides = (*RING, *penalties, "model.packing=2", "train.batch_size=24", "train.accumulation=2", "optim.d_steps=2")
    alone, *others = (fleet.run(logged, world_size, overrides) for world_size in (1, 3))
    assert [sorted(name for name in row if "penalty" in name) for row in alone[0]] == [
        ["penalty_drift", "penalty_gp", "penalty_r1"]
    ] * 4
    for ranks in others:
        for metrics in ranks:
            torch.testing.assert_close(metrics, alone[0], rtol=1e-9, atol=1e-12)
