"""Optimizers beside Adam: against torch's own, in all worlds, through a resume, and refused settings."""

import pytest
import torch
from torch import Tensor, nn

from ganscale.config import ConfigError, load
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.memory import forecast
from ganscale.training.schedules import Schedule
from ganscale.training.step import Side, decayed
from tests.fleet import Fleet
from tests.runs import BIGGAN, DCGAN, MLP, STYLEGAN2, tiny
from tests.trajectories import assert_agree, assert_same, check_world, continued, load_state, trajectory

RMSPROP = ("optim.name_g=rmsprop", "optim.name_d=rmsprop", "optim.alpha_d=0.9")
ADAMW = ("optim.name_g=adamw", "optim.name_d=adamw", "optim.weight_decay_g=0.5", "optim.weight_decay_d=2")
WGAN = (*RMSPROP[:2], "optim.lr_g=5e-5", "optim.lr_d=5e-5", "loss.name=wasserstein", "loss.clip_weights=0.01")
RUNS = {
    "rmsprop": (*DCGAN, *RMSPROP),
    "adamw": (*MLP, *ADAMW),
    "mixed": (*MLP, "optim.name_g=rmsprop", "optim.name_d=adamw", "optim.weight_decay_d=1", "optim.base_width=24"),
    "wgan": (
        *MLP,
        *RMSPROP[:2],
        "optim.lr_g=5e-5",
        "optim.lr_d=5e-5",
        "loss.name=wasserstein",
        "loss.clip_weights=0.01",
    ),
}


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_world_size_does_not_change_the_trajectory(fleet: Fleet, alone, overrides, world_size: int) -> None:
    check_world(fleet, alone, overrides, world_size)


@pytest.mark.multiprocess
@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_accumulation_and_a_resume_change_nothing(fleet: Fleet, alone, overrides) -> None:
    accumulated = fleet.run(trajectory, 1, (*overrides, "train.accumulation=2"))[0]
    assert_agree(accumulated, alone(overrides))
    single = ("train.precision=float32", *overrides)
    through = fleet.run(continued, 2, single, None, 8)[0]
    half = fleet.run(continued, 2, single, None, 5)[0]
    resumed = fleet.run(continued, 2, single, half, 8)[0]
    assert_same(load_state(resumed), load_state(through))


def followed(overrides: tuple[str, ...], make) -> tuple[list[Tensor], list[Tensor]]:
    """G's weights after 6 updates, and after the same gradients by an optimizer that `make` makes of a copy."""
    experiment = build(tiny(*overrides))
    side = experiment.step.g
    twins = [each.detach().clone().requires_grad_() for each in side.parameters]
    other, apply = make(dict(zip(map(id, side.parameters), twins, strict=True)), side), side.apply

    def both(*args, **options):
        for twin, parameter in zip(twins, side.parameters, strict=True):
            twin.grad = None if parameter.grad is None else parameter.grad.clone()
        other.step()
        return apply(*args, **options)

    side.apply = both
    for _ in train(experiment, intervals={}, until=6 * experiment.sampler.images_per_iteration):
        pass
    return [each.detach() for each in side.parameters], twins


def test_adamw_is_torchs_with_decay_where_the_rule_has_it() -> None:
    def make(twins: dict[int, Tensor], side: Side) -> torch.optim.Optimizer:
        chosen = [twins[id(each)] for each in decayed(side.network)]
        rest = [twin for twin in twins.values() if all(twin is not each for each in chosen)]
        assert len(chosen) == len(rest) == 3
        groups = [{"params": chosen}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=1e-3, betas=(0.5, 0.999), weight_decay=10.0)

    overrides = (*MLP, "optim.name_g=adamw", "optim.weight_decay_g=10")
    for found, wanted in zip(*followed(overrides, make), strict=True):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=1e-15)


def test_rmsprop_is_torchs() -> None:
    def make(twins: dict[int, Tensor], side: Side) -> torch.optim.Optimizer:
        return torch.optim.RMSprop(twins.values(), lr=1e-3, alpha=0.9, eps=1e-6)

    for found, wanted in zip(
        *followed((*MLP, "optim.name_g=rmsprop", "optim.alpha_g=0.9", "optim.eps=1e-6"), make), strict=True
    ):
        torch.testing.assert_close(found, wanted.detach(), rtol=1e-12, atol=1e-15)


def test_nothing_but_weights_of_layers_decays() -> None:
    network = nn.ModuleDict(
        {
            "linear": nn.Linear(3, 3),
            "up": nn.ConvTranspose2d(2, 2, 3),
            "embedding": nn.Embedding(4, 3),
            "norm": nn.LayerNorm(3),
            "spectral": nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)),
            "frozen": nn.Linear(3, 3).requires_grad_(False),
        }
    )
    network.register_parameter("constant", nn.Parameter(torch.ones(3, 3)))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    assert [names[id(each)] for each in decayed(network)] == ["linear.weight", "up.weight"]


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (("optim.weight_decay_g=0.1",), "optim.weight_decay_g"),
        (("optim.alpha_d=0.9",), "optim.alpha_d"),
        (("optim.name_d=rmsprop", "optim.betas_d=[0.0, 0.9]"), "optim.betas_d"),
        (("optim.name_d=rmsprop", "optim.weight_decay_d=0.1"), "optim.weight_decay_d"),
        ((*RMSPROP, "optim.beta2=0.9"), "optim.beta2"),
        (("optim.name_g=rmsprop", "train.cuda_graphs=true"), "train.cuda_graphs"),
        (("optim.name_g=sgd",), "optim.name_g"),
        (("optim.base_width=8", "optim.auto=true"), "optim.base_width"),
    ],
)
def test_settings_of_other_optimizers_are_refused(overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=overrides)
    assert caught.value.key == key


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ((*STYLEGAN2, "optim.name_g=adamw", "optim.weight_decay_g=0.1"), "optim.weight_decay_g"),
        ((*STYLEGAN2, "optim.name_d=adamw", "optim.weight_decay_d=0.1"), "optim.weight_decay_d"),
        ((*BIGGAN, "optim.name_d=adamw", "optim.weight_decay_d=0.1"), "optim.weight_decay_d"),
        ((*STYLEGAN2, "penalty.orthogonal=0.1"), "penalty.orthogonal"),
    ],
)
def test_settings_without_a_weight_to_act_on_are_refused(overrides: tuple[str, ...], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(tiny(*overrides))
    assert (caught.value.key, caught.value.value) == (key, 0.1)


def test_rates_go_by_the_width() -> None:
    overrides = ("optim.base_width=768", "optim.lr_g=2e-4", "optim.lr_d=3e-4", "model.generator.width=384")
    controls = Schedule(load(overrides=[*overrides, "model.discriminator.width=1152"])).controls(0)
    torch.testing.assert_close(torch.tensor((controls.lr_g, controls.lr_d)), torch.tensor((4e-4, 2e-4)))


def test_the_forecast_counts_what_is_saved() -> None:
    """RMSprop has one moment where Adam has two."""
    sizes = []
    for overrides in ((), RMSPROP):
        config = tiny(*MLP, *overrides)
        sizes.append(forecast(config, (1, 8, 8)).checkpoint)
    experiment = build(tiny(*MLP))
    trained = [each for side in (experiment.step.g, experiment.step.d) for each in side.parameters]
    assert sizes[0] - sizes[1] == sum(each.numel() * each.element_size() for each in trained)
