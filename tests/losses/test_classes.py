"""ReACGAN's D2D-CE against Kang et al. 2021, pair by pair, to second order; and its rows over replicas."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from ganscale.losses import LOSSES, DataToData, Targets
from ganscale.models.base import Head
from ganscale.parallel.replica import Replica
from ganscale.training.build import build_networks
from ganscale.training.objective import Batch, DiscriminatorObjective, Draws, GeneratorObjective, View
from ganscale.training.schedules import PenaltyWeights
from tests.fleet import Fleet
from tests.models.nets import assert_same_derivatives, derivatives
from tests.runs import MLP, tiny

LABELS = torch.tensor([0, 3, 3, 4, 0, 1, 3])
ROWS = len(LABELS)


def papers(f: Tensor, v: Tensor, labels: Tensor, m_p: float, m_n: float, tau: float) -> Tensor:
    """One row at a time, with min and max written out."""
    losses = []
    for i in range(len(f)):
        positive = torch.minimum(f[i] @ v[i] - m_p, torch.zeros((), dtype=f.dtype)) / tau
        total = positive.exp()
        for j in range(len(f)):
            if labels[j] != labels[i]:
                total = total + (torch.maximum(f[i] @ f[j] - m_n, torch.zeros((), dtype=f.dtype)) / tau).exp()
        losses.append(-(positive.exp() / total).log())
    return torch.stack(losses)


def head(seed: int = 0) -> Head:
    torch.manual_seed(seed)
    return Head(6, "reacgan", 5, class_dim=4).double()


@pytest.mark.parametrize(("m_p", "m_n", "tau"), [(0.98, 0.02, 0.5), (0.1, -0.3, 2.0)])
def test_it_is_the_papers_to_second_order(m_p: float, m_n: float, tau: float) -> None:
    own, x = head(), torch.randn(ROWS, 6, dtype=torch.float64)
    loss = DataToData(m_p, m_n, tau, 2 * ROWS)  # one of two micro-batches

    def expected(x: Tensor) -> Tensor:
        f = normalize(x.tanh() @ own.embed.weight.T + own.embed.bias)
        return papers(f, normalize(own.embedding.weight[LABELS]), LABELS, m_p, m_n, tau)

    parameters = [*own.embed.parameters(), own.embedding.weight]
    found = derivatives(lambda x: loss(own.classify(x.tanh()), own.proxies(LABELS), LABELS, 3 * ROWS), x, parameters)
    assert_same_derivatives(found, derivatives(expected, x, parameters))


def test_an_example_without_others_of_another_class_has_no_loss() -> None:
    own, labels = head(), torch.full((3,), 2)
    x = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    values = DataToData(0.98, 0.02, 0.5, 3)(own.classify(x), own.proxies(labels), labels, 0)
    torch.testing.assert_close(values, torch.zeros_like(values))
    (slope,) = torch.autograd.grad(values.sum(), x)
    assert not slope.any()


def test_similar_examples_at_a_small_temperature_do_not_overflow() -> None:
    f = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    values = DataToData(0.98, 0.02, 1e-3, 2)(f, -f, torch.tensor([0, 1]), 0)
    torch.testing.assert_close(values, torch.full((2,), 1000 * (0.98 + 1.98)), rtol=1e-5, atol=0.0)


def shares(world_size: int) -> tuple[Tensor, list[Tensor]]:
    """Losses of this rank's rows of a batch of two micro-batches, and the gradients summed over ranks by the caller."""
    own = head()
    torch.manual_seed(1)
    x = torch.randn(11, 6, dtype=torch.float64)
    labels = torch.arange(11) % 5
    values = []
    for start, stop in Replica.current().rows(11, 2):
        part, of = x[start:stop], labels[start:stop]
        values.append(DataToData(0.98, 0.02, 0.5, 11)(own.classify(part), own.proxies(of), of, 22 + start))
    (torch.cat(values) * 0.7).sum().backward()
    gradients = [p.grad for p in (*own.embed.parameters(), own.embedding.weight) if p.grad is not None]
    return torch.cat(values).detach(), gradients


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_rows_and_gradients_are_those_of_one_worker(fleet: Fleet, world_size: int) -> None:
    (alone,), ranks = fleet.run(shares, 1, 1), fleet.run(shares, world_size, world_size)
    found = torch.cat([values for values, _ in ranks]).sort().values
    torch.testing.assert_close(found, alone[0].sort().values, rtol=1e-12, atol=1e-12)
    summed = [torch.stack(each).sum(0) for each in zip(*(gradients for _, gradients in ranks), strict=True)]
    torch.testing.assert_close(summed, alone[1], rtol=1e-12, atol=1e-12)


def test_d_learns_it_on_real_rows_and_g_on_its_fakes() -> None:
    conditional = ("model.generator.conditioning=concat", "model.discriminator.conditioning=reacgan")
    net = build_networks(tiny(*MLP, *conditional), (1, 8, 8), torch.device("cpu"), num_classes=10)[1]
    torch.manual_seed(0)
    reals, fakes = torch.randn(2, ROWS, 1, 8, 8, dtype=torch.float64)
    batch, view = Batch(reals, torch.zeros(ROWS, 3), LABELS, 0), View(Draws(0, "cpu"))
    loss, critic = DataToData(0.9, 0.1, 0.5, ROWS), LOSSES["wasserstein"]
    of_d = DiscriminatorObjective(
        net, critic, view, targets=Targets(), class_weight=0.7, gp_target=1.0, data_to_data=loss
    )
    of_g = GeneratorObjective(
        net, critic, view, class_weight=0.7, feature_matching=0.0, batch_rows=ROWS, data_to_data=loss
    )
    expected = {}
    for name, x in (("real", reals), ("fake", fakes)):
        f = net.head.classify(net.features(x))  # pyright: ignore
        proxies = normalize(net.head.embedding.weight[LABELS])  # pyright: ignore
        expected[name] = 0.7 * papers(f, proxies, LABELS, 0.9, 0.1, 0.5).sum()
        expected[f"{name} logits"] = net(x).sum()
    wanted = expected["fake logits"] - expected["real logits"] + expected["real"]
    for fused in (True, False):
        of_d.fused = fused
        torch.testing.assert_close(of_d(batch, fakes, PenaltyWeights(), 1.0, 0.0, 0.0).loss, wanted)
    torch.testing.assert_close(of_g(batch, fakes, 1.0, 0.0, 0.0), expected["fake"] - expected["fake logits"])
