"""The time line and the goodput of a run, from files as training writes them."""

import json
from pathlib import Path

import pytest

from ganscale.storage.failures import Failure, append_failure
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import JsonlTracker, read_attempts
from ganscale.tracking.timeline import goodput, seconds, timeline


def rows(*images: int, speed: float = 10.0) -> list[dict[str, float]]:
    return [{"images": each, "images_per_second": speed} for each in images]


def lines(found: list[dict[str, float]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in found)


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    """A run of 400 images at 10 images/s: a fault, a change of workers, a warning and two rollbacks over one range."""
    folder = RunDir(tmp_path)
    folder.metrics.write_text(lines(rows(100, 200, 300, 400)))
    append_failure(folder.failures, Failure(50.0, "killed", 2, 150, 100, 12.0))
    tracker = JsonlTracker(folder, images=1000)
    tracker.attempt(0, workers=2)
    tracker.attempt(100, workers=2)
    tracker.attempt(250, workers=3)
    tracker.event(200, "collapse", "one mode")
    tracker.event(300, "divergence, rollback", "logits are beyond 1e+05")
    folder.rollbacks.write_text(json.dumps([{"at": 300, "to": 100}, {"at": 300, "to": 200, "reason": "drift"}]))
    folder.abandoned.write_text(lines([*rows(200, 300), *rows(300, speed=5.0)]))
    tracker.close(completed=True)
    return folder


def test_what_happened_stands_in_its_order(folder: RunDir) -> None:
    found = [(each.images, each.kind, each.resumed, each.seconds_lost, each.workers) for each in timeline(folder)]
    assert found == [
        (150, "fault", 100, 12.0, 2),
        (200, "verdict", None, None, None),
        (250, "resize", 250, None, 3),
        (300, "rollback", 100, 20.0, None),
        (300, "rollback", 200, 20.0, None),
    ]
    texts = [each.text for each in timeline(folder)]
    assert texts == ["killed", "collapse: one mode", "2 to 3 workers", "divergence: logits are beyond 1e+05", "drift"]


def test_goodput_is_the_share_of_the_time_whose_work_was_kept(folder: RunDir) -> None:
    spent = goodput(folder)
    assert (spent.kept, spent.lost) == (40.0, 12.0 + 20.0 + 20.0)
    assert spent.share == pytest.approx(40.0 / 92.0)


def test_an_undisturbed_run_lost_nothing_and_an_empty_one_has_no_share(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    assert goodput(folder).share is None
    folder.metrics.write_text(lines(rows(100)))
    assert (timeline(folder), goodput(folder).share) == ([], 1.0)


def test_damaged_records_are_left_out(folder: RunDir) -> None:
    folder.rollbacks.write_text('[1, {"at": 300}]')
    folder.events.write_text('{"kind": "collapse"}\n{"images": 5, "kind": "collapse, rollback"}\n')
    folder.attempts.write_text('{"images": 5}\nno\n')
    assert read_attempts(folder) == []
    assert [(each.images, each.kind) for each in timeline(folder)] == [(5, "verdict"), (150, "fault")]


def test_seconds_are_images_by_speed() -> None:
    found = [*rows(100, 200), {"images": 300}, {"images": 400, "images_per_second": None}, *rows(500, speed=20.0)]
    assert seconds(found) == 10.0 + 10.0 + 5.0
    assert seconds(rows(100), start=60) == 4.0


def lost(folder: RunDir) -> list[tuple[int, int | None, float | None]]:
    return [(each.images, each.resumed, each.seconds_lost) for each in timeline(folder)]


def rolled_back(folder: RunDir, *pairs: tuple[int, int], speed: float = 100.0) -> None:
    """A run with a row per 1,000 images whose metrics are rewound from `at` to `to`, by pairs."""
    tracker = JsonlTracker(folder)
    images = 0
    for at, to in pairs:
        for reached in range(images + 1000, at + 1, 1000):
            tracker.log(reached, {"images_per_second": speed})
        tracker.late({at - 1000: {"frechet": 3.0}}, at=at)
        tracker.rewind(to, at=at)
        images = to
    tracker.close(completed=True)


FORWARD = ((8_000, 4_000), (90_000, 80_000), (90_000, 80_000))


def test_each_rollback_has_the_seconds_of_its_own_rows(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    rolled_back(folder, *FORWARD)
    folder.rollbacks.write_text(json.dumps([{"at": at, "to": to} for at, to in FORWARD]))
    assert lost(folder) == [(8_000, 4_000, 40.0), (90_000, 80_000, 100.0), (90_000, 80_000, 100.0)]


def test_a_rollback_without_rows_takes_none_of_another(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    rolled_back(folder, *FORWARD[:2])
    pairs = (FORWARD[0], (50_000, 3_000), FORWARD[1])
    folder.rollbacks.write_text(json.dumps([{"at": at, "to": to} for at, to in pairs]))
    assert lost(folder) == [(8_000, 4_000, 40.0), (50_000, 3_000, 0.0), (90_000, 80_000, 100.0)]


def test_rows_without_their_rollback_belong_to_the_first_whose_range_they_are_in(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    late = {"images": 890_500, "evaluation_arrived": 900_000}
    found = [*rows(6_000, 8_000, speed=100.0), late, *rows(895_000, 900_000, speed=100.0)]
    folder.abandoned.write_text(lines(found))
    folder.rollbacks.write_text(json.dumps([{"at": 8_000, "to": 4_000}, {"at": 900_000, "to": 890_000}]))
    assert lost(folder) == [(8_000, 4_000, 40.0), (900_000, 890_000, 100.0)]


def test_a_rollback_for_drift_is_one_although_only_its_rows_tell(tmp_path: Path) -> None:
    folder = RunDir(tmp_path)
    rolled_back(folder, *FORWARD)
    tracker = JsonlTracker(folder)
    tracker.event(8_000, "drift, rollback", "worker 1 differs")
    tracker.close(completed=True)
    kinds = [(each.images, each.kind, each.seconds_lost) for each in timeline(folder)]
    assert kinds == [(8_000, "rollback", 40.0), (90_000, "rollback", 100.0), (90_000, "rollback", 100.0)]
