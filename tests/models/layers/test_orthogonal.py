"""Orthogonal regularization: Eq. 3 of Brock et al. 2019 by autograd, and that it is added once whatever the world."""

import torch
from torch import nn

from ganscale.models.layers import add_orthogonal_gradient, filter_weights
from ganscale.training.build import build
from tests.models.nets import CONDITIONAL, pair
from tests.runs import BIGGAN, tiny


def papers(matrices: list[torch.Tensor]) -> torch.Tensor:
    """The sum over W of |W^T W * (1 - I)|_F^2, filters as columns."""
    total = torch.zeros((), dtype=torch.float64)
    for w in matrices:
        total = total + ((w.T @ w) * (1.0 - torch.eye(w.shape[1], dtype=w.dtype))).square().sum()
    return total


def test_value_and_gradient_are_the_papers() -> None:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Linear(4, 6), nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(3, 5, 2), nn.Embedding(4, 3)
    ).double()
    before = [torch.randn_like(p) for p in layers.parameters()]
    for parameter, gradient in zip(layers.parameters(), before, strict=True):
        parameter.grad = gradient.clone()
    linear, convolution, transposed = (layers.get_parameter(f"{place}.weight") for place in range(3))
    matrices = [linear.T, convolution.flatten(1).T, transposed.transpose(0, 1).flatten(1).T]
    expected = papers(matrices)
    gradients = torch.autograd.grad(0.3 * expected, list(layers.parameters()), allow_unused=True)
    found = add_orthogonal_gradient(filter_weights(layers), 0.3)
    torch.testing.assert_close(found, expected.detach(), rtol=1e-12, atol=0.0)
    for parameter, old, more in zip(layers.parameters(), before, gradients, strict=True):
        torch.testing.assert_close(parameter.grad, old if more is None else old + more, rtol=1e-10, atol=1e-12)


def test_it_takes_trained_weights_and_no_table_of_classes() -> None:
    generator, _ = pair("biggan", *CONDITIONAL)
    names = {id(parameter): name for name, parameter in generator.named_parameters()}
    found = {names[id(weight)] for weight, _ in filter_weights(generator)}
    assert found == {name for name in names.values() if name.endswith("parametrizations.weight.original")}
    generator, _ = pair("dcgan", "model.generator.norm=batch", "model.generator.conditioning=norm", *CONDITIONAL[1:])
    assert all(weight.dim() != 2 or weight.shape[0] != generator.num_classes for weight, _ in filter_weights(generator))


def test_a_run_logs_its_value_and_a_step_lowers_it() -> None:
    experiment = build(tiny(*BIGGAN, "loss.name=hinge", "penalty.orthogonal=1e3"))
    every = experiment.sampler.images_per_iteration
    values = []
    for images in range(0, 6 * every, every):
        controls = experiment.schedule.controls(images)
        values.append(experiment.step(experiment.sampler.batches(images), controls).penalties["orthogonal"].item())
    assert values[-1] < values[1]
