"""The moving average: half-life in images, buffers, and 0 as off."""

import pytest
import torch
from torch import nn

from ganscale.models.layers import BatchNorm
from ganscale.training.ema import MovingAverage


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
