"""A replica that silently computes something else: seen at the next comparison, and the run put right."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import load as load_config
from ganscale.run import session
from ganscale.run.drift import respond_to_drift
from ganscale.run.session import Outcome, run_worker
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_events, read_metrics
from tests.fleet import Fleet
from tests.processes import final_state
from tests.run.test_stop_signal import RUN


def spoilt_run(folder: str, name: str, at: tuple[int, ...], overrides: tuple[str, ...]) -> Outcome:
    """On one replica: a run in which one bit of rank 1's generator flips at each of these moments, once."""
    from ganscale.parallel.collectives import Replica

    build, left = session.build, list(at)

    def spoil(*arguments: Any, **options: Any) -> Any:
        made = build(*arguments, **options)
        update = made.state.ema.update

        def flip(*numbers: Any) -> None:
            update(*numbers)
            if left and made.state.images == left[0] and Replica.current().rank == 1:
                left.pop(0)
                weight = next(made.state.generator.parameters())
                weight.data.view(-1).view(torch.int64)[3] ^= 1

        made.state.ema.update = flip  # pyright: ignore[reportAttributeAccessIssue]
        return made

    session.build = spoil
    try:
        config = load_config(overrides=(*RUN, f"run.dir={folder}", f"run.name={name}", *overrides))
        return run_worker(config, Path(folder) / name, device=torch.device("cpu"), echo=False)
    finally:
        session.build = build


EVERY = ("health.compare_every=60",)


@pytest.mark.multiprocess
def test_a_run_put_back_ends_as_if_nothing_had_happened(fleet: Fleet, tmp_path: Path) -> None:
    """The lowest bit of one weight: too small for any other verdict."""
    fleet.run(spoilt_run, 3, str(tmp_path), "straight", (), EVERY)
    back = (*EVERY, "health.response=rollback")
    outcomes = fleet.run(spoilt_run, 3, str(tmp_path), "back", (204, 384), back)
    assert [(each.images, each.diagnosis) for each in outcomes] == [(600, "")] * 3
    events = read_events(RunDir(tmp_path / "back"))
    assert [(event["images"], event["kind"]) for event in events] == [
        (240, "replica-drift, rollback"),
        (420, "replica-drift, rollback"),
    ]
    assert "worker 1 no longer holds the weights of the others" in events[0]["text"]
    assert "rollback 1 of 3 to 120 images" in events[0]["text"]
    assert final_state(tmp_path / "back") == final_state(tmp_path / "straight")
    assert [row["images"] for row in read_metrics(RunDir(tmp_path / "back"))] == list(range(60, 601, 60))


@pytest.mark.multiprocess
def test_a_run_can_be_stopped_or_warned(fleet: Fleet, tmp_path: Path) -> None:
    stopped = fleet.run(spoilt_run, 3, str(tmp_path), "stopped", (204,), (*EVERY, "health.response=stop"))
    assert {each.images for each in stopped} == {240}
    assert "worker 1 no longer holds" in stopped[0].diagnosis
    warned = fleet.run(spoilt_run, 3, str(tmp_path), "warned", (204,), EVERY)
    assert {each.images for each in warned} == {600}
    assert [event["kind"] for event in read_events(RunDir(tmp_path / "warned"))] == ["replica-drift"], "said once"


@pytest.mark.multiprocess
@pytest.mark.parametrize("off", ["health.compare_every=0", "health.ignore=[replica-drift]"])
def test_the_comparison_can_be_turned_off(fleet: Fleet, tmp_path: Path, off: str) -> None:
    outcomes = fleet.run(spoilt_run, 2, str(tmp_path), "off", (204,), ("health.response=stop", off))
    assert {each.images for each in outcomes} == {600}


def test_the_answer_follows_the_response_and_its_bounds() -> None:
    options: dict[str, Any] = {"target": 120, "most": 2}
    assert respond_to_drift("warn", [1], rollbacks=0, **options).action == "warn"
    assert respond_to_drift("stop", [1], rollbacks=0, **options).action == "stop"
    back = respond_to_drift("rollback", [0, 2], rollbacks=1, **options)
    assert (back.action, back.target) == ("rollback", 120)
    assert "worker 0 and worker 2 no longer hold the weights" in back.text
    last = respond_to_drift("rollback", [0, 1, 2], rollbacks=2, **options)
    assert last.action == "stop"
    assert "the workers no longer hold" in last.text
    assert "after 2 of 2 rollbacks" in last.text
