"""Steps of their own: path lengths against Jacobians, and what R1 and path lengths do to weights, rates and betas."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganscale.config import load
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.path_length import DECAY, GeneratorModule, num_taking_part, path_lengths, taking_part
from ganscale.training.schedules import PenaltyWeights, Schedule
from tests.runs import MLP, STYLEGAN2, TRANSFORMER, tiny

LENGTHS = ("penalty.path_length=2", "penalty.path_length_every=1")
SEPARATE = ("penalty.r1=3", "penalty.r1_every=2", "penalty.r1_separate=true")


def test_a_length_is_that_of_the_jacobian_times_noise() -> None:
    """Karras et al. 2020, Eq. 4, row by row; with a w per layer the root mean square over layers."""
    generator: Any = build(tiny(*STYLEGAN2)).state.generator
    z = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    random = generator.random_inputs(build(tiny(*STYLEGAN2)).step._draws, "test", 5, z)
    found, nothing = GeneratorModule(generator)(z, None, (random,), y)
    assert nothing == 0.0
    styles = generator.styles(z, None, random).detach()
    for row in range(3):

        def image(one: Tensor, row: int = row) -> Tensor:
            return generator.layers(one[None], random.noise[row : row + 1])[0]

        jacobian = torch.func.jacrev(image)(styles[row]).flatten(0, 2)
        assert isinstance(jacobian, Tensor)
        moved = torch.einsum("plw,p->lw", jacobian, y[row].flatten() / 16.0)
        torch.testing.assert_close(found[row], moved.square().sum(1).mean().sqrt())


def test_networks_without_styles_are_measured_by_z() -> None:
    generator = build(tiny(*MLP)).state.generator
    z = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64).requires_grad_()
    y = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, _ = GeneratorModule(generator)(z.detach(), None, (), y)
    (gradients,) = torch.autograd.grad((generator(z) * y).sum() / 8.0, z)
    torch.testing.assert_close(found, gradients.norm(dim=1))
    torch.testing.assert_close(path_lengths(generator(z), z, y), gradients.norm(dim=1))


def test_every_second_image_takes_part_whoever_has_it() -> None:
    for start, rows in ((0, [0, 2, 4]), (26, [0, 2, 4]), (3, [1, 3]), (16, [1, 3])):
        assert list(range(5))[taking_part(start, 13)] == rows
    assert num_taking_part(13) == 7
    shares = [(0, 4), (4, 8), (8, 13)]
    assert sum(len(range(stop - start)[taking_part(13 + start, 13)]) for start, stop in shares) == 7


def step_of(network: nn.Module, loss: Tensor, rate: float) -> None:
    """A step of Adam that is one of gradient descent: its epsilon is far above the gradients."""
    for parameter, gradient in zip(
        network.parameters(), torch.autograd.grad(loss, list(network.parameters()), allow_unused=True), strict=True
    ):
        with torch.no_grad():
            parameter -= rate / 1e6 * (0.0 if gradient is None else gradient)


def test_the_steps_by_hand() -> None:
    """One iteration with both, against one without and gradient descent on R1, then on the path lengths."""
    plain = ("optim.betas_g=[0, 0]", "optim.betas_d=[0, 0]", "optim.eps=1e6", "optim.lr_d=10", "optim.lr_g=10")
    settings = (*MLP, *plain, "loss.name=hinge", "loss.label_smoothing=0", "train.reuse_fakes=false")
    one, other = build(tiny(*settings, *LENGTHS, *SEPARATE)), build(tiny(*settings))
    batches, controls = one.sampler.batches(0), one.schedule.controls(0)
    statistics = one.step(batches, controls)

    ((batch,),) = batches.discriminator
    generator, discriminator = other.state.generator, other.state.discriminator
    without = replace(controls, penalties=(PenaltyWeights(),), path_length=0.0)
    step = other.step
    step._update_discriminator([batch], None, without, PenaltyWeights(), details=False)
    reals = batch.reals.clone().requires_grad_()
    (slope,) = torch.autograd.grad(discriminator(reals).sum(), reals, create_graph=True)
    r1 = slope.square().sum((1, 2, 3)).mean() / 2.0
    step_of(discriminator, 2 * 3.0 * r1, float(controls.lr_d))
    step._update_generator(batches.generator or [], None, without, "generator/fresh")
    (fresh,) = batches.generator or []
    y = step._draws.normal("path_length", 0, batch.reals.shape, torch.float64)[::2]
    z = fresh.z[::2].clone().requires_grad_()
    (gradients,) = torch.autograd.grad((generator(z) * y).sum() / 8.0, z, create_graph=True)
    lengths = gradients.norm(dim=1)
    step_of(generator, 2.0 * lengths.square().mean(), float(controls.lr_g))
    torch.testing.assert_close(statistics.penalties["r1"], r1.detach())
    torch.testing.assert_close(statistics.penalties["path_length"], lengths.detach().square().mean())
    torch.testing.assert_close(one.state.path_length, DECAY * lengths.detach().mean())
    for mine, theirs, start in (
        (one.state.generator, generator, build(tiny(*settings)).state.generator),
        (one.state.discriminator, discriminator, build(tiny(*settings)).state.discriminator),
    ):
        for a, b, c in zip(mine.parameters(), theirs.parameters(), start.parameters(), strict=True):
            torch.testing.assert_close(1e6 * (a - c), 1e6 * (b - c), rtol=1e-4, atol=1e-6)


def test_more_steps_are_smaller() -> None:
    """Karras et al. 2020, appendix B: c = k / (k + 1) of the rate, and each beta to the power of c."""
    rates = ("optim.lr_g=1e-3", "optim.lr_d=2e-3", "optim.betas_g=[0, 0.99]", "optim.betas_d=[0.5, 0.99]")
    controls = Schedule(load(overrides=[*rates, "penalty.path_length=2", *SEPARATE])).controls(0)
    torch.testing.assert_close((controls.lr_g, controls.lr_d), (0.8e-3, 2e-3 * 2 / 3))
    torch.testing.assert_close(controls.betas_g, (0.0, 0.99**0.8))
    torch.testing.assert_close(controls.betas_d, (0.5 ** (2 / 3), 0.99 ** (2 / 3)))
    rmsprop = ("optim.name_g=rmsprop", "optim.name_d=rmsprop", "optim.alpha_g=0.9", "optim.alpha_d=0.8")
    state = build(tiny(*MLP, *rmsprop, "penalty.path_length=2", *SEPARATE)).state
    alphas = [each.param_groups[0]["alpha"] for each in (state.optimizer_g, state.optimizer_d)]
    assert alphas == pytest.approx((0.9**0.8, 0.8 ** (2 / 3)))
    joint = Schedule(load(overrides=[*rates, *SEPARATE, "penalty.r1_separate=false"])).controls(0)
    assert (joint.lr_g, joint.lr_d, joint.betas_g, joint.betas_d) == (1e-3, 2e-3, (0.0, 0.99), (0.5, 0.99))
    due = [Schedule(load(overrides=["penalty.path_length=2"])).controls(64 * i).path_length for i in range(9)]
    assert due == [8.0, 0.0, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0, 8.0]


def test_the_mean_length_is_saved() -> None:
    state = build(tiny(*MLP)).state
    state.path_length.fill_(0.125)
    saved = state.state_dict()
    fresh = build(tiny(*MLP)).state
    fresh.load_state_dict(saved)
    assert fresh.path_length == 0.125
    del saved["path_length"]  # as of earlier versions
    fresh.load_state_dict(saved)
    assert fresh.path_length == 0.0


def test_lengths_of_a_transformer() -> None:
    """Its attention has a second derivative where one is needed."""
    experiment = build(tiny(*TRANSFORMER, *LENGTHS))
    for _ in train(experiment, intervals={}, until=4 * experiment.sampler.images_per_iteration):
        pass
    assert float(experiment.state.path_length) > 0.0
