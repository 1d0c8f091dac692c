"""Weights & Biases: what arrives there, one run over all lives, and training that it cannot stop."""

import json
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ganscale.config import load
from ganscale.runfolder import RunFolder, locate
from ganscale.tracking import wandb as module
from ganscale.tracking.wandb import WandbTracker, has_key, run_id
from tests.wandb_files import records

KEY = "0123456789abcdef" * 2 + "01234567"
PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def _nobodys_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def tracker(path: Path, *overrides: str) -> tuple[WandbTracker, RunFolder, list[str]]:
    config = load(overrides=[f"run.dir={path}", "run.name=try1", *overrides])
    folder = locate(config)
    folder.path.mkdir(exist_ok=True)
    said: list[str] = []
    return WandbTracker(config, folder, said.append), folder, said


def history(log: Path) -> list[dict[str, Any]]:
    """Rows of a W&B log: plain keys, or dotted ones for what is nested."""
    rows = []
    for record in records(log):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_a_run_and_its_second_life_arrive_in_one_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    first, folder, said = tracker(tmp_path, "wandb.mode=offline", "wandb.tags=[one, two]", "wandb.group=g")
    first.samples(0, PICTURE)
    first.log(10, {"loss_d": 0.5, "loss_g": float("nan")})
    first.samples(10, PICTURE)
    first.log(20, {"loss_d": 0.25})
    first.close(completed=False)
    second, _, _ = tracker(tmp_path, "wandb.mode=offline")
    second.log(30, {"loss_d": 0.125})
    second.close(completed=True)
    logs = sorted(folder.path.glob("wandb/offline-run-*/*.wandb"))
    assert len(logs) == 2

    rows = history(logs[0]) + history(logs[1])
    assert [(row["images"], row["_step"], row.get("loss_d")) for row in rows] == [
        (0, 0, None),
        (10, 10, 0.5),
        (20, 20, 0.25),
        (30, 30, 0.125),
    ]
    pictures = {row["images"]: row["samples.path"] for row in rows if "samples.path" in row}
    assert pictures.keys() == {0, 10}
    assert all((logs[0].parent / "files" / path).is_file() for path in pictures.values())

    (life, again) = (next(record.run for record in records(log) if record.HasField("run")) for log in logs)
    assert life.run_id == again.run_id == run_id(folder)
    assert (life.display_name, life.project, life.run_group) == ("try1", "ganscale", "g")
    assert list(life.tags) == ["one", "two"]
    config = {update.key: json.loads(update.value_json) for update in life.config.update}
    assert config["optim"]["lr_g"] == 2e-4

    metrics = [record.metric for record in records(logs[0]) if record.HasField("metric")]
    assert [(m.name or m.glob_name, m.step_metric) for m in metrics] == [("images", ""), ("*", "images")]
    codes = [[record.exit.exit_code for record in records(log) if record.HasField("exit")] for log in logs]
    assert codes == [[1], [0]]

    assert len(said) == 1
    assert said[0].startswith(f"W&B run {life.run_id}: offline; upload with: wandb sync {logs[0].parent}")
    for path in folder.path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


class FakeRun:
    """A W&B run that fails where it is told to."""

    id, url, dir = "fake", "https://example.invalid/fake", "/tmp/fake/files"

    def __init__(self, fails: str) -> None:
        self.fails, self.rows, self.finished = fails, [], threading.Event()

    def define_metric(self, *_: Any, **__: Any) -> None:
        self._do("define_metric")

    def log(self, row: dict[str, Any], step: int) -> None:
        self._do("log")
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.finished.set()
        self._do("finish")

    def _do(self, name: str) -> None:
        if self.fails == name:
            raise RuntimeError(f"no {name} today\nsee the log")


@pytest.fixture
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """In place of wandb; the parameter names what fails."""
    fails = getattr(request, "param", "")
    run = FakeRun(fails)
    wandb: Any = types.ModuleType("wandb")
    wandb.asked = {}

    def init(**options: Any) -> FakeRun:
        run._do("init")
        wandb.asked.update(options)
        return run

    def image(_: np.ndarray) -> str:
        run._do("Image")
        return "picture"

    wandb.Settings, wandb.init, wandb.Image = dict, init, image
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return run


@pytest.mark.parametrize("fake", ["init", "define_metric", "log", "Image", "finish"], indirect=True)
def test_no_failure_of_wandb_stops_anything(fake: FakeRun, tmp_path: Path) -> None:
    wandb, _, said = tracker(tmp_path, "wandb.mode=online")
    for images in (10, 20):
        wandb.log(images, {"loss_d": 0.5})
        wandb.samples(images, PICTURE)
    wandb.close(completed=True)
    failures = [line for line in said if "W&B failed and is off from here on (RuntimeError: no" in line]
    assert len(failures) == 1, "said once"
    assert fake.finished.is_set() == (fake.fails != "init"), "what was taken is still sent"


def test_a_wandb_that_cannot_be_imported_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    wandb, _, said = tracker(tmp_path)
    wandb.log(10, {"loss_d": 0.5})
    wandb.close(completed=True)
    assert len(said) == 1
    assert "training goes on" in said[0]


def test_an_upload_that_hangs_is_left_behind(fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FINISH_TIMEOUT", 0.1)
    hanging = threading.Event()
    monkeypatch.setattr(fake, "finish", lambda exit_code: hanging.wait(30))
    wandb, _, said = tracker(tmp_path)
    wandb.close(completed=True)
    hanging.set()
    assert said[-1] == "W&B has not taken everything yet; send the rest with: wandb sync /tmp/fake"


@pytest.mark.usefixtures("fake")
def test_disabled_asks_nothing_of_wandb(tmp_path: Path) -> None:
    wandb, folder, said = tracker(tmp_path, "wandb.mode=disabled")
    wandb.log(10, {})
    wandb.samples(10, PICTURE)
    wandb.close(completed=True)
    assert sys.modules["wandb"].asked == {}
    assert said == []
    assert list(folder.path.iterdir()) == []


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("mode", "key", "asked"),
    [
        ("auto", "", "offline"),
        ("auto", KEY, "online"),
        ("offline", KEY, "offline"),
        ("online", "", "online"),
        ("online", KEY, "online"),
    ],
)
def test_auto_is_online_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, key: str, asked: str
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    tracker(tmp_path, f"wandb.mode={mode}")[0].close(completed=True)
    options = sys.modules["wandb"].asked
    assert options["settings"]["mode"] == asked
    assert KEY not in str(options)


def test_a_key_is_found_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", "")
    assert not has_key()
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert has_key()


@pytest.mark.parametrize(
    ("content", "server", "found"),
    [
        (f"machine api.wandb.ai login user password {KEY}\n", None, True),
        (f"machine wandb.example.com login user password {KEY}\n", None, False),
        (f"machine wandb.example.com login user password {KEY}\n", "https://wandb.example.com:8080/x", True),
        ("machine api.wandb.ai login user password", None, False),
        ("not a netrc", None, False),
        (b"\xff\xfe\x00", None, False),
        ("", None, False),
    ],
)
def test_a_key_is_found_in_netrc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes, server: str | None, found: bool
) -> None:
    if server:
        monkeypatch.setenv("WANDB_BASE_URL", server)
    (tmp_path / "netrc").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert has_key() == found
    (tmp_path / "netrc").rename(tmp_path / ".netrc")
    monkeypatch.delenv("NETRC")
    assert has_key() == found
    monkeypatch.setenv("NETRC", "~/.netrc")
    assert has_key() == found


def test_the_id_is_drawn_once(tmp_path: Path) -> None:
    one, two = RunFolder(tmp_path / "try1"), RunFolder(tmp_path / ("x" * 100))
    for folder in (one, two):
        folder.path.mkdir()
    assert run_id(one) == run_id(one)
    assert run_id(one).startswith("try1-")
    assert len(run_id(two)) <= 128, "W&B takes no longer one"
