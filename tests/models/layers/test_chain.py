"""Recomputed activations: the same bits as kept ones, whatever the network and the penalty."""

import pytest
import torch
from torch import nn

from ganscale.config import ConfigError, load
from ganscale.models.layers import BatchNorm, Chain
from ganscale.training.build import build
from tests.runs import BATCH_NORM, DCGAN, MLP, R3GAN, RESNET, RING
from tests.trajectories import trajectory

RECOMPUTED = "train.checkpoint_activations=true"
PAIRED = ("loss.name=relativistic_pairing", "loss.label_smoothing=0", "penalty.r1=1", "penalty.r2=1")
ESTIMATED = ("penalty.r1_mode=finite_difference", "penalty.r2_mode=finite_difference")
CRITIC = ("loss.name=wasserstein", "loss.label_smoothing=0", "penalty.gp=10")
CLASSES = ("model.generator.conditioning=norm", "model.discriminator.conditioning=projection")
RUNS = {
    "mlp": MLP,
    "ring-batch_norm": (*RING, *BATCH_NORM),
    "dcgan": DCGAN,
    "dcgan-batch_norm-a2": (*DCGAN, *BATCH_NORM, "train.accumulation=2"),
    "dcgan-gp": (*DCGAN, *CRITIC),
    "dcgan-spectral": (*DCGAN, "model.discriminator.spectral_norm=true"),
    "dcgan-attention": (*DCGAN, "model.generator.attention=8", "model.discriminator.attention=8"),
    "resnet-classes": (*RESNET, *CLASSES, "model.generator.norm=batch"),
    "r3gan": (*R3GAN, *PAIRED),
    "r3gan-finite_difference": (*R3GAN, *PAIRED, *ESTIMATED),
    "feature_matching": (*MLP, "loss.feature_matching=1"),
}


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_recomputing_changes_no_bit(overrides: tuple[str, ...]) -> None:
    kept, recomputed = trajectory(overrides), trajectory((*overrides, RECOMPUTED))
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_bfloat16_is_recomputed_in_bfloat16() -> None:
    overrides = (*DCGAN, "train.precision=bfloat16", "train.batch_size=4", "train.images=8")
    kept, recomputed = (build(load(overrides=(*overrides, *more))) for more in ((), (RECOMPUTED,)))
    for experiment in (kept, recomputed):
        experiment.step(experiment.sampler.batches(0), experiment.schedule.controls(0))
    for one, other in zip(kept.state.generator.parameters(), recomputed.state.generator.parameters(), strict=True):
        assert torch.equal(one, other)


def test_only_inputs_of_blocks_are_kept() -> None:
    chain = Chain(nn.Tanh(), nn.Linear(8, 8), BatchNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
    assert [len(block) for block in chain.blocks()] == [1, 3, 2]

    def saved() -> int:
        sizes: list[int] = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t)
        x = torch.randn(4, 8, requires_grad=True)
        with hooks:
            chain(x)
        return sum(sizes)

    everything = saved()
    chain.recomputes = True
    assert saved() < everything
    chain.eval()
    assert saved() > 0, "nothing is recomputed outside training"


def test_running_statistics_move_once_per_forward() -> None:
    chain = Chain(nn.Linear(3, 5), BatchNorm(5), nn.ReLU())
    norm = chain[1]
    assert isinstance(norm, BatchNorm)
    chain.recomputes = True
    out = chain(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    after = norm.running_mean.clone(), norm.running_var.clone()
    out.sum().backward()
    assert torch.equal(norm.running_mean, after[0])
    assert torch.equal(norm.running_var, after[1])
    assert bool(after[0].any())


def test_networks_without_blocks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganscale.training.build.Chain", nn.Bilinear)
    with pytest.raises(ConfigError) as caught:
        build(load(overrides=(*MLP, RECOMPUTED)))
    assert caught.value.key == "train.checkpoint_activations"
    assert "ganscale.models.layers.Chain" in caught.value.remedy
