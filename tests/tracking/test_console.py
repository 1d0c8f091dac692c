"""What people see: progress lines, the time left, and the log followed from another process."""

import errno
import gc
import io
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ganscale.tracking import console as module
from ganscale.tracking.console import PACKAGE, Console, LogFollower, clock, progress, setup_logging

METRICS = {
    "images_per_second": 12345.6,
    "loss_d": 1.38629,
    "loss_g": 0.69315,
    "d_accuracy_real": 0.504,
    "d_accuracy_fake": 1.0,
}


@pytest.fixture
def screen() -> Iterator[None]:
    """Log lines are shown."""
    with setup_logging():
        yield


def test_a_tick_is_one_line() -> None:
    assert progress(12_800, 1_200_000, METRICS, 3725.4) == (
        "      12,800 / 1,200,000 images   1.1%     12,346 images/s  eta 1:02:05  "
        "loss D   1.386  G   0.693  D right on real  50%, fake 100%"
    )


def test_lines_of_a_run_align() -> None:
    lines = [progress(images, 10**9, METRICS, 100) for images in (0, 12_800, 1_200_000, 999_999_999)]
    assert len({len(line) for line in lines}) == 1
    strange = METRICS | {"loss_d": float("nan"), "loss_g": float("inf")}
    assert "loss D     nan  G     inf" in progress(1, 2, strange, float(1))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0:00"), (0.4, "0:00"), (59.6, "1:00"), (61, "1:01"), (3599.4, "59:59"), (3600, "1:00:00"), (-3, "0:00")],
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown


def test_long_runs_show_hours() -> None:
    assert clock(100 * 3600 + 62) == "100:01:02"


def test_the_time_left_follows_from_this_attempts_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    console = Console(tmp_path / "train.log", echo=False)
    console.starts(1000, 4000)  # resumed at 1000
    now[0] += 20
    console.log(2000, METRICS)
    assert "eta 0:40 " in (tmp_path / "train.log").read_text()
    now[0] += 20
    console.log(4000, METRICS)
    assert "eta 0:00 " in (tmp_path / "train.log").read_text().splitlines()[-1]


@pytest.mark.parametrize("echo", [True, False])
def test_lines_go_to_the_file_and_if_wanted_to_the_screen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], echo: bool
) -> None:
    gc.collect()  # consoles that tests of failing runs left behind
    path = tmp_path / "train.log"
    path.write_text("before\n")
    console = Console(path, echo=echo)
    console.info("größer\nthan\r\none line\n")
    logging.getLogger("ganscale.storage").warning("from %s", "elsewhere")
    logging.getLogger("ganscale.storage").debug("nothing")
    console.samples(0, np.zeros((1, 1, 3), np.uint8))
    console.close(completed=True)
    console.info("after the end")
    before, *lines = path.read_text(encoding="utf-8").splitlines()
    assert before == "before"
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    assert [line[20:] for line in lines] == ["größer than one line", "warning: from elsewhere"]
    assert capsys.readouterr().out.splitlines() == ([line[20:] for line in lines] if echo else [])
    assert (PACKAGE.handlers, PACKAGE.level) == ([], logging.NOTSET)


def test_the_level_returns_with_the_last_console_whichever_that_is(tmp_path: Path) -> None:
    first, second = Console(tmp_path / "a.log", echo=False), Console(tmp_path / "b.log", echo=False)
    first.close(completed=True)
    second.info("still shown")
    second.close(completed=True)
    assert (tmp_path / "b.log").read_text().endswith(" still shown\n")
    assert (PACKAGE.handlers, PACKAGE.level) == ([], logging.NOTSET)


def test_a_link_is_no_log_file(tmp_path: Path) -> None:
    (tmp_path / "train.log").symlink_to(tmp_path / "other")
    with pytest.raises(OSError) as caught:
        Console(tmp_path / "train.log", echo=True)
    assert caught.value.errno == errno.ELOOP
    assert not (tmp_path / "other").exists()
    assert PACKAGE.handlers == []


def test_a_full_disk_and_a_late_line_do_not_stop_anything(screen: None, capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(Path("/dev/full"), echo=True)
    console.info("one")
    console.info("two")
    console.close(completed=True)
    console.info("three")
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_other_ranks_show_warnings_only(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    with setup_logging():
        PACKAGE.info("one")
        PACKAGE.warning("two")
    assert capsys.readouterr().out == "[rank 2] warning: two\n"


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_in_a_terminal_ticks_and_phases_are_one_live_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")
    console = Console(tmp_path / "train.log", echo=True)
    console.info("first")
    console.starts(0, 30)
    for images in (10, 20, 30):
        console.log(images, METRICS)
    console.phase("evaluating")
    console.info("[last]")
    console.close(completed=True)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    whole = [line.rpartition("\r")[2].strip() for line in text.split("\n") if line.strip()]
    assert [line for line in whole if line in ("first", "[last]")] == ["first", "[last]"]
    assert whole[-1].startswith("30 / 30 images")
    assert "evaluating ...  30 / 30 images" in text
    lines = [line[20:] for line in (tmp_path / "train.log").read_text().splitlines()]
    assert (lines[0], lines[-2:]) == ("first", ["evaluating ...", "[last]"])
    assert len(lines) == 6, "the file has every tick"


def test_a_follower_shows_new_whole_lines_once(
    screen: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.log"
    stamp = "2026-01-01 00:00:00 "
    path.write_text(f"{stamp}an earlier attempt\n")
    follower = LogFollower(path)
    with path.open("ab") as file:

        def append(content: str | bytes) -> tuple[int, str]:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            return follower.show(), capsys.readouterr().out

        assert append("") == (0, "")
        assert append(f"{stamp}one\n{stamp}two\n{stamp}th") == (2, "one\ntwo\n")
        assert append("") == (0, "")
        assert append("re") == (0, "")
        assert append(f"e\n{stamp}") == (1, "three\n")
        assert append(b"gr\xc3") == (0, "")
        assert append(b"\xb6\xc3\x9fe\n") == (1, "größe\n")
        assert append(stamp.encode() + b"\xff\n") == (1, "\ufffd\n")


def test_a_follower_waits_for_its_file_and_notices_a_new_one(
    screen: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "train.log"
    follower = LogFollower(path)
    assert follower.show() == 0
    path.write_text("2026-01-01 00:00:00 one\n2026-01-01 00:00:00 two\n")
    assert follower.show() == 2
    path.write_text("")
    assert follower.show() == 0
    path.write_text("2026-01-01 00:00:00 anew\n")
    assert follower.show() == 1
    assert capsys.readouterr().out == "one\ntwo\nanew\n"


def test_what_a_console_logs_a_follower_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "train.log"
    follower, console = LogFollower(path), Console(path, echo=False)
    console.info("hello\nyou")
    console.log(1, METRICS)
    console.close(completed=True)
    with setup_logging():
        assert follower.show() == 2
    assert capsys.readouterr().out.startswith("hello you\n           1 / 1 images 100.0%")


def test_an_event_is_logged(tmp_path: Path) -> None:
    Console(tmp_path / "train.log", echo=False).event(12_800, "collapse", "at most one mode")
    assert (tmp_path / "train.log").read_text().endswith(" collapse at 12,800 images: at most one mode\n")
