"""Reports to Ray Train: what they hold, that they never hold a run up, and what a user of Ray finds after a run."""

import json
import logging
import math
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs
import pytest
import ray
import ray.train

from ganscale import Trainer
from ganscale.launch import ray_train, reporting
from ganscale.launch.cluster import _init
from ganscale.launch.reporting import RayChannel, Report, ReportTracker, SnapshotFileSystem, plain
from tests.processes import ROOT
from tests.runs import RING


class FakeChannel(RayChannel):
    """Keeps the reports; `before` is called in each of them."""

    def __init__(self, before: Callable[[], object] = lambda: None) -> None:
        self.sent: list[Report] = []
        self.ends = 0
        self._before = before

    def send(self, report: Report) -> None:
        self._before()
        self.sent.append(report)

    def end(self) -> None:
        self.ends += 1


def saved(tracker: ReportTracker, images: int, **metrics: float) -> None:
    tracker.log(images, metrics)
    tracker.saving(images)
    tracker.saved(images, Path(f"/runs/a/checkpoints/{images}"), best=False)


def test_metrics_are_plain_finite_numbers() -> None:
    row = plain(64, {"loss": np.float32(0.5), "fid": math.nan, "kid": math.inf, "count": 3})  # type: ignore[dict-item]
    assert row == {"images": 64, "loss": 0.5, "count": 3.0}
    assert {type(value) for value in row.values()} == {int, float}
    assert json.loads(json.dumps(row)) == row


def test_a_checkpoint_is_reported_with_the_row_at_its_images() -> None:
    channel = FakeChannel()
    with reporting.reporting("a", is_rank_zero=True, channel=channel) as (tracker,):
        tracker.log(64, {"loss": 1.0})
        tracker.log(128, {"loss": 2.0})
        tracker.saved(64, Path("/runs/a/checkpoints/64"), best=True)
    reference = {"run": "a", "path": "/runs/a/checkpoints/64", "images": 64, "best": True}
    assert channel.sent == [Report({"images": 64, "loss": 1.0}, reference)]
    assert channel.ends == 1


def test_only_rows_that_may_still_be_saved_are_kept() -> None:
    tracker = ReportTracker("a", FakeChannel())
    for images in range(2 * reporting.ROWS_KEPT):
        tracker.log(images, {})
    assert len(tracker._rows) == reporting.ROWS_KEPT
    tracker.finish()


def test_the_newest_checkpoint_replaces_those_that_ray_is_too_slow_for() -> None:
    busy, go = threading.Event(), threading.Event()
    channel = FakeChannel(lambda: (busy.set(), go.wait(60)))
    with reporting.reporting("a", is_rank_zero=True, channel=channel) as (tracker,):
        saved(tracker, 1)
        assert busy.wait(60)
        for images in (2, 3, 4):
            saved(tracker, images)
        go.set()
    assert [report.metrics["images"] for report in channel.sent] == [1, 4]


def test_a_report_that_fails_is_logged_once_and_the_last(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ConnectionError("the controller is gone")

    channel = FakeChannel(fail)
    with caplog.at_level(logging.WARNING), reporting.reporting("a", is_rank_zero=True, channel=channel) as (tracker,):
        saved(tracker, 1)
        tracker._thread.join(60)
        saved(tracker, 2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "the controller is gone" in caplog.text
    assert channel.ends == 1, "the other ranks' threads end, too"


def test_a_report_that_blocks_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(reporting, "REPORT_TIMEOUT", 0.0)
    monkeypatch.setattr(reporting, "END_TIMEOUT", 0.05)
    blocks, never = threading.Event(), threading.Event()
    channel = FakeChannel(lambda: (blocks.set(), never.wait(60)))
    with caplog.at_level(logging.WARNING), reporting.reporting("a", is_rank_zero=True, channel=channel) as (tracker,):
        saved(tracker, 1)
        assert blocks.wait(60)
        for images in (2, 3):
            saved(tracker, images)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert tracker._thread.is_alive(), "nobody waited for it"
    never.set()
    tracker._thread.join(60)
    assert [report.metrics["images"] for report in channel.sent] == [1]


def test_the_last_report_is_waited_for_but_not_for_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(reporting, "END_TIMEOUT", 0.05)
    never = threading.Event()
    with reporting.reporting("a", is_rank_zero=True, channel=FakeChannel(lambda: never.wait(60))) as (tracker,):
        saved(tracker, 1)
    assert "the last report" in caplog.text
    never.set()


def test_a_run_that_fails_waits_for_no_report() -> None:
    never = threading.Event()
    started = time.monotonic()
    for is_rank_zero in (True, False):
        with (
            pytest.raises(ZeroDivisionError),
            reporting.reporting("a", is_rank_zero=is_rank_zero, channel=FakeRanks([]).channel(lambda: never.wait(60))),
        ):
            raise ZeroDivisionError
    assert time.monotonic() - started < reporting.END_TIMEOUT
    never.set()


class FakeRanks:
    """Two ranks as threads: `broadcast_from_rank_zero` and `ray.train.report` are barriers of both."""

    def __init__(self, reports: list[tuple[int, dict[str, Any], dict[str, Any] | None]]) -> None:
        self.reports = reports
        self._barrier, self._rank, self._word = threading.Barrier(2), threading.local(), [None]

    def channel(self, follow: Callable[[], object]) -> RayChannel:
        channel = RayChannel()
        channel.follow = follow  # type: ignore[method-assign]
        return channel

    def broadcast(self, word: Any) -> Any:
        if word is not None:
            self._rank.value, self._word[0] = 0, word
        self._barrier.wait(60)
        found = self._word[0]
        self._barrier.wait(60)
        return found

    def report(self, metrics: dict[str, Any], checkpoint: Any = None, checkpoint_dir_name: str = "") -> None:
        rank = getattr(self._rank, "value", 1)
        self.reports.append((rank, metrics, checkpoint and checkpoint.get_metadata() | {"name": checkpoint_dir_name}))
        self._barrier.wait(60)


def test_all_ranks_report_what_rank_zero_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = FakeRanks([])
    monkeypatch.setattr(reporting, "broadcast_from_rank_zero", ranks.broadcast)
    monkeypatch.setattr(ray.train, "report", ranks.report)
    monkeypatch.setattr(reporting, "END_TIMEOUT", 60.0)

    def rank_one() -> None:
        with reporting.reporting("a", is_rank_zero=False) as trackers:
            assert trackers == []

    other = threading.Thread(target=rank_one)
    other.start()
    with reporting.reporting("a", is_rank_zero=True) as (tracker,):
        saved(tracker, 64, loss=1.0)
    other.join(60)
    assert not other.is_alive()
    reference = {"run": "a", "path": "/runs/a/checkpoints/64", "images": 64, "best": False, "name": "checkpoint_000001"}
    expected = [(0, {"images": 64, "loss": 1.0}, reference), (1, {}, None)]
    assert sorted(ranks.reports, key=lambda report: report[0]) == expected


def test_a_file_that_rays_controller_cannot_write_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = pickle.loads(pickle.dumps(SnapshotFileSystem()))
    assert isinstance(files, SnapshotFileSystem)
    assert files == pyarrow.fs.LocalFileSystem()
    path = tmp_path / "snapshot.json"
    for content in (b"{}", b'{"a": 1}'):
        with files.open_output_stream(str(path)) as stream:
            stream.write(content)
        assert path.read_bytes() == content
    assert os.listdir(tmp_path) == [path.name]
    with files.open_output_stream(str(tmp_path / "removed" / "snapshot.json")) as stream:
        stream.write(b"{}")
    assert "could not be written" in caplog.text


@pytest.fixture
def joined(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One cluster for several runs."""
    environment = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    _init(address="local", num_cpus=3, include_dashboard=False, runtime_env={"env_vars": environment})
    monkeypatch.setattr(ray_train, "connected", lambda config: nullcontext(False))
    yield
    ray.shutdown()


@pytest.mark.ray
@pytest.mark.slow
def test_a_user_of_ray_finds_metrics_checkpoint_and_name(joined: None, tmp_path: Path) -> None:
    """Two workers, and an actor that evaluates; the second attempt finds a damaged snapshot of Ray's and ignores it."""
    tiny = ("train.batch_size=16", "train.images=320", "log.every=160", "eval.every=160", "eval.num_samples=100")
    beside = ("eval.mode=async", "eval.busy=queue")
    quiet = ("wandb.mode=disabled", "train.device=cpu", "cluster.num_workers=2")
    names = (f"run.dir={tmp_path}", "run.name=shown", "checkpoint.every=160", "cluster.timeout=60")
    trainer = Trainer(None, [*RING, *tiny, *quiet, *names, *beside], launcher="ray")
    first = trainer.fit()
    found = first.ray_result
    assert isinstance(found, ray.train.Result)
    assert found.metrics is not None
    assert found.checkpoint is not None
    row = first.metrics[-1]
    assert found.metrics["images"] == row["images"] == 320
    assert found.metrics["loss_d"] == row["loss_d"]
    assert found.metrics["frechet"] == row["frechet"]
    assert "frechet" in first.metrics[0], "a late score stands at its own images"
    assert Path(found.path).name == "shown"
    assert found.checkpoint.get_metadata()["path"] == str(first.last_checkpoint)
    for path in [path for path in (Path(str(first.folder)) / ".ray").rglob("*") if path.is_file()]:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    second = Trainer(trainer.config, ["train.images=480"], launcher="ray").fit()
    assert (second.images, second.resumed_at) == (480, 320)
    found = second.ray_result
    assert found is not None
    assert [metrics["images"] for _, metrics in found.best_checkpoints or []] == [480]


def test_late_scores_are_reported_with_the_images_that_they_belong_to() -> None:
    channel = FakeChannel()
    with reporting.reporting("a", is_rank_zero=True, channel=channel) as (tracker,):
        tracker.log(64, {"loss": 1.0})
        tracker.late({32: {"frechet": 5.0}, 64: {"frechet": 4.0, "kid": math.nan}}, at=128)
        saved(tracker, 128, loss=2.0)
    assert [report.metrics for report in channel.sent] == [
        {"images": 128, "loss": 2.0, "frechet": 4.0, "evaluation_images": 64.0}
    ]


def test_a_checkpoint_whose_scores_came_late_is_reported_with_them() -> None:
    channel = FakeChannel()
    with reporting.reporting("a", is_rank_zero=True, channel=channel) as (tracker,):
        tracker.log(64, {"loss": 1.0})
        tracker.late({64: {"frechet": 4.0}}, at=128)
        tracker.saved(64, Path("/runs/a/checkpoints/64"), best=True)
    (report,) = channel.sent
    assert report.metrics == {"images": 64, "loss": 1.0, "frechet": 4.0, "evaluation_images": 64.0}
    assert report.reference["best"]


def test_scores_of_a_row_replace_late_ones() -> None:
    channel = FakeChannel()
    with reporting.reporting("a", is_rank_zero=True, channel=channel) as (tracker,):
        tracker.late({64: {"frechet": 4.0}}, at=128)
        saved(tracker, 128, frechet=3.0)
    assert [report.metrics for report in channel.sent] == [{"images": 128, "frechet": 3.0}]
