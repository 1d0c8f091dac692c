"""A worker that is slowed down: named with its machine and its phase, and the result stays the same."""

import socket
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ganscale.config import load as load_config
from ganscale.health.stragglers import METRICS
from ganscale.run import session
from ganscale.run.session import Outcome, run_worker
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_events, read_metrics
from tests.fleet import Fleet, over_gloo
from tests.processes import final_state
from tests.run.test_stop_signal import RUN

PAUSE = 0.6
"""Seconds that are added to an iteration of a slow worker: many times its own, even on a busy machine."""
EVERY, ROWS, IMAGES = 36, 2, 108


def slowed_run(folder: str, name: str, slow: str, network: bool, overrides: tuple[str, ...]) -> Outcome:
    """On one replica: a run in which rank 1 computes or reads slowly, or nobody does."""
    from ganscale.parallel.collectives import Replica

    build = session.build

    def hold(*arguments: Any, **options: Any) -> Any:
        made = build(*arguments, **options)
        if slow and Replica.current().rank == 1:
            owner, name = (made.sampler.source, "read") if slow == "data" else (made, "iterate")
            function = getattr(owner, name)

            def held(*numbers: Any) -> Any:
                time.sleep(PAUSE)
                return function(*numbers)

            object.__setattr__(owner, name, held)
        return made

    session.build = hold
    try:
        limits = (
            f"log.every={EVERY}",
            f"checkpoint.every={EVERY}",
            f"train.images={IMAGES}",
            f"health.patience={ROWS}",
            f"run.dir={folder}",
            f"run.name={name}",
        )
        arguments = (load_config(overrides=(*RUN, *limits, *overrides)), Path(folder) / name)
        if network:
            with over_gloo():
                return run_worker(*arguments, device=torch.device("cpu"), echo=False)
        return run_worker(*arguments, device=torch.device("cpu"), echo=False)
    finally:
        session.build = build


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("slow", "network", "overrides"),
    [("compute", False, ()), ("data", True, ()), ("compute", True, ("train.shards=4",))],
    ids=["computation", "data over the network", "shards"],
)
def test_a_slow_worker_is_named_with_its_machine_and_phase(
    fleet: Fleet, tmp_path: Path, slow: str, network: bool, overrides: tuple[str, ...]
) -> None:
    fleet.run(slowed_run, 3, str(tmp_path), "slow", slow, network, overrides)
    (event,) = read_events(RunDir(tmp_path / "slow"))  # once, although all rows show it
    assert event["kind"] == "straggler"
    assert f"worker 1 on {socket.gethostname()} " in event["text"]
    assert ("reading data" if slow == "data" else "computation") in event["text"]
    row = read_metrics(RunDir(tmp_path / "slow"))[-1]
    assert set(METRICS) <= row.keys()
    assert row["slowest_rank"] == 1.0
    assert row[f"{slow}_seconds_max"] >= PAUSE
    assert row["waiting_seconds"] > row["compute_seconds"] + row["data_seconds"], "most workers wait"


@pytest.mark.multiprocess
def test_the_warning_is_optional_and_changes_nothing(fleet: Fleet, tmp_path: Path) -> None:
    fleet.run(slowed_run, 3, str(tmp_path), "even", "", False, ("health.response=stop",))
    off = ("health.response=stop", "health.ignore=[straggler]")
    fleet.run(slowed_run, 3, str(tmp_path), "ignored", "data", False, off)
    outcomes = fleet.run(slowed_run, 3, str(tmp_path), "slow", "data", False, ("health.response=stop",))
    assert [each.images for each in outcomes] == [IMAGES] * 3, "no reason to stop"
    assert [event["kind"] for event in read_events(RunDir(tmp_path / "slow"))] == ["straggler"]
    assert read_events(RunDir(tmp_path / "ignored")) == read_events(RunDir(tmp_path / "even")) == []
    assert final_state(tmp_path / "slow") == final_state(tmp_path / "even")
