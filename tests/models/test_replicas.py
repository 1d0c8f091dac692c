"""The contract for what the architectures add: 1, 2 and 3 workers, shares uneven, agree over a short training."""

from collections import Counter
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from ganscale.models.layers import SpectralNorm, spectral_norms
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.fleet import Fleet
from tests.models.nets import SMALL
from tests.runs import BATCH_NORM, tiny
from tests.trajectories import in_turn

ITERATIONS = 20
TOLERANCE = 1e-9


def both(name: str, *settings: str) -> tuple[str, ...]:
    """A small pair, with settings for both networks."""
    every = (f"name={name}", *SMALL[name], *settings)
    sides = [f"model.{side}.{setting}" for side in ("generator", "discriminator") for setting in every]
    return ("data.resolution=16", "model.latent_dim=8", "train.batch_size=11", *sides)


STDDEV = "model.discriminator.minibatch_stddev=true"
CONDITIONAL = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
CONDITIONAL_NORM = ("model.generator.norm=batch", "model.generator.conditioning=norm")
GAT = (
    "loss.name=relativistic_pairing",
    *(f"penalty.{name}{setting}" for name in ("r1", "r2") for setting in ("=1", "_mode=finite_difference")),
)
RUNS = {
    "mlp-stddev-spectral": (*both("mlp", "spectral_norm=true"), STDDEV),
    "mlp-conditional-batch_norm": (*both("mlp"), *BATCH_NORM, *CONDITIONAL, *CONDITIONAL_NORM),
    "dcgan-stddev-spectral-attention": (*both("dcgan", "norm=none", "spectral_norm=true", "attention=8"), STDDEV),
    "dcgan-projection-a2": (*both("dcgan", "norm=group"), *CONDITIONAL, "train.accumulation=2"),
    "resnet-batch_norm": (*both("resnet", "depth=2"), *BATCH_NORM),
    "resnet-stddev-spectral-conditional": (
        *both("resnet", "spectral_norm=true"),
        STDDEV,
        *CONDITIONAL,
        *CONDITIONAL_NORM,
        "optim.d_steps=2",
    ),
    "resnet-acgan": (*both("resnet", "norm=none"), *CONDITIONAL, "model.discriminator.conditioning=acgan"),
    "dcgan-pairing": (*both("dcgan", "norm=none"), "loss.name=relativistic_pairing"),
    "resnet-average": (*both("resnet", "norm=none"), "loss.name=relativistic_average"),
    "sagan": (
        *both("resnet", "spectral_norm=true", "attention=8", "attention_form=pooled"),
        *CONDITIONAL,
        *CONDITIONAL_NORM,
        "loss.name=hinge",
    ),
    "biggan": (*both("biggan", "attention=8"), *CONDITIONAL, "loss.name=hinge", "penalty.orthogonal=1e-3"),
    "biggan-stddev-a2": (*both("biggan"), STDDEV, "loss.name=hinge", "train.accumulation=2"),
    "biggan-reacgan-a2": (
        *both("biggan"),
        *CONDITIONAL,
        "model.discriminator.conditioning=reacgan",
        "model.discriminator.class_dim=6",
        "loss.name=hinge",
        "loss.class_weight=0.5",
        "train.accumulation=2",
    ),
    "r3gan": both("r3gan"),
    "transformer": (*both("transformer"), *GAT),
    "transformer-exact-conditional-a2": (
        *both("transformer"),
        *CONDITIONAL,
        *GAT[:1],
        "penalty.r1=1",
        "penalty.r2=1",
        "train.accumulation=2",
    ),
    "r3gan-bilinear": (*both("r3gan"), *CONDITIONAL, "model.discriminator.conditioning=bilinear"),
    "r3gan-stddev-attention-conditional": (*both("r3gan", "attention=16"), STDDEV, *CONDITIONAL),
}


def trajectory(overrides: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters and buffers of both networks and the moving average at the end."""
    experiment = build(tiny(*overrides))
    state = experiment.state
    every = experiment.sampler.images_per_iteration
    for _ in train(experiment, intervals={}, until=ITERATIONS * every):
        pass
    networks = {"generator": state.generator, "discriminator": state.discriminator, "ema": state.ema.module}
    return {f"{name}.{key}": value for name, net in networks.items() for key, value in net.state_dict().items()}


@pytest.fixture(scope="module")
def alone(fleet: Fleet):
    """The outcome of one worker, computed once per run."""
    return lru_cache(lambda overrides: fleet.run(trajectory, 1, overrides)[0])


@pytest.mark.multiprocess
@pytest.mark.parametrize(("overrides", "world_size"), in_turn(RUNS, quick=(2, 3)))
def test_world_size_does_not_change_the_trajectory(fleet: Fleet, alone, overrides, world_size: int) -> None:
    ranks = fleet.run(trajectory, world_size, overrides)
    for name, wanted in alone(overrides).items():
        assert wanted.isfinite().all(), f"{name} diverged: nothing is compared"
        error = (ranks[0][name] - wanted).abs().max() / wanted.abs().max().clamp_min(1e-300)
        assert error <= TOLERANCE, f"{name}: relative error {error:.1e}"
        assert all(torch.equal(rank[name], ranks[0][name]) for rank in ranks[1:]), f"replicas differ in {name}"


def test_spectral_vectors_take_one_step_per_update(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a network runs: three iterations of two D updates in two micro-batches each."""
    experiment = build(tiny(*both("mlp", "spectral_norm=true"), "optim.d_steps=2", "train.accumulation=2"))
    calls: Counter[int] = Counter()
    monkeypatch.setattr(SpectralNorm, "advance", lambda norm, _: calls.update([id(norm)]))
    every = experiment.sampler.images_per_iteration
    for _ in train(experiment, intervals={}, until=3 * every):
        pass
    for network, expected in ((experiment.state.generator, 3), (experiment.state.discriminator, 6)):
        norms = spectral_norms(network)
        assert len(norms) == 3
        assert [calls[id(norm)] for norm, _ in norms] == 3 * [expected]
