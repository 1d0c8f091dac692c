"""Snapshots: serialized to the bytes of the state at their time, whatever training does then, in memory used again."""

import io
from typing import Any

import pytest
import torch

from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.training.snapshot import HostSnapshot
from ganscale.training.state import TrainState
from tests.runs import BATCH_NORM, DCGAN, tiny


def serialized(state: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def addresses(state: Any) -> list[int]:
    if isinstance(state, torch.Tensor):
        return [state.data_ptr()]
    return [each for value in state.values() for each in addresses(value)] if isinstance(state, dict) else []


def test_a_snapshot_is_the_state_at_its_time() -> None:
    experiment = build(tiny(*DCGAN, *BATCH_NORM, "train.images=96", "ema.half_life=100"))
    state, memory = experiment.state, HostSnapshot()
    before, taken = b"", []
    for tick in train(experiment, intervals={"log": 24}, until=96):
        if tick.images == 48:
            before = serialized(state.state_dict())
            taken.append(memory.take(state.state_dict()))
            assert serialized(taken[0]) == before, "also the versions of modules and all that is no tensor"
    assert serialized(state.state_dict()) != before
    assert serialized(taken[0]) == before
    fresh = build(tiny(*DCGAN, *BATCH_NORM)).state
    fresh.load_state_dict(taken[0])
    assert isinstance(fresh, TrainState)
    assert serialized(fresh.state_dict()["generator"]) == serialized(taken[0]["generator"])


def test_memory_is_used_again_and_follows_the_sizes() -> None:
    memory = HostSnapshot()
    weights = {"a": torch.ones(5, 3), "b": {"c": torch.zeros(7)}, "images": 1}
    first = memory.take(weights)
    assert memory.size == 4 * (15 + 7)
    weights["a"].mul_(3.0)
    second = memory.take(weights | {"images": 2})
    assert addresses(first) == addresses(second)
    assert set(addresses(first)).isdisjoint(addresses(weights))
    torch.testing.assert_close(second["a"], torch.full((5, 3), 3.0))
    assert (first["images"], second["images"]) == (1, 2)
    third = memory.take({"a": torch.arange(2.0)})
    torch.testing.assert_close(third["a"], torch.arange(2.0))
    assert memory.size == 8


def test_tensors_that_share_memory_do_so_in_the_copy() -> None:
    whole = torch.arange(12.0)
    state = {"whole": whole, "row": whole.view(3, 4)[1], "turned": whole.view(3, 4).t(), "none": torch.empty(0)}
    copied = HostSnapshot().take(state)
    assert serialized(copied) == serialized(state)
    copied["whole"][4] = -1.0
    assert (copied["row"][0].item(), copied["turned"][0, 1].item(), whole[4].item()) == (-1.0, -1.0, 4.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_snapshot_of_a_gpu_is_pinned_and_waited_for() -> None:
    state = {"a": torch.randn(2**24, device="cuda"), "step": torch.ones(())}
    expected = state["a"].cpu()
    copied = HostSnapshot().take(state)
    state["a"].zero_()
    torch.cuda.synchronize()
    assert copied["a"].is_pinned()
    assert not copied["step"].is_pinned()
    torch.testing.assert_close(copied["a"], expected, rtol=0, atol=0)
