"""The campaign of kills in a bucket: its plan, traps and records, and a few of its runs."""

import json
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from tests.buckets import moto
from tests.chaos.bucket_campaign import PER_RUN, Kill, Planned, Record, campaign, plan, read_records, table
from tests.chaos.bucket_kinds import KINDS
from tests.chaos.bucket_run import DELETION, MANIFEST, STATE, Trap

PLANNED = Planned(3, "torchrun", "async", ("all", "rank"))
KILLS = (Kill("all", "", 120, 10.0, (240, 120)), Kill("rank", "rank 1", 60, 20.0, (360,)))
GOOD = Record(PLANNED, True, True, 60.0, (1, 0), KILLS)
PREFIX = "/runs/x/a/checkpoints/000000000120/"


def test_ten_seeds_have_every_kind_as_often_under_its_launcher() -> None:
    planned = [plan(seed) for seed in range(10)]
    assert planned == [plan(seed) for seed in range(10)]
    counts = Counter(kind for run in planned for kind in run.kinds)
    assert counts == dict.fromkeys(KINDS, PER_RUN)
    assert {run.launcher for run in planned} == {"local", "torchrun"}
    assert {run.mode for run in planned} == {"inline", "async"}
    for run in planned:
        assert {KINDS[kind].launcher for kind in run.kinds} <= {"", run.launcher}
        assert not any(KINDS[kind].is_last for kind in run.kinds[:-1])


def test_a_trap_acts_once_at_its_request() -> None:
    acts: list[str] = []
    trap = Trap(STATE, "dropped", lambda: acts.append("x"), skip=1)
    answers = [trap(*request) for request in (("GET", f"{PREFIX}state-1.pt"), *3 * [("PUT", f"{PREFIX}state-1.pt")])]
    assert answers == [None, None, "reset", None]
    assert acts == ["x"]
    assert trap.sprung.is_set()


def test_a_trap_may_wait_for_another_request_and_act_after_its_own() -> None:
    order: list[str] = []
    trap = Trap(DELETION, "answered", lambda: order.append("act"))
    assert trap("POST", "/runs?delete") is None, "of something else"
    assert trap("PUT", f"{PREFIX}manifest.json") is None
    react = trap("POST", "/runs?delete")
    assert react(lambda: order.append("passed on")) is False, "nobody hears the answer"
    assert order == ["passed on", "act"]
    held = Trap(MANIFEST, "held", lambda: order.append("act"))
    react = held("PUT", f"{PREFIX}manifest.json")
    held.released.set()
    assert react(lambda: None) is True


@pytest.mark.parametrize("change", [{"survived": False}, {"exact": False}, {"problem": "x"}])
def test_a_run_that_lost_anything_is_not_good(change: dict[str, Any]) -> None:
    assert GOOD.good
    assert not replace(GOOD, **change).good


def test_records_are_read_back_and_counted(tmp_path: Path) -> None:
    bad = replace(GOOD, planned=replace(PLANNED, seed=4), exact=False, kills=KILLS[:1], problem="its rows are others")
    path = tmp_path / "records.jsonl"
    assert read_records(path) == []
    path.write_text("".join(json.dumps(asdict(record)) + "\n" for record in (GOOD, bad)))
    assert read_records(path) == [GOOD, bad]
    assert table([GOOD, bad]).splitlines()[2:] == [
        "| rank | 1 | 0 | 0 | 1 | 60, 60 | 20.0, 20.0 |",
        "| all | 2 | 0 | 1 | 4 | 120, 120 | 10.0, 10.0 |",
        "",
        "2 runs, 3 kills, 0 runs lost, 1 with wrong weights; problems: seed 4: its rows are others",
    ]


@pytest.mark.multiprocess
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_in_a_bucket_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three seeds with nine kinds of kills."""
    with moto() as server:
        server.use(monkeypatch)
        records = campaign(tmp_path, (3, 4, 5), server)
    assert len({kind for record in records for kind in record.planned.kinds}) == 9
    assert all(record.good for record in records), table(records)
