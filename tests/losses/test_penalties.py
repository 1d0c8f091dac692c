"""The penalties against closed forms, finite differences of inputs, and finite differences of parameters."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from ganscale.losses import penalties

SHAPE = (2, 3, 3)
ROWS = 4


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients_of(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_(True)
    return penalties.input_gradients(function(x), x)[0]


X = numbers(ROWS, *SHAPE)
W = numbers(18, seed=1)
A = numbers(18, 18, seed=2)


def test_of_a_linear_discriminator() -> None:
    """D(x) = <w, x> + 3 has the gradient w everywhere."""
    gradients = gradients_of(lambda x: x.flatten(1) @ W + 3.0, X)
    square = torch.full((ROWS,), W.square().sum().item(), dtype=torch.float64)
    torch.testing.assert_close(penalties.zero_centered(gradients), square / 2)
    torch.testing.assert_close(penalties.one_centered(gradients), (square.sqrt() - 1.0) ** 2)
    torch.testing.assert_close(penalties.one_centered(gradients, 0.5), (square.sqrt() - 0.5) ** 2)


def test_of_a_quadratic_discriminator() -> None:
    """D(x) = <x, A x> / 2 with symmetric A has the gradient A x, another one for each sample."""
    symmetric = A + A.T
    gradients = gradients_of(lambda x: 0.5 * ((x.flatten(1) @ symmetric) * x.flatten(1)).sum(1), X)
    norms = torch.stack([(symmetric @ x.flatten()).norm() for x in X])
    torch.testing.assert_close(penalties.zero_centered(gradients), norms**2 / 2)
    torch.testing.assert_close(penalties.one_centered(gradients), (norms - 1.0) ** 2)


def test_the_finite_difference_of_a_linear_discriminator_is_its_slope_along_the_step() -> None:
    step = numbers(ROWS, *SHAPE, seed=3)
    for sigma in (0.01, 1.0):
        value = penalties.finite_difference(X.flatten(1) @ W, (X + sigma * step).flatten(1) @ W, sigma)
        torch.testing.assert_close(value, (step.flatten(1) @ W).square() / 2, rtol=1e-8, atol=1e-8)


def test_the_finite_difference_estimates_the_exact_penalty() -> None:
    """Its mean over 200,000 steps is |dD/dx|^2 / 2 within 1.5 %, four standard errors (of deviation sqrt(2))."""
    net = Net()
    exact = penalties.zero_centered(gradients_of(net, X))
    steps = numbers(200_000, *SHAPE, seed=4)
    with torch.no_grad():
        logits = net(X)
        for row in range(ROWS):
            shifted = net(X[row] + 0.01 * steps)
            mean = penalties.finite_difference(logits[row], shifted, 0.01).mean()
            torch.testing.assert_close(mean, exact[row].detach(), rtol=0.015, atol=0.0)


def test_no_gradient_at_all_is_the_largest_one_centered_penalty_and_differentiable() -> None:
    weight = torch.zeros(18, dtype=torch.float64, requires_grad=True)
    value = penalties.one_centered(gradients_of(lambda x: x.flatten(1) @ weight, X)).sum()
    torch.testing.assert_close(value, torch.tensor(float(ROWS), dtype=torch.float64), rtol=1e-5, atol=0.0)
    (gradient,) = torch.autograd.grad(value, weight)
    assert gradient.isfinite().all()


class Net(nn.Module):
    """A curved discriminator whose logit depends on every input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        layers = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(27, 4), nn.Softplus())
        self.layers = nn.Sequential(*layers, nn.Linear(4, 1)).double()

    def forward(self, x: Tensor) -> Tensor:
        return 3.0 * self.layers(x).squeeze(1)


def test_input_gradients_are_those_of_finite_differences() -> None:
    net, step = Net(), 1e-6
    expected = torch.empty_like(X)
    for index in range(X[0].numel()):
        shift = torch.zeros(18, dtype=torch.float64)
        shift[index] = step
        difference = net(X + shift.view(SHAPE)) - net(X - shift.view(SHAPE))
        expected.view(ROWS, -1)[:, index] = difference.detach() / (2 * step)
    torch.testing.assert_close(gradients_of(net, X), expected, rtol=1e-7, atol=1e-9)


VALUES: dict[str, Callable[[Callable[[Tensor], Tensor]], Tensor]] = {
    "zero_centered": lambda net: penalties.zero_centered(gradients_of(net, X)),
    "one_centered": lambda net: penalties.one_centered(gradients_of(net, X)),
    "interpolates": lambda net: penalties.one_centered(
        gradients_of(net, penalties.interpolate(X, X.flip(0), X.flatten(1)[:, 0].abs() % 1.0))
    ),
    "drift": lambda net: penalties.drift(net(X)),
    "lecam": lambda net: penalties.lecam(net(X), net(X.flip(0)), *torch.tensor([0.3, -0.7])),
    "centering": lambda net: penalties.centering(net(X), net(X.square())),
}


@pytest.mark.parametrize("name", VALUES)
def test_the_gradient_of_a_penalty_for_the_parameters_is_that_of_finite_differences(name: str) -> None:
    net = Net()
    names = [key for key, _ in net.named_parameters()]

    def value(*parameters: Tensor) -> Tensor:
        return VALUES[name](lambda x: functional_call(net, dict(zip(names, parameters, strict=True)), (x,)))

    assert gradcheck(value, tuple(net.parameters()), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_interpolates_lie_between_each_pair() -> None:
    share = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    fakes = numbers(ROWS, *SHAPE, seed=5)
    points = penalties.interpolate(X, fakes, share)
    for row, weight in enumerate(share.tolist()):
        torch.testing.assert_close(points[row], (1.0 - weight) * X[row] + weight * fakes[row])


def test_perturbed_samples_lie_within_half_the_batchs_deviation_of_each_sample() -> None:
    noise = torch.rand(ROWS, *SHAPE, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    share = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=torch.float64)
    deviation = penalties.batch_deviation([X[:1], X[1:]])
    assert deviation.item() == pytest.approx(X.numpy().std(), rel=1e-14)
    moved = penalties.perturb(X, noise, share, deviation) - X
    for row, weight in enumerate(share.tolist()):
        torch.testing.assert_close(moved[row], weight * 0.5 * X.numpy().std() * noise[row])


def test_the_deviation_does_not_vanish_on_a_diagonal() -> None:
    """2-D points with x = y deviate from one another, though not within themselves."""
    points = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    torch.testing.assert_close(penalties.batch_deviation([points]), torch.tensor(1.0))


def test_drift_is_the_square_of_the_logit() -> None:
    torch.testing.assert_close(penalties.drift(torch.tensor([-2.0, 0.0, 3.0])), torch.tensor([4.0, 0.0, 9.0]))
