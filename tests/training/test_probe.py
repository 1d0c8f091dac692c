"""What D makes of held-out examples and of wrong classes; the run does not notice that it is asked."""

import math

import pytest
import torch
from torch import Tensor, nn

from ganscale.data.mnist import held_out_digits, load_mnist
from ganscale.training.batches import Batches
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.objective import Batch, Draws, View
from ganscale.training.probe import NUM_HELD_OUT, Probe
from ganscale.training.schedules import Controls, PenaltyWeights
from ganscale.training.statistics import probe_metrics
from tests.runs import BATCH_NORM, DCGAN, MLP, RING, tiny

pytestmark = pytest.mark.usefixtures("all_held_out")

CPU = torch.device("cpu")
CONTROLS = Controls(1e-3, 1e-3, (0.5, 0.9), (0.5, 0.9), 0.0, (PenaltyWeights(),))
VIEW = View(Draws(0, CPU))


class Mean(nn.Module):
    """D's logit is the mean of the example, plus a tenth of its class where it has one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        logits = self.weight * x.flatten(1).mean(1)
        return logits if labels is None else logits + 0.1 * labels


class Classifier(Mean):
    """Classifies an example by its mean."""

    classifies = True

    def forward_with_classes(self, x: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        means = x.flatten(1).mean(1)
        return means, -((means.unsqueeze(1) - torch.arange(10)) ** 2)


def batches(reals: Tensor, labels: Tensor | None = None) -> Batches:
    return Batches([[Batch(reals, torch.zeros(len(reals), 2), labels)]])


def test_the_gap_is_in_standard_deviations() -> None:
    trained, held_out = 5.0 + torch.randn(64, 3).double(), 2.0 + torch.randn(256, 3).double()
    probe = Probe(
        Mean(), VIEW, lambda count: lambda a, b: (held_out[a:b], torch.zeros(b - a)), batch_size=64, rows=[(0, 64)]
    )
    sums = probe(batches(trained), CONTROLS)
    one, other = trained.mean(1), held_out.mean(1)
    spread = math.sqrt((one.var(correction=0) + other.var(correction=0)) / 2)
    gap = probe_metrics({name: value.tolist() for name, value in sums.items()})
    assert gap == {"held_out_gap": pytest.approx(float(one.mean() - other.mean()) / spread)}


@pytest.mark.parametrize("batch_size", [12, 64, 1000])
def test_every_held_out_example_is_seen_once_whatever_the_shares(batch_size: int) -> None:
    opened, seen = [], []

    def open_held_out(count: int):
        opened.append(count)
        return lambda a, b: (seen.extend(range(a, b)), (torch.zeros(b - a, 3), torch.zeros(b - a)))[1]

    half = batch_size // 2
    for rows in ([(0, 5), (half, half + 5)], [(5, half), (half + 5, batch_size)]):
        probe = Probe(Mean(), VIEW, open_held_out, batch_size=batch_size, rows=rows)
        for _ in range(2):
            probe(batches(torch.zeros(4, 3)), CONTROLS)
    assert opened[0] == opened[1] == len(set(seen)) == len(seen) // 2
    assert len(opened) == 2, "opened once by each"
    assert NUM_HELD_OUT - batch_size < opened[0] <= max(NUM_HELD_OUT, batch_size)


@pytest.mark.parametrize("network", [Mean(), Classifier()])
def test_the_margin_is_that_of_the_own_class(network: nn.Module) -> None:
    """Mean prefers large classes, whatever the example; Classifier knows them."""
    labels = torch.arange(2000) % 10
    probe = Probe(network, VIEW, None, batch_size=2000, rows=[(0, 2000)], num_classes=10)
    sums = probe(batches(labels.double().unsqueeze(1), labels), CONTROLS)
    found = probe_metrics({name: value.tolist() for name, value in sums.items()})
    assert found.keys() == {"class_margin"}
    if isinstance(network, Classifier):
        assert found["class_margin"] > 0.5
    else:
        assert abs(found["class_margin"]) < 0.1, "the other class is as often larger as smaller"


def test_without_held_out_examples_and_classes_there_is_nothing_to_see() -> None:
    assert Probe(Mean(), VIEW, None, batch_size=4, rows=[(0, 4)])(batches(torch.zeros(4, 3)), CONTROLS) == {}
    assert probe_metrics({}) == {}


@pytest.mark.parametrize("overrides", [MLP, RING, (*DCGAN, *BATCH_NORM)], ids=["mlp", "ring", "dcgan"])
def test_the_run_does_not_notice(overrides: tuple[str, ...]) -> None:
    states = []
    for every in (12, 240):
        experiment = build(tiny(*overrides))
        found = list(train(experiment, intervals={"row": every}, until=240))
        assert all(math.isfinite(tick.metrics["held_out_gap"]) for tick in found)
        states.append(experiment.state.state_dict())
        assert all(module.training for module in experiment.state.discriminator.modules())
    one, other = (nn.utils.parameters_to_vector(s["discriminator"].values()) for s in states)
    assert torch.equal(one, other)


@pytest.mark.slow
def test_memorized_digits_are_noticed() -> None:
    source = build(tiny(*MLP)).sampler.source

    class Few:
        shape, num_classes = source.shape, source.num_classes

        def read(self, start: int, stop: int) -> tuple[Tensor, Tensor | None]:
            images, labels = source.read(0, 24)
            rows = torch.arange(start, stop) % 24
            return images[rows], labels if labels is None else labels[rows]

    gaps = {}
    for name, reals in (("all", source), ("few", Few())):
        experiment = build(tiny(*MLP, "model.discriminator.width=64", "optim.lr_d=3e-3", "optim.lr_g=3e-3"))
        experiment.sampler.source = reals
        gaps[name] = [t.metrics["held_out_gap"] for t in train(experiment, intervals={"row": 600}, until=12_000)][-1]
    assert gaps["few"] > gaps["all"] + 1.0


def test_held_out_digits_are_test_digits_with_their_classes() -> None:
    reals, labels = held_out_digits(tiny(*MLP), 5, 0)(0, 5)
    images, classes = load_mnist("test", 8)
    for real, label in zip(reals, labels, strict=True):
        row = (((images / 127.5 - 1) - real).abs().flatten(1).amax(1) < 1e-5).nonzero()[0]
        assert classes[row] == label
