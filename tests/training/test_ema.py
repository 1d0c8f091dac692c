"""The moving average: half-life in images, buffers, and 0 as off."""

import pytest
import torch
from torch import nn

from ganscale.models.layers import BatchNorm
from ganscale.training.build import build
from ganscale.training.ema import LogitAverages, MovingAverage
from ganscale.training.loop import train
from tests.runs import MLP, tiny


def fill(module: nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


@pytest.mark.parametrize(("images", "updates"), [(1000, 1), (100, 10), (8, 125)])
def test_after_a_half_life_an_old_weight_counts_half(images: int, updates: int) -> None:
    """However many iterations it takes."""
    source = nn.Linear(3, 2).double()
    fill(source, 1.0)
    average = MovingAverage(source, half_life=1000)
    fill(source, 3.0)
    for _ in range(updates):
        average.update(images)
    torch.testing.assert_close(average.module.weight, torch.full((2, 3), 2.0).double(), rtol=1e-12, atol=0.0)
    torch.testing.assert_close(average.module.bias, torch.full((2,), 2.0).double(), rtol=1e-12, atol=0.0)


def test_a_half_life_of_0_copies() -> None:
    source = nn.Linear(3, 2)
    average = MovingAverage(source, half_life=0)
    nn.init.normal_(source.weight)
    average.update(5)
    assert torch.equal(average.module.get_parameter("weight"), source.weight)


def test_it_is_a_frozen_copy_in_eval_mode() -> None:
    source = nn.Sequential(nn.Linear(3, 2), BatchNorm(2))
    average = MovingAverage(source, half_life=10)
    assert not average.module.training
    assert source.training
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert all(parameter.requires_grad for parameter in source.parameters())
    own = {parameter.data_ptr() for parameter in average.module.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in source.parameters())


def test_buffers_are_copied_as_they_are() -> None:
    source = nn.Sequential(BatchNorm(2), nn.BatchNorm1d(2))
    average = MovingAverage(source, half_life=1e6)
    fill(source, 3.0)
    average.update(1)
    assert torch.equal(average.module.get_buffer("0.running_var"), torch.tensor([3.0, 3.0]))
    assert average.module.get_buffer("1.num_batches_tracked") == 3
    assert average.module.get_parameter("0.weight")[0] < 1.1


def test_averages_of_logits_have_no_bias_towards_their_start() -> None:
    averages = LogitAverages(0.9)
    real, fake, some = averages.means()
    assert (real, fake, some) == (0.0, 0.0, False)
    history = [(3.0, -1.0, 2.0), (10.0, 5.0, 5.0), (-4.0, 0.0, 4.0)]
    for sums in history:
        averages.update(torch.tensor(sums, dtype=torch.float64))
    weights = [0.9**2, 0.9, 1.0]
    for side in (0, 1):
        mean = sum(w * row[side] / row[2] for w, row in zip(weights, history, strict=True)) / sum(weights)
        assert averages.means()[side].item() == pytest.approx(mean, rel=1e-12)


@pytest.mark.parametrize("accumulation", [1, 3])
def test_lecam_sees_the_averages_of_the_updates_before(accumulation: int) -> None:
    """The first update has no penalty; the averages are those of whole global batches, and a state holds them."""
    settings = ("penalty.lecam=0.3", "penalty.lecam_decay=0.9", "optim.d_steps=2", "optim.lr_d=1e-2")
    experiment = build(tiny(*MLP, *settings, f"train.accumulation={accumulation}"))
    seen = []
    experiment.step.d.parallel.register_forward_hook(lambda *args: seen.append(args[2]))
    for _ in train(experiment, intervals={}, until=72):
        pass
    outputs = [seen[i : i + accumulation] for i in range(0, len(seen), accumulation)]
    assert len(outputs) == 6
    mean, weight = torch.zeros(2, dtype=torch.float64), 0.0
    for index, micros in enumerate(outputs):
        real, fake = (torch.cat([getattr(each, side) for each in micros]) for side in ("real_logits", "fake_logits"))
        found = sum(each.penalties["lecam"] for each in micros)
        expected = ((real - mean[1]).square() + (fake - mean[0]).square()).sum() * (index > 0)
        torch.testing.assert_close(found, expected)
        mean = (0.9 * weight * mean + torch.stack((real.mean(), fake.mean()))) / (0.9 * weight + 1.0)
        weight = 0.9 * weight + 1.0
    other = build(tiny(*MLP, *settings)).state
    other.load_state_dict(experiment.state.state_dict())
    torch.testing.assert_close(torch.stack(other.logit_averages.means()[:2]), mean)
    old = experiment.state.state_dict()
    del old["logit_averages"]
    other.load_state_dict(old)
    assert not other.logit_averages.means()[2], "states of earlier versions have none"


@pytest.mark.parametrize("penalty", ["drift", "lecam", "centering"])
def test_relativistic_objectives_keep_ds_bias_where_a_penalty_sees_it(penalty: str) -> None:
    paired = ("loss.name=relativistic_pairing", f"penalty.{penalty}=1")
    assert "head.logit.bias" in dict(build(tiny(*MLP, *paired)).state.discriminator.named_parameters())
    assert "head.logit.bias" not in dict(build(tiny(*MLP, paired[0])).state.discriminator.named_parameters())
