"""The campaign of faults: its plan, its records, and campaigns on a real cluster."""

import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster.machines import ClusterError
from cluster.nodes import LocalCluster
from cluster.state import State
from ganscale.config import load
from ganscale.storage.failures import optimal_interval
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import JsonlTracker
from tests.chaos import campaign as fault_campaign
from tests.chaos import runs as fault_runs
from tests.chaos.active_run import ActiveRun, Injection, LostError, MissedError, send
from tests.chaos.bit_flip import flip
from tests.chaos.campaign import main, possible
from tests.chaos.kinds import KINDS
from tests.chaos.records import FaultRecord, Record, plan, read_records, summary, table
from tests.chaos.runs import Campaign, final_state, make_cluster, saving_costs
from tests.runs import MLP, saved

FAULT = FaultRecord("worker", 6400, 12_800, 20.0, 5.0)
GOOD = Record(5, True, True, 60.0, 1, (FAULT,))


def test_the_plan_is_the_same_each_time_and_has_every_kind() -> None:
    kinds = sorted(KINDS)
    planned = plan(kinds, 66, 3, 4)
    assert planned == plan(kinds, 66, 3, 4)
    assert planned != plan(kinds, 66, 4, 4)
    counts = Counter(name for run in planned for name in run.kinds)
    assert sum(counts.values()) == 68
    assert set(counts) == set(kinds)
    assert min(counts.values()) >= 66 // len(KINDS)
    assert plan(kinds, 80, 3, 4)[: len(planned)] == planned, "more faults begin with the same ones"
    assert len({run.seed for run in planned}) == 17
    for run in planned:
        turns = [KINDS[name].turn for name in run.kinds]
        assert turns == sorted(turns), "what can only happen at the start of a run comes first"
    (whole,) = plan(kinds, len(kinds), 0, len(kinds))
    assert sorted(whole.kinds) == kinds


@pytest.mark.parametrize("change", [{"survived": False}, {"exact": False}, {"problem": "x"}])
def test_a_run_that_lost_anything_is_not_good(change: dict[str, Any]) -> None:
    assert GOOD.good
    assert not replace(GOOD, **change).good


@pytest.mark.parametrize("change", [{"images_lost": 12_801}, {"seconds_to_recover": None}, {"commands": 1}])
def test_a_fault_that_cost_too_much_or_needed_help_is_not_good(change: dict[str, Any]) -> None:
    assert replace(FAULT, images_lost=12_800).good
    assert not replace(FAULT, **change).good
    assert not replace(GOOD, faults=(FAULT, replace(FAULT, **change))).good


def test_goodput_is_the_share_of_the_time_whose_work_was_kept() -> None:
    assert FAULT.goodput == 0.2
    assert replace(FAULT, seconds_to_recover=None).goodput == 0.0


def test_the_table_has_a_row_for_each_kind() -> None:
    slow = replace(FAULT, seconds_to_recover=45.0, images_lost=9000)
    never = FaultRecord("hang", 6400, 6400, None, 5.0)
    wrong = Record(7, True, False, 60.0, 1, (replace(FAULT, kind="cut"),))
    records = [GOOD, replace(GOOD, seed=6, faults=(slow, never), survived=False, exact=False), wrong]
    assert table(records).splitlines()[2:] == [
        "| worker | 2 | 1 | 0 | 7,700, 9,000 (12,800) | 32.5, 45.0 | 0.15 |",
        "| cut | 1 | 0 | 1 | 6,400, 6,400 (12,800) | 20.0, 20.0 | 0.20 |",
        "| hang | 1 | 1 | 0 | 6,400, 6,400 (6,400) | none | 0.00 |",
    ]


def test_the_summary_says_how_often_to_save() -> None:
    beyond = replace(FAULT, images_lost=12_801, commands=2)
    found = summary([GOOD, replace(GOOD, faults=(beyond,), exact=False, problem="p")], 2.0)
    assert (found["runs"], found["faults"], found["runs_lost"], found["wrong_weights"]) == (2, 2, 0, 1)
    assert (found["beyond_bound"], found["not_by_themselves"], found["problems"]) == (1, 1, ["p"])
    advice = found["by_hours_between_faults"]["6"]
    interval = optimal_interval(2.0, 21_600.0)
    assert advice["interval_seconds"] == interval
    assert advice["goodput"] == pytest.approx(1 - 2.0 / interval - (interval / 2 + 1.0 + 20.0) / 21_600.0)


def test_records_are_read_back_and_damaged_rows_left_out(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    assert read_records(path) == []
    damaged = json.dumps(asdict(GOOD) | {"faults": [{"kind": "x"}]})
    path.write_text(f"{json.dumps(asdict(GOOD))}\n{{\n{damaged}\n", encoding="utf-8")
    assert read_records(path) == [GOOD]


def test_faults_that_cannot_be_made_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = LocalCluster("x")
    cluster.state = State("plain")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    missing = {"cut", "storage-read-only", "drained", "storage-full", "drift"}
    assert set(KINDS) - set(possible(cluster, small_storage=False)) == missing
    cluster.state = State("namespaces")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert possible(cluster, small_storage=True) == list(KINDS)


def test_the_command_of_a_run_is_a_config_that_loads(tmp_path: Path) -> None:
    campaign = Campaign(LocalCluster("x"), tmp_path, images=25_600, interval=6400, timeout=30.0)
    words = campaign.command("worker-5")
    config = load(overrides=words[words.index("ganscale.train") + 1 :])
    assert (config.run.name, config.train.images, config.checkpoint.every) == ("worker-5", 25_600, 6400)
    assert config.cluster.num_workers == 2, "the same number always: results are compared to the bit"
    assert (config.health.response, len(config.health.ignore)) == ("rollback", 7), "only drift is acted on"


def test_the_newest_state_counts_and_saving_it_is_timed(tmp_path: Path) -> None:
    assert final_state(tmp_path) == ""
    saved(tmp_path, *MLP, images=640)
    first = final_state(tmp_path)
    saved(tmp_path, *MLP, images=1280)
    assert len(first) == 64
    assert final_state(tmp_path) != first
    assert saving_costs(tmp_path) > 0
    assert not (tmp_path / "timed").exists()


def scene(folder: Path, words: list[str]) -> ActiveRun:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(words)

    return ActiveRun(LocalCluster("x"), RunDir(folder), start, start(), random.Random(1), 10, 2)


def test_a_moment_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    ended = scene(tmp_path, ["true"])
    with pytest.raises(MissedError, match="the command ended"):
        ended.until(lambda: False)
    running = scene(tmp_path, ["sleep", "60"])
    running.until(lambda: True)
    running.kill_command()
    running.restart()
    assert (running.codes, running.expected_ends) == ([-9], 1)
    assert running.driver.poll() is None
    send([running.driver.pid, 2**22 + 1])
    assert running.driver.wait(10) == -9


def run_with_attempts(folder: Path, *attempts: tuple[int, int]) -> ActiveRun:
    """A run whose attempts resumed at some images and reached some."""
    made = scene(folder, ["sleep", "60"])
    for resumed, reached in attempts:
        with made.folder.log.open("a", encoding="utf-8") as log:
            log.write(f"2026-11-22 01:02:03 resuming at {resumed:,} images\n" * bool(resumed))
        tracker = JsonlTracker(made.folder, images=resumed)
        for images in range(resumed + 2, reached + 1, 2):
            tracker.log(images, {})
        tracker.close(completed=False)
    return made


def campaign(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Campaign:
    """One that waits for a second."""
    monkeypatch.setattr(fault_runs, "TIMEOUT", 1.0)
    return Campaign(LocalCluster("x"), folder, images=2000, interval=100, timeout=1.0)


def test_a_run_has_recovered_when_a_later_attempt_is_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = campaign(tmp_path, monkeypatch)
    run = run_with_attempts(tmp_path, (0, 1190), (1100, 1192))
    try:
        run.injections.append(Injection(0.0, 1188, 0))
        seconds, lost = made._recovery(run, False)
        assert seconds > 0
        assert lost == 88
        run.injections[0] = Injection(0.0, 1192, 0)
        with pytest.raises(LostError, match="within 1 s"):
            made._recovery(run, False)
        run.injections[0] = Injection(0.0, 1188, 1)
        with pytest.raises(LostError):
            made._recovery(run, False)  # no attempt since the fault
        assert made._recovery(run, True)[1] == 0, "which some faults do not need"
        run.injections[0] = Injection(0.0, 1189, 1)
        with pytest.raises(LostError):
            made._recovery(run, True)  # a row may have been in flight
        run.injections[0] = Injection(0.0, 1180, 1, resumed_from=1100)
        assert made._recovery(run, True)[1] == 80
    finally:
        run.kill_command()


def test_a_failed_command_is_started_again_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = campaign(tmp_path, monkeypatch)
    monkeypatch.setattr(fault_runs, "MAX_STARTS", 3)
    monkeypatch.setattr(made, "restore_cluster", lambda: None)
    run = scene(tmp_path, ["false"])
    with pytest.raises(LostError, match=r"\[1, 1, 1\]"):
        made._finish(run)
    done = scene(tmp_path, ["true"])
    made._finish(done)
    assert done.codes == [0]
    with pytest.raises(MissedError, match="the run was over"):
        made._restart_if_ended(done)


HOLD = """
import sys, time, numpy
until = time.monotonic() + 30
numbers = numpy.array(eval(sys.argv[1]), numpy.float32) + 0.01
print("here", flush=True)
while abs(numbers[0] - eval(sys.argv[1])[0]) < 0.02 and time.monotonic() < until: time.sleep(0.02)
print(*numbers.tolist(), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="writing to another process's memory needs root")
def test_a_bit_flips_in_another_process(tmp_path: Path) -> None:
    wanted = np.random.default_rng(5).uniform(1.0, 2.0, 48).astype(np.float32)
    words = [sys.executable, "-c", HOLD, repr(wanted.tolist())]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "here\n"
            assert flip(process.pid, -wanted, within=0.02) == 0
            assert flip(process.pid, wanted, within=0.02) >= 1
            found = np.array(process.stdout.readline().split(), np.float32)
        finally:
            process.kill()
    assert 0.02 < abs(found[0] - wanted[0]) < 0.5
    assert np.abs(found[1:] - wanted[1:]).max() < 0.011


def test_storage_is_slow_while_a_file_says_so(tmp_path: Path) -> None:
    code = "import os, time; start = time.monotonic(); os.fsync(1); print(time.monotonic() - start)"
    environment = make_cluster(tmp_path).extra
    mark = Path(environment["GANSCALE_SLOW_STORAGE"])

    def takes() -> float:
        with (tmp_path / "out").open("w+") as out:
            subprocess.run([sys.executable, "-c", code], env={**os.environ, **environment}, stdout=out, check=True)
            out.seek(0)
            return float(out.read())

    mark.write_text("0.5")
    assert takes() >= 0.5
    mark.unlink()
    assert takes() < 0.4


def test_a_cluster_that_cannot_be_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(LocalCluster):
        def up(self) -> None:
            raise ClusterError("no cluster today")

    monkeypatch.setattr(fault_runs, "LocalCluster", Broken)
    monkeypatch.setattr(fault_campaign, "_mount", lambda _: False)
    assert main(["--out", str(tmp_path)]) == 2
    assert "fault_campaign: error: no cluster today" in capsys.readouterr().err


QUICK = ("truncated", "drift")
"""A lost command with a corrupted checkpoint, and (as root) a bit flip; `integration/test_ray.py` kills a worker."""


@pytest.mark.ray
@pytest.mark.timeout(7200)
@pytest.mark.slow
@pytest.mark.parametrize("kinds", [QUICK, tuple(KINDS)], ids=["quick", "all"])
def test_a_campaign_loses_nothing(kinds: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of these kinds of faults once, several in a run."""
    lengths = (
        f"--faults {len(kinds)} --per-run {min(6, len(kinds))} --images {6400 * min(6, len(kinds))} --interval 3200"
    )
    code = main(["--out", str(tmp_path / "c"), *lengths.split(), "--kinds", *kinds])
    captured = capsys.readouterr()
    if code == 2:
        pytest.skip(f"no local cluster works here: {captured.err.strip()[-300:]}")
    assert code == 0, captured.out
    injected = [fault.kind for record in read_records(tmp_path / "c" / "records.jsonl") for fault in record.faults]
    assert set(injected) >= {name for name in kinds if not KINDS[name].needs}
