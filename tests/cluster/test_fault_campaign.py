"""The campaign of faults: its plan, its records, and a short one on a real cluster."""

import json
import random
import subprocess
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from cluster import fault_campaign
from cluster.fault_campaign import (
    Campaign,
    Record,
    final_state,
    main,
    plan,
    possible,
    read_records,
    saving_costs,
    table,
)
from cluster.fault_kinds import KINDS, MissedError, Scene, send
from cluster.nodes import LocalCluster
from cluster.state import State
from ganscale.config import load
from ganscale.runfolder import RunFolder
from tests.runs import MLP, saved

GOOD = Record("worker", 5, True, True, 6400, 12_800, 21.5, 60.0, 0.5, 1)


def test_the_plan_is_the_same_each_time_and_has_every_kind() -> None:
    planned = plan(sorted(KINDS), 64, 3)
    assert planned == plan(sorted(KINDS), 64, 3)
    assert planned != plan(sorted(KINDS), 64, 4)
    assert set(Counter(name for name, _ in planned).values()) == {64 // len(KINDS)}
    assert plan(sorted(KINDS), 70, 3)[:64] == planned, "more faults go on with the same ones"
    assert len(set(planned)) == 64


@pytest.mark.parametrize(
    "change",
    [{"survived": False}, {"exact": False}, {"images_lost": 12_801}],
)
def test_what_lost_anything_is_not_good(change: dict[str, Any]) -> None:
    assert GOOD.good
    assert replace(GOOD, images_lost=12_800).good
    assert not replace(GOOD, **change).good


def test_the_table_has_a_row_for_each_kind() -> None:
    slow = replace(GOOD, seed=6, seconds_to_recover=30.5, images_lost=9000, goodput=0.7)
    never = replace(GOOD, kind="hang", survived=False, exact=False, seconds_to_recover=None, goodput=0.0)
    lines = table([GOOD, slow, never]).splitlines()
    assert lines[2:] == [
        "| worker | 2 | 2 | 2 | 9,000 (12,800) | 26.0 | 0.60 |",
        "| hang | 1 | 0 | 0 | 6,400 (12,800) | none | 0.00 |",
    ]


def test_records_are_read_back_and_damaged_rows_left_out(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert read_records(path) == []
    path.write_text(json.dumps(asdict(GOOD)) + "\n{\n" + json.dumps({"kind": "x"}) + "\n", encoding="utf-8")
    assert read_records(path) == [GOOD]


def test_faults_that_cannot_be_made_are_left_out() -> None:
    cluster = LocalCluster("x")
    cluster.state = State("plain")
    assert set(KINDS) - set(possible(cluster, small_storage=False)) == {"cut", "storage-full"}
    cluster.state = State("namespaces")
    assert possible(cluster, small_storage=True) == list(KINDS)


def test_the_command_of_a_run_is_a_config_that_loads(tmp_path: Path) -> None:
    campaign = Campaign(LocalCluster("x"), tmp_path, images=25_600, interval=6400, timeout=30.0)
    words = campaign.command("worker-5")
    config = load(overrides=words[words.index("ganscale.train") + 1 :])
    assert (config.run.name, config.train.images, config.checkpoint.every) == ("worker-5", 25_600, 6400)
    assert config.cluster.num_workers == 2, "the same number always: results are compared to the bit"


def test_the_newest_state_counts_and_saving_it_is_timed(tmp_path: Path) -> None:
    assert final_state(tmp_path) == ""
    saved(tmp_path, *MLP, images=640)
    first = final_state(tmp_path)
    saved(tmp_path, *MLP, images=1280)
    assert len(first) == 64
    assert final_state(tmp_path) != first
    assert saving_costs(tmp_path) > 0
    assert not (tmp_path / "timed").exists()


def scene(folder: Path, words: list[str]) -> Scene:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words)

    return Scene(LocalCluster("x"), RunFolder(folder), start, start(), random.Random(1), 10, 100)


def test_a_moment_that_does_not_come_is_said(tmp_path: Path) -> None:
    ended = scene(tmp_path, ["true"])
    with pytest.raises(MissedError, match="the command ended"):
        ended.until(lambda: False)
    running = scene(tmp_path, ["sleep", "60"])
    running.until(lambda: True)
    send([running.driver.pid])
    running.restart_driver()
    assert running.codes == [-9]
    assert running.driver.poll() is None
    send([running.driver.pid, 2**22 + 1])
    assert running.driver.wait(10) == -9


def test_a_cluster_that_cannot_be_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(LocalCluster):
        def up(self) -> None:
            raise fault_campaign.ClusterError("no cluster today")

    monkeypatch.setattr(fault_campaign, "LocalCluster", Broken)
    monkeypatch.setattr(fault_campaign, "_mount", lambda _: False)
    assert main(["--out", str(tmp_path)]) == 2
    assert "fault_campaign: error: no cluster today" in capsys.readouterr().err


SHORT = ("worker", "driver", "while-saving", "while-forming", "ray-snapshot", "truncated", "sigterm", "hang")


@pytest.mark.ray
@pytest.mark.slow
def test_a_short_campaign_loses_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight faults, one of each of these kinds; several minutes."""
    options = ["--out", str(tmp_path / "c"), "--faults", "8", "--images", "128000", "--interval", "6400"]
    code = main([*options, "--kinds", *SHORT])
    said = capsys.readouterr().out
    assert code == 0, said
    records = read_records(tmp_path / "c" / "records.jsonl")
    assert Counter(record.kind for record in records) == Counter(SHORT)
    assert "NOT GOOD" not in said
