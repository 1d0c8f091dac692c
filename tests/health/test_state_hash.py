"""Fingerprints of states: equal bits give equal numbers, any other bit another one."""

import math
import random

import pytest
import torch

from ganscale.health import state_hash as module
from ganscale.health.state_hash import minority_ranks, state_hash
from ganscale.training.build import build
from tests.runs import MLP, tiny


def test_equal_states_have_equal_fingerprints_and_all_parts_count() -> None:
    one, two = build(tiny(*MLP)), build(tiny(*MLP))
    number = state_hash(one.state.state_dict())
    assert number == state_hash(two.state.state_dict())
    assert -(1 << 63) <= number < 1 << 63
    two.step(two.sampler.batches(0), two.schedule.controls(0))
    assert state_hash(two.state.state_dict()) != number
    one.state.images = 12
    assert state_hash(one.state.state_dict()) != number


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool])
def test_any_flipped_bit_is_seen(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK", 100)
    draw = random.Random(5)
    tensor = torch.randint(0, 2, (7, 91), generator=torch.Generator().manual_seed(1)).to(dtype)
    number = state_hash({"a": [tensor]})
    raw = tensor.view(-1).view(torch.uint8)
    for _ in range(200):
        place = draw.randrange(raw.numel())
        bit = 0 if dtype == torch.bool else draw.randrange(8)
        raw[place] ^= 1 << bit
        assert state_hash({"a": [tensor]}) != number
        raw[place] ^= 1 << bit
    assert state_hash({"a": [tensor]}) == number


def test_a_nan_has_one_hash() -> None:
    """Python's hash of a NaN is that of the object, so that replicas that diverge alike would seem to differ."""
    first, other = float("nan"), float("inf") - float("inf")
    assert state_hash({"a": math.nan}) == state_hash({"a": float("nan")})
    assert state_hash([first]) == state_hash([abs(other)])
    assert state_hash([0.0]) != state_hash([1e-300])


def test_places_and_order_count() -> None:
    a, b = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 1.0])
    assert len({state_hash([a]), state_hash([b]), state_hash([a, b]), state_hash([b, a])}) == 4
    assert state_hash([a.reshape(2, 1).t()]) == state_hash([a])
    assert state_hash([torch.zeros(3)]) != state_hash([-torch.zeros(3)]), "bits, not values"
    nan = torch.tensor([float("nan")])
    assert state_hash([nan]) == state_hash([nan.clone()])


@pytest.mark.parametrize(
    ("numbers", "odd"),
    [([5], []), ([5, 5], []), ([5, 6], [0, 1]), ([5, 6, 5], [1]), ([5, 6, 7], [0, 1, 2]), ([6, 5, 5, 5, 7], [0, 4])],
)
def test_the_odd_ones_are_those_that_differ_from_most(numbers: list[int], odd: list[int]) -> None:
    assert minority_ranks(numbers) == odd
