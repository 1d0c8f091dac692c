"""Runs of a few iterations whose parameters are compared: between numbers of workers, and through a resume."""

import io

import pytest
import torch
from torch import Tensor

from ganscale.training.build import build
from ganscale.training.loop import train
from tests.fleet import Fleet
from tests.runs import tiny

ITERATIONS = 50
LOOK_EVERY = 5
TOLERANCE = 1e-9


def in_turn(cases: dict[str, tuple[str, ...]], *, quick: tuple[int, ...]) -> list:
    """Each case in worlds of 2 to 5; one of them is quick, those of `quick` in turn, the others are slow tests."""
    return [
        pytest.param(case, size, id=f"{name}-{size}", marks=() if size == quick[i % len(quick)] else pytest.mark.slow)
        for i, (name, case) in enumerate(cases.items())
        for size in (2, 3, 4, 5)
    ]


def trajectory(overrides: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters and buffers of G, D and the moving average, every few iterations: `[ITERATIONS / 5, size]` each."""
    experiment = build(tiny(*overrides))
    state = experiment.state
    networks = {"generator": state.generator, "discriminator": state.discriminator, "ema": state.ema.module}
    rows: dict[str, list[Tensor]] = {f"{name}.{key}": [] for name, net in networks.items() for key in net.state_dict()}
    every = experiment.sampler.images_per_iteration
    intervals = {"look": LOOK_EVERY * every}
    for _ in train(experiment, intervals=intervals, until=ITERATIONS * every):
        for name, network in networks.items():
            for key, value in network.state_dict().items():
                rows[f"{name}.{key}"].append(value.flatten().clone())
    return {name: torch.stack(values) for name, values in rows.items()}


def assert_agree(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each tensor whenever it was looked at, relative to its own largest entry."""
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        assert wanted.isfinite().all(), f"{name} diverged: nothing is compared"
        error = (actual[name] - wanted).abs().amax(dim=1) / wanted.abs().amax(dim=1).clamp_min(1e-300)
        worst = error.max().item()
        assert worst <= TOLERANCE, (
            f"{name}: relative error {worst:.1e} in iteration {LOOK_EVERY * (int(error.argmax()) + 1)}"
        )


def check_world(fleet: Fleet, alone, overrides: tuple[str, ...], world_size: int) -> None:
    """All replicas hold the same bits, and they agree with one worker."""
    ranks = fleet.run(trajectory, world_size, overrides)
    expected = alone(overrides)
    assert_agree(ranks[0], expected)
    for other in ranks[1:]:
        for name in expected:
            assert torch.equal(other[name], ranks[0][name]), f"replicas differ in {name}"


def continued(overrides: tuple[str, ...], saved: bytes | None, until: int) -> bytes:
    """The state after `until` iterations, from the start or from a saved state; as a checkpoint would hold it."""
    experiment = build(tiny(*overrides))
    state = experiment.state
    if saved is not None:
        state.load_state_dict(torch.load(io.BytesIO(saved), weights_only=True))
    every = experiment.sampler.images_per_iteration
    for _ in train(experiment, intervals={}, until=until * every):
        pass
    file = io.BytesIO()
    torch.save(state.state_dict(), file)
    return file.getvalue()


def load_state(saved: bytes) -> dict:
    return torch.load(io.BytesIO(saved), weights_only=True)


def assert_same(actual: dict, expected: dict) -> None:
    """To the bit, optimizers and counters included."""
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=0.0)
