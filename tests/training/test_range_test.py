"""The rate that a run finds before its first image: what it depends on, and that the test leaves no trace."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.health import detectors
from ganscale.run.session import run_worker
from ganscale.storage.checkpoint import CheckpointStore, load
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from ganscale.training import loop
from ganscale.training.batches import Batches
from ganscale.training.build import build
from ganscale.training.range_test import FASTEST, LENGTH, MOST, SLOWEST, find_rate
from ganscale.training.schedules import Controls
from ganscale.training.statistics import Statistics
from tests.fleet import Fleet
from tests.run.test_health_monitor import BACK, at, config
from tests.runs import BATCH_NORM, MLP, RING, tiny
from tests.trajectories import assert_same, check_world, continued, load_state

RATE = "optim.auto=true"
BOTH = (RATE, "penalty.auto=true", "loss.name=relativistic_pairing")
GIVEN = ("optim.lr_g=2e-4", "optim.lr_d=2e-4")
"""The tests' own runs have rates, which `optim.auto` refuses: back to the default."""
CPU = torch.device("cpu")


def found(*overrides: str) -> float:
    return find_rate(build(tiny(*GIVEN, *overrides, RATE)))


def test_the_state_is_the_same_before_and_after() -> None:
    experiment = build(tiny(*MLP, *BATCH_NORM, *GIVEN, *BOTH))
    before = copy.deepcopy(experiment.state.state_dict())
    rate = find_rate(experiment)
    assert_same(experiment.state.state_dict(), before)
    assert SLOWEST < rate < FASTEST
    assert find_rate(experiment) == rate


def test_the_wider_the_networks_the_lower_the_rate() -> None:
    wide = ("model.generator.width=96", "model.discriminator.width=96")
    assert found(*MLP, *wide) <= 0.5 * found(*MLP)


def test_the_movement_counts_in_deviations_of_the_data() -> None:
    experiment = build(tiny(*RING, *GIVEN, RATE))
    rate = find_rate(experiment)
    reference = experiment.reference
    size = (len(reference) - 2) // 2
    doubled = (*(2 * x for x in reference[:size]), *(4 * x for x in reference[size : 2 * size]), *reference[-2:])
    object.__setattr__(experiment, "reference", doubled)
    assert find_rate(experiment) > rate


def test_a_shorter_run_trains_faster() -> None:
    size = build(tiny(*RING, *GIVEN, RATE)).sampler.images_per_iteration
    shares, wide = (2, 1, 1 / 3, 1 / MOST, 1 / 60), ("model.generator.width=256", "model.discriminator.width=256")
    rates = [found(*RING, *wide, f"train.images={int(share * LENGTH * size)}") for share in shares]
    assert [rate / rates[0] for rate in rates] == pytest.approx([1, 1, 3, MOST, MOST])
    assert found(*RING, "train.images=600") == FASTEST


@pytest.mark.parametrize("world_size", [2, 3])
def test_any_number_of_workers_trains_alike(fleet: Fleet, alone, world_size: int) -> None:
    check_world(fleet, alone, (*MLP, *GIVEN, *BOTH), world_size)


def test_a_resume_is_exact() -> None:
    overrides = (*MLP, *GIVEN, *BOTH, "train.images=9600")
    straight, stopped = continued(overrides, None, 14), continued(overrides, None, 6)
    assert load_state(stopped)["rate"] == load_state(straight)["rate"] is not None
    assert load_state(stopped)["gamma"] != load_state(straight)["gamma"]
    assert_same(load_state(continued(overrides, stopped, 14)), load_state(straight))


def run(folder: Path, name: str, *overrides: str) -> dict[str, Any]:
    """The last state of a run of 50 iterations."""
    run_worker(config(folder, name, *GIVEN, *BOTH, *overrides), folder / name, device=CPU, echo=False)
    newest = CheckpointStore(folder / name / "checkpoints").newest(lambda _: None)
    assert newest is not None
    return load(newest.path)[1]


def killed(after: int) -> Callable[..., Any]:
    """`find_rate` in a process that is killed after so many of its iterations."""

    def find(experiment: Any) -> float:
        left, real = [after], experiment.iterate

        def iterate(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return real(*arguments)

        object.__setattr__(experiment, "iterate", iterate)
        return find_rate(experiment)

    return find


def test_a_run_killed_in_the_middle_of_the_test_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = run(tmp_path, "straight")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "find_rate", killed(after=20))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, "killed")
    assert_same(run(tmp_path, "killed"), straight)


def test_rates_and_gamma_are_in_the_rows_and_in_the_log(tmp_path: Path) -> None:
    state = run(tmp_path, "logged")
    rows = read_metrics(RunDir(tmp_path / "logged"))
    assert {row[name] for row in rows for name in ("lr_g", "lr_d")} == {state["rate"]}
    assert rows[-1]["gamma"] == state["gamma"]
    assert len({row["gamma"] for row in rows}) > 1
    assert f"both rates are {state['rate']:.2g}" in (tmp_path / "logged" / "train.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(("since", "target"), [(3, 120), (0, 0)])
def test_a_rollback_lowers_the_rate_that_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, since: int, target: int
) -> None:
    monkeypatch.setattr(detectors, "diagnose", at(420, since=since))
    state = run(tmp_path, "back", *(each for each in BACK if not each.startswith("penalty")))
    assert state["rollbacks"] == 1
    rows = [row for row in read_metrics(RunDir(tmp_path / "back")) if row["images"] > target]
    starts = [row["images"] - 12 for row in rows]
    assert [row["lr_d"] for row in rows] == pytest.approx([state["rate"] * 0.5 ** (1 + x / 600) for x in starts])


def test_the_rate_that_is_tested_is_the_one_that_is_trained_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where steps of their own correct it."""
    experiment = build(tiny(*GIVEN, *MLP, RATE, "penalty.path_length=1", "penalty.path_length_every=1"))
    rates, iterate = [], experiment.iterate

    def spy(batches: Batches, controls: Controls) -> Statistics:
        rates.append(controls.lr_g)
        return iterate(batches, controls)

    rate = find_rate(replace(experiment, iterate=spy))
    assert rates[-1] == experiment.schedule.controls(0, rate=rate).lr_g == rate / 2
