"""All that is saved: nothing is missing, and it loads without running code."""

import io
from operator import attrgetter

import pytest
import torch

from ganscale.training.build import build
from ganscale.training.loop import train
from tests.runs import BATCH_NORM, MLP, tiny


def trained(iterations: int = 3):
    experiment = build(tiny(*MLP, *BATCH_NORM))
    for _ in train(experiment, intervals={}, until=12 * iterations):
        pass
    return experiment


def test_a_state_comes_back_through_a_file_that_holds_no_code() -> None:
    state = trained().state
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    file.seek(0)
    fresh = build(tiny(*MLP, *BATCH_NORM, "run.seed=5")).state
    fresh.load_state_dict(torch.load(file, weights_only=True))
    for part in ("generator", "discriminator", "ema.module", "optimizer_g", "optimizer_d"):
        mine, saved = (attrgetter(part)(each).state_dict() for each in (fresh, state))
        torch.testing.assert_close(mine, saved, rtol=0.0, atol=0.0)
    assert (fresh.images, fresh.iteration) == (36, 3)


def test_roll_backs_are_saved_and_states_from_before_there_were_any_load() -> None:
    state = trained(1).state
    state.rollbacks = 2
    saved = state.state_dict()
    fresh = build(tiny(*MLP, *BATCH_NORM)).state
    fresh.load_state_dict(saved)
    assert fresh.rollbacks == 2
    del saved["rollbacks"]
    fresh.load_state_dict(saved)
    assert fresh.rollbacks == 0


def test_adas_signs_are_saved_and_states_from_before_there_were_any_load() -> None:
    state = trained(1).state
    state.signs = (-3.0, 24.0)
    saved = state.state_dict()
    fresh = build(tiny(*MLP, *BATCH_NORM)).state
    fresh.load_state_dict(saved)
    assert fresh.signs == (-3.0, 24.0)
    del saved["signs"]
    fresh.load_state_dict(saved)
    assert fresh.signs == (0.0, 0.0)


def test_loading_keeps_the_objects_that_optimizers_and_step_hold() -> None:
    experiment = build(tiny(*MLP, *BATCH_NORM))
    state = experiment.state
    before = [parameter.data_ptr() for parameter in (*state.generator.parameters(), *state.ema.module.parameters())]
    state.load_state_dict(trained().state.state_dict())
    after = [parameter.data_ptr() for parameter in (*state.generator.parameters(), *state.ema.module.parameters())]
    assert before == after


@pytest.mark.parametrize(
    "part", ["generator", "discriminator", "ema", "optimizer_g", "optimizer_d", "images", "iteration"]
)
def test_every_part_is_needed(part: str) -> None:
    saved = trained(1).state.state_dict()
    del saved[part]
    with pytest.raises(KeyError, match=part):
        build(tiny(*MLP, *BATCH_NORM)).state.load_state_dict(saved)


def test_another_networks_state_is_refused() -> None:
    saved = trained(1).state.state_dict()
    with pytest.raises(RuntimeError, match="size mismatch"):
        build(tiny(*MLP, *BATCH_NORM, "model.generator.width=13")).state.load_state_dict(saved)
