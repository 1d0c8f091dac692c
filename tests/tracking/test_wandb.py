"""Weights & Biases: what arrives there, one run over all lives, and training that it cannot stop."""

import json
import math
import sys
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganscale.config import load
from ganscale.config.evaluation import METRICS
from ganscale.storage.run_dir import RunDir, locate
from ganscale.tracking import Histogram
from ganscale.tracking import wandb as module
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.tracking.wandb import WandbTracker, run_id, trimmed
from ganscale.tracking.wandb_account import has_key
from ganscale.tracking.wandb_log import last_step
from tests.wandb_files import records
from tests.wandb_server import KEY

PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def _nobodys_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def tracker(path: Path, *overrides: str) -> tuple[WandbTracker, RunDir, list[str]]:
    config = load(overrides=[f"run.dir={path}", "run.name=try1", *overrides])
    folder = locate(config)
    folder.path.mkdir(exist_ok=True)
    said: list[str] = []
    facts = {"git": {"commit": "abc", "dirty": True}}
    return WandbTracker(config, folder, said.append, environment=facts), folder, said


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
    first.details(20, {"real": PICTURE}, {"real_logits": Histogram([0, 0, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5, 6])})
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
    reals = {row["images"]: row["real.path"] for row in rows if "real.path" in row}
    assert reals.keys() == {20}
    for path in (*pictures.values(), *reals.values()):
        np.testing.assert_array_equal(np.asarray(Image.open(logs[0].parent / "files" / path)), PICTURE)
    (histogram,) = [row for row in rows if "real_logits.bins" in row]
    assert (histogram["real_logits.values"], histogram["real_logits.bins"]) == ([2, 0, 1], [2, 3, 4, 5])

    (life, again) = (next(record.run for record in records(log) if record.HasField("run")) for log in logs)
    assert life.run_id == again.run_id == run_id(folder)
    assert (life.display_name, life.project, life.run_worker_group) == ("try1", "ganscale", "g")
    assert list(life.tags) == ["one", "two"]
    config = {update.key: json.loads(update.value_json) for update in life.config.update}
    assert config["optim"]["lr_g"] == 2e-4
    assert config["environment"] == {"git": {"commit": "abc", "dirty": True}}

    metrics = [record.metric for record in records(logs[0]) if record.HasField("metric")]
    assert [(m.name or m.glob_name, m.step_metric) for m in metrics[:2]] == [("images", ""), ("*", "images")]
    summaries = {m.name: (m.summary.min, m.summary.max, m.summary.last) for m in metrics[2:]}
    assert summaries.keys() == METRICS.keys()
    assert summaries["frechet"] == (True, False, True)
    assert summaries["precision"] == (False, True, True)
    assert {m.step_metric for m in metrics[2:]} == {"images"}
    codes = [[record.exit.exit_code for record in records(log) if record.HasField("exit")] for log in logs]
    assert codes == [[1], [0]]

    assert len(said) == 1
    assert said[0].startswith(f"W&B run {life.run_id}: offline; upload with: wandb sync {logs[0].parent}")
    for path in folder.path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_events_become_alerts_and_notes_once(tmp_path: Path) -> None:
    first, folder, _ = tracker(tmp_path, "wandb.mode=offline")
    first.event(20, "divergence", "logits are beyond 1e+05")
    first.close(completed=False)
    JsonlTracker(folder).event(20, "divergence", "logits are beyond 1e+05")
    second, _, _ = tracker(tmp_path, "wandb.mode=offline")
    for _ in range(2):
        second.event(30, "collapse", "one mode")
    second.close(completed=True)
    logs = sorted(folder.path.glob("wandb/offline-run-*/*.wandb"))
    alerts = [[record.alert for record in records(log) if record.HasField("alert")] for log in logs]
    assert [[(a.title, a.level, a.text) for a in found] for found in alerts] == [
        [("divergence in try1", "WARN", "at 20 images: divergence: logits are beyond 1e+05")],
        [("collapse in try1", "WARN", "at 30 images: collapse: one mode")],
    ]
    notes = [record.run.notes for record in records(logs[1]) if record.HasField("run")][-1]
    assert notes.splitlines() == [
        "at 20 images: divergence: logits are beyond 1e+05",
        "at 30 images: collapse: one mode",
    ]


class FakeRun:
    """A W&B run that fails where it is told to."""

    starting_step, notes = 0, None
    id, url, dir = "fake", "https://example.invalid/fake", "/tmp/fake/files"

    def __init__(self, fails: str) -> None:
        self.fails, self.rows, self.finished = fails, [], threading.Event()
        self.artifacts: list[tuple[Any, list[str]]] = []

    def define_metric(self, *_: Any, **__: Any) -> None:
        self._do("define_metric")

    def log(self, row: dict[str, Any], step: int, commit: bool = False) -> None:
        self._do("log")
        self.rows.append({**row, "step": step, "commit": commit})

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        self._do("log_artifact")
        self.artifacts.append((artifact, aliases))

    def alert(self, **_: Any) -> None:
        self._do("alert")

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

    class Artifact:
        def __init__(self, name: str, **facts: Any) -> None:
            self.name, self.facts, self.files = name, facts, []

        def add_file(self, path: str) -> None:
            self.files.append(Path(path).name)

    wandb.Settings, wandb.init, wandb.Image, wandb.Artifact = dict, init, image, Artifact
    wandb.teardown = lambda: None
    monkeypatch.setattr(module, "unreachable", lambda patience: "")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return run


@pytest.mark.parametrize("fake", ["init", "define_metric", "log", "Image", "alert", "finish"], indirect=True)
def test_no_failure_of_wandb_stops_anything(fake: FakeRun, tmp_path: Path) -> None:
    wandb, _, said = tracker(tmp_path, "wandb.mode=online")
    for images in (10, 20):
        wandb.log(images, {"loss_d": 0.5})
        wandb.samples(images, PICTURE)
        wandb.event(images, "collapse", "one mode")
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


@pytest.mark.parametrize("keeps_its_word", [True, False])
def test_an_upload_that_hangs_is_left_behind(
    fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keeps_its_word: bool
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)
    hanging = threading.Event()

    def finish(exit_code: int) -> None:
        if keeps_its_word:
            raise TimeoutError
        hanging.wait(30)

    monkeypatch.setattr(fake, "finish", finish)
    wandb, _, said = tracker(tmp_path, "wandb.mode=online", "wandb.timeout=0.1")
    assert sys.modules["wandb"].asked["settings"]["finish_timeout"] == 0.1
    wandb.close(completed=True)
    hanging.set()
    assert said[-1] == "W&B has not taken everything yet; the same command again sends the rest"


@pytest.mark.parametrize("silent", [True, False])
def test_a_server_that_does_not_answer_makes_the_run_an_offline_one(
    fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    modes: list[str] = []

    def init(**options: Any) -> FakeRun:
        modes.append(options["settings"]["mode"])
        if modes == ["online"]:
            raise RuntimeError("no answer in 60 s")
        return fake

    monkeypatch.setattr(sys.modules["wandb"], "init", init)
    monkeypatch.setattr(module, "unreachable", lambda patience: "connection refused" if silent else "")
    wandb, _, said = tracker(tmp_path, "wandb.mode=online")
    wandb.log(10, {"loss_d": 0.5})
    assert modes == ["offline"] if silent else ["online", "offline"]
    reason = "connection refused" if silent else "RuntimeError: no answer in 60 s"
    assert said[0] == f"W&B cannot be reached ({reason}); this life of the run is kept in its folder"
    assert said[1].endswith("offline; upload with: wandb sync /tmp/fake")
    assert [row["images"] for row in fake.rows] == [10]


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
    one, two = RunDir(tmp_path / "try1"), RunDir(tmp_path / ("x" * 100))
    for folder in (one, two):
        folder.path.mkdir()
    assert run_id(one) == run_id(one)
    assert run_id(one).startswith("try1-")
    assert len(run_id(two)) <= 128, "W&B takes no longer one"


def test_what_an_earlier_life_logged_is_not_logged_again(tmp_path: Path) -> None:
    first, folder, _ = tracker(tmp_path, "wandb.mode=offline")
    for images in (10, 20, 30):
        first.log(images, {"loss_d": 0.5})
    first.close(completed=False)
    (log,) = folder.path.glob("wandb/offline-run-*/*.wandb")
    assert len(history(log)) == 3
    whole = log.read_bytes()
    second, _, _ = tracker(tmp_path, "wandb.mode=offline")
    for images in (20, 30, 40):
        second.log(images, {"loss_d": 0.25})
        second.details(images, {"real": PICTURE}, {})
    second.close(completed=True)
    (new,) = set(folder.path.glob("wandb/offline-run-*/*.wandb")) - {log}
    assert [row["_step"] for row in history(new)] == [40]
    assert last_step(folder) == 40
    new.unlink()
    log.write_bytes(whole[: len(whole) // 2])
    assert last_step(folder) < 30


def test_what_a_kill_lost_is_taken_from_the_run_folder(fake: FakeRun, tmp_path: Path) -> None:
    fake.starting_step = 11
    _, folder, _ = tracker(tmp_path, "wandb.mode=disabled")
    local = JsonlTracker(folder)
    for images in (10, 20, 30):
        local.log(images, {"loss_d": math.nan if images == 30 else float(images)})
        local.samples(images, PICTURE)
    local.close(completed=False)
    wandb, _, _ = tracker(tmp_path, "wandb.mode=online")
    wandb.log(40, {"loss_d": 40.0})
    assert [row["step"] for row in fake.rows] == [20, 30, 40]
    assert [row.get("samples") for row in fake.rows] == ["picture", "picture", None]
    assert [row["loss_d"] for row in fake.rows] == pytest.approx([20.0, math.nan, 40.0], nan_ok=True)


def test_rows_go_on_where_the_server_is_and_a_checkpoint_completes_its_own(fake: FakeRun, tmp_path: Path) -> None:
    fake.starting_step = 21
    wandb, _, _ = tracker(tmp_path, "wandb.mode=online")
    for images in (10, 20, 30):
        wandb.log(images, {})
        wandb.samples(images, PICTURE)
    wandb.saving(30)
    wandb.samples(30, PICTURE)
    assert [(row["step"], row["commit"]) for row in fake.rows] == [(30, False), (30, False), (30, True)]


@pytest.mark.parametrize(
    ("setting", "best_metric", "uploaded"),
    [
        ("none", "frechet", []),
        ("best", "frechet", [(10, "best"), (30, "best")]),
        ("best", "", [(40, "best")]),
        ("all", "frechet", [(10, "best"), (20, ""), (30, "best"), (40, "")]),
    ],
)
def test_checkpoints_are_uploaded_as_asked(
    fake: FakeRun, tmp_path: Path, setting: str, best_metric: str, uploaded: list[tuple[int, str]]
) -> None:
    settings = [f"wandb.artifacts={setting}", f"checkpoint.best_metric='{best_metric}'", "eval.every=12800"]
    wandb, _, said = tracker(tmp_path, *settings)
    for images in (10, 20, 30, 40):
        wandb.saved(images, checkpoint(tmp_path, images), best=bool(best_metric) and images in (10, 30))
    wandb.close(completed=True)
    found = [(a.facts["metadata"]["images"], "best" if "best" in aliases else "") for a, aliases in fake.artifacts]
    assert found == uploaded
    assert all(artifact.files == ["manifest.json", "state.pt"] for artifact, _ in fake.artifacts)
    assert all(artifact.name == "checkpoint-fake" and "latest" in aliases for artifact, aliases in fake.artifacts)
    assert not any("not uploaded" in line for line in said)


def test_a_large_checkpoint_is_left_where_it_is(fake: FakeRun, tmp_path: Path) -> None:
    wandb, _, said = tracker(tmp_path, "wandb.artifacts=all", "wandb.artifact_mib=1")
    wandb.saved(10, checkpoint(tmp_path, 10, size=2**20), best=False)
    wandb.saved(20, checkpoint(tmp_path, 20), best=False)
    assert [artifact.facts["metadata"]["images"] for artifact, _ in fake.artifacts] == [20]
    assert said[-1] == "the checkpoint at 10 images is not uploaded: 1 MiB is more than wandb.artifact_mib = 1"


def checkpoint(path: Path, images: int, size: int = 5) -> Path:
    folder = path / f"{images:012d}"
    folder.mkdir()
    (folder / "state.pt").write_bytes(b"x" * size)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_empty_bins_at_both_ends_are_cut_off() -> None:
    counts, edges = trimmed(Histogram([0, 3, 0, 1, 0], [0, 1, 2, 3, 4, 5]))
    assert (counts.tolist(), edges.tolist()) == ([3, 0, 1], [1, 2, 3, 4])
    counts, edges = trimmed(Histogram([0, 0], [0, 1, 2]))
    assert (counts.tolist(), edges.tolist()) == ([0], [0, 1])
