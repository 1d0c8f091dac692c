"""The run folder as a tracker: rows and pictures, after crashes too."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganscale.storage.run_dir import RunDir
from ganscale.tracking import EventTracker, Histogram
from ganscale.tracking.jsonl import LATE, JsonlTracker, read_events, read_metrics, read_raw_metrics

PICTURE = np.zeros((4, 4, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> RunDir:
    folder = RunDir(tmp_path)
    folder.samples.mkdir()
    return folder


def write(folder: RunDir, *positions: int, start: int = 0) -> None:
    tracker = JsonlTracker(folder, images=start)
    for images in positions:
        tracker.log(images, {"loss_d": images / 10})
        tracker.samples(images, PICTURE)
    tracker.close(completed=True)


def positions(folder: RunDir) -> list[int]:
    return [row["images"] for row in read_metrics(folder)]


def test_a_roll_back_puts_later_rows_aside(folder: RunDir) -> None:
    tracker = JsonlTracker(folder)
    for images in (10, 20, 30):
        tracker.log(images, {"loss_d": 1.0})
        tracker.samples(images, PICTURE)
    tracker.rewind(10, at=30)
    tracker.log(15, {"loss_d": 2.0})
    tracker.rewind(10, at=15)
    tracker.log(20, {"loss_d": 3.0})
    tracker.close(completed=True)
    assert [(row["images"], row["loss_d"]) for row in read_metrics(folder)] == [(10, 1.0), (20, 3.0)]
    lost = [json.loads(line) for line in folder.abandoned.read_text(encoding="utf-8").splitlines()]
    assert [(row["images"], row["at"], row["to"]) for row in lost] == [(20, 30, 10), (30, 30, 10), (15, 15, 10)]
    assert [path.name for path in folder.samples.iterdir()] == ["00000010.png"]


def test_rows_read_back_in_order_and_are_there_at_once(folder: RunDir) -> None:
    tracker = JsonlTracker(folder)
    tracker.log(10, {"loss_d": 0.1, "loss_g": 1e-300})
    assert read_metrics(folder) == [{"images": 10, "loss_d": 0.1, "loss_g": 1e-300}]
    tracker.log(20, {"loss_d": 0.2})
    assert positions(folder) == [10, 20]
    assert folder.metrics.read_text().splitlines()[1] == '{"images": 20, "loss_d": 0.2}'
    tracker.close(completed=False)


def test_a_run_without_rows_has_none(folder: RunDir) -> None:
    assert read_metrics(folder) == []
    write(folder)
    assert read_metrics(folder) == []


def test_rows_and_pictures_after_the_resume_point_are_dropped(folder: RunDir) -> None:
    write(folder, 0, 10, 20, 30)
    (folder.samples / "notes.png").touch()
    write(folder, 30, 40, start=20)
    assert positions(folder) == [0, 10, 20, 30, 40]
    names = [f"{images:08d}.png" for images in (0, 10, 20, 30, 40)]
    assert sorted(path.name for path in folder.samples.iterdir()) == [*names, "notes.png"]
    JsonlTracker(folder, images=20).close(completed=False)
    assert positions(folder) == [0, 10, 20]
    assert sorted(path.name for path in folder.samples.iterdir()) == [*names[:3], "notes.png"]


def test_rows_up_to_a_later_checkpoint_stay_until_they_are_written_again(folder: RunDir) -> None:
    write(folder, 0, 10, 20, 30)
    tracker = JsonlTracker(folder, images=10, saved=20)
    assert positions(folder) == [0, 10, 20], "all workers may die now and resume at 20"
    tracker.log(20, {"loss_d": 7.0})
    assert positions(folder) == [0, 10, 20]
    assert read_metrics(folder)[-1]["loss_d"] == 7.0
    tracker.log(30, {})
    assert positions(folder) == [0, 10, 20, 30]
    tracker.close(completed=False)


@pytest.mark.parametrize(
    "tail", ['{"images": 30, "lo', '{"images"', "{", "\0\0\0", '{"images": 30', "null", '"x"', "{}"]
)
def test_a_last_row_that_a_crash_cut_is_left_out_and_written_anew(folder: RunDir, tail: str) -> None:
    write(folder, 10, 20)
    with folder.metrics.open("a") as file:
        file.write(tail)
    assert positions(folder) == [10, 20]
    write(folder, 30, start=20)
    assert positions(folder) == [10, 20, 30]
    for line in folder.metrics.read_text().splitlines():
        json.loads(line)


def test_bytes_that_are_no_text_do_not_hide_the_other_rows(folder: RunDir) -> None:
    write(folder, 10, 20)
    with folder.metrics.open("ab") as file:
        file.write(b"\xff\xfe\x80\n")
    assert positions(folder) == [10, 20]
    write(folder, 30, start=20)
    assert positions(folder) == [10, 20, 30]


def test_numbers_that_json_lacks_become_null(folder: RunDir) -> None:
    tracker = JsonlTracker(folder)
    tracker.log(10, {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5})
    tracker.close(completed=True)
    (line,) = folder.metrics.read_text().splitlines()

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is not JSON")

    assert json.loads(line, parse_constant=refuse) == {"images": 10, "a": None, "b": None, "c": None, "d": 1.5}


def test_real_examples_and_facts_have_files_of_their_own(folder: RunDir) -> None:
    tracker = JsonlTracker(folder)
    tracker.details(0, {"interpolation": PICTURE}, {"real_logits": Histogram([1], [0, 1])})
    assert not folder.real.exists()
    tracker.details(0, {"real": PICTURE + 7}, {})
    np.testing.assert_array_equal(np.asarray(Image.open(folder.real)), PICTURE + 7)
    tracker.environment({"git": None})
    assert json.loads(folder.environment.read_text()) == {"git": None}
    assert not list(folder.samples.iterdir())
    tracker.close(completed=True)


def test_an_event_is_kept_once_and_outlives_the_rows_of_a_lost_life(folder: RunDir) -> None:
    tracker = JsonlTracker(folder)
    assert isinstance(tracker, EventTracker)
    assert read_events(folder) == []
    tracker.event(30, "collapse", "one mode")
    tracker.event(40, "rollback", "to 10 images")
    tracker.close(completed=False)
    again = JsonlTracker(folder, images=10)
    again.event(30, "collapse", "one mode")
    again.event(30, "divergence", "one mode")
    again.close(completed=True)
    first, second = {"images": 30, "kind": "collapse", "text": "one mode"}, {"images": 40, "kind": "rollback"}
    assert read_events(folder) == [first, second | {"text": "to 10 images"}, first | {"kind": "divergence"}]


def test_an_event_after_a_damaged_line_stays_readable(folder: RunDir) -> None:
    folder.events.write_text('{"images": 10}\n{"images": 2')
    JsonlTracker(folder).event(30, "collapse", "one mode")
    assert [event["images"] for event in read_events(folder)] == [10, 30]


def test_late_scores_read_back_in_the_row_of_their_images(folder: RunDir) -> None:
    tracker = JsonlTracker(folder)
    for images in (10, 20):
        tracker.log(images, {"loss_d": images / 10})
    tracker.late({10: {"frechet": 3.0, "kid": math.inf}, 20: {"frechet": 2.0}}, at=30)
    tracker.log(30, {"loss_d": 3.0})
    tracker.close(completed=False)
    merged = [
        {"images": 10, "loss_d": 1.0, "frechet": 3.0, "kid": None},
        {"images": 20, "loss_d": 2.0, "frechet": 2.0},
        {"images": 30, "loss_d": 3.0},
    ]
    assert read_metrics(folder) == merged
    assert [(row["images"], row.get(LATE)) for row in read_raw_metrics(folder)] == [
        *((10, None), (20, None)),
        *((10, 30), (20, 30), (30, None)),
    ]
    resumed = JsonlTracker(folder, images=20)
    assert read_metrics(folder) == merged[:2], "scores stay with their images, whenever they came"
    resumed.late({10: {"frechet": 3.0}}, at=30)
    assert read_metrics(folder) == merged[:2]
    resumed.rewind(10, at=30)
    assert read_metrics(folder) == merged[:1]
    abandoned = [json.loads(line) for line in folder.abandoned.read_text().splitlines()]
    assert abandoned == [merged[1] | {"at": 30, "to": 10}], "late scores have no rows of their own there"
    resumed.close(completed=True)
