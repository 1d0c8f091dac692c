"""Every objective against its paper's formula, written out in probabilities and means, and far out."""

import itertools

import pytest
import torch
from torch import Tensor

from ganscale.losses import LOSSES, Targets
from ganscale.losses.adversarial import HARD

GENERATOR = torch.Generator().manual_seed(0)
REAL, FAKE = (3.0 * torch.randn(64, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
TWO_SIDED = Targets(0.9, 0.2)
ONE = torch.ones((), dtype=torch.float64)


def sigma(logits: Tensor) -> Tensor:
    return 1.0 / (1.0 + (-logits).exp())


def cross_entropy(probability: Tensor, target: float) -> Tensor:
    return -(target * probability.log() + (1.0 - target) * (1.0 - probability).log())


def bce(real: Tensor, fake: Tensor, targets: Targets) -> Tensor:
    return cross_entropy(sigma(real), targets.real) + cross_entropy(sigma(fake), targets.fake)


def lsgan(real: Tensor, fake: Tensor, targets: Targets) -> Tensor:
    return (real - targets.real) ** 2 / 2 + (fake - targets.fake) ** 2 / 2


def ragan(real: Tensor, fake: Tensor, _: Targets) -> Tensor:
    """Jolicoeur-Martineau 2018: D~(x) = sigma(C(x) - E C(other))."""
    return -sigma(real - fake.mean()).log() - (1.0 - sigma(fake - real.mean())).log()


FORMULAS = {
    "minimax": (bce, lambda real, fake: (1.0 - sigma(fake)).log()),
    "non_saturating": (bce, lambda real, fake: -sigma(fake).log()),
    "least_squares": (lsgan, lambda real, fake: (fake - 1.0) ** 2 / 2),
    "hinge": (
        lambda real, fake, _: -torch.minimum(0.0 * ONE, real - 1.0) - torch.minimum(0.0 * ONE, -fake - 1.0),
        lambda real, fake: -fake,
    ),
    "wasserstein": (lambda real, fake, _: fake - real, lambda real, fake: -fake),
    "relativistic_pairing": (
        lambda real, fake, _: -sigma(real - fake).log(),
        lambda real, fake: -sigma(fake - real).log(),
    ),
    "relativistic_average": (ragan, lambda real, fake: ragan(fake, real, HARD)),
}


def test_every_objective_has_a_formula_here() -> None:
    assert FORMULAS.keys() == LOSSES.keys()


@pytest.mark.parametrize("targets", [HARD, Targets(0.9), TWO_SIDED], ids=["hard", "one_sided", "two_sided"])
@pytest.mark.parametrize("name", FORMULAS)
def test_both_sides_are_the_papers(name: str, targets: Targets) -> None:
    loss, (discriminator, generator) = LOSSES[name], FORMULAS[name]
    targets = targets if loss.has_labels else HARD
    torch.testing.assert_close(
        loss.discriminator_loss(REAL, FAKE, targets), discriminator(REAL, FAKE, targets), rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(
        loss.generator_loss(FAKE, REAL if loss.compares else None), generator(REAL, FAKE), rtol=1e-10, atol=1e-10
    )


@pytest.mark.parametrize("name", FORMULAS)
def test_gradients_are_the_formulas(name: str) -> None:
    loss, (discriminator, generator) = LOSSES[name], FORMULAS[name]
    real, fake = (x.clone().requires_grad_(True) for x in (REAL, FAKE))
    ours = torch.autograd.grad(loss.discriminator_loss(real, fake, HARD).sum(), (real, fake))
    theirs = torch.autograd.grad(discriminator(real, fake, HARD).sum(), (real, fake))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)
    ours = torch.autograd.grad(loss.generator_loss(fake, real.detach() if loss.compares else None).sum(), fake)
    theirs = torch.autograd.grad(generator(real.detach(), fake).sum(), fake)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_stay_finite_and_so_do_their_gradients(name: str, dtype: torch.dtype) -> None:
    loss = LOSSES[name]
    real = torch.tensor([1e4, -1e4, 1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    fake = torch.tensor([1e4, 1e4, -1e4, -1e4, 0.0], dtype=dtype, requires_grad=True)
    for targets in (HARD, TWO_SIDED):
        values = (
            loss.discriminator_loss(real, fake, targets),
            loss.generator_loss(fake, real if loss.compares else None),
        )
        for value in values:
            gradients = torch.autograd.grad(value.sum(), (real, fake), allow_unused=True)
            assert value.isfinite().all()
            assert all(g.isfinite().all() for g in gradients if g is not None)


@pytest.mark.parametrize("name", LOSSES)
def test_a_wider_margin_between_real_and_fake_pleases_d_and_not_g(name: str) -> None:
    """On the way up to the boundary: least squares and hinge want no more than a margin of 1."""
    loss, margin = LOSSES[name], torch.linspace(0.0, 0.45, 10, dtype=torch.float64)
    middle = loss.boundary or 0.0
    for small, large in itertools.pairwise(margin):
        d = [loss.discriminator_loss(middle + x.view(1), middle - x.view(1), HARD).item() for x in (small, large)]
        g = [loss.generator_loss(middle - x.view(1), middle + x.view(1)).item() for x in (small, large)]
        assert d[1] < d[0]
        assert g[1] > g[0]


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.boundary is not None])
def test_the_boundary_is_where_both_classes_cost_the_same(name: str) -> None:
    loss = LOSSES[name]
    assert loss.boundary is not None
    at = torch.full((1,), loss.boundary, dtype=torch.float64, requires_grad=True)
    other = torch.zeros(1, dtype=torch.float64)
    as_real = loss.discriminator_loss(at, other, HARD) - loss.discriminator_loss(other, other, HARD)
    as_fake = loss.discriminator_loss(other, at, HARD) - loss.discriminator_loss(other, other, HARD)
    slopes = torch.autograd.grad(as_real, at, retain_graph=True)[0] + torch.autograd.grad(as_fake, at)[0]
    torch.testing.assert_close(slopes, torch.zeros_like(slopes), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.boundary is None])
def test_without_a_boundary_only_differences_count(name: str) -> None:
    loss = LOSSES[name]
    for shift in (-7.0, 3.0):
        torch.testing.assert_close(
            loss.discriminator_loss(REAL + shift, FAKE + shift, HARD), loss.discriminator_loss(REAL, FAKE, HARD)
        )
