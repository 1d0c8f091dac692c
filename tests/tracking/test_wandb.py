"""The W&B tracker: what is logged, one W&B run over all attempts, and failures that do not stop training."""

import inspect
import io
import json
import math
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganscale.config import load
from ganscale.config.evaluation import METRICS
from ganscale.evaluation.evaluator import store_evaluation
from ganscale.storage.failures import Failure, append_failure
from ganscale.storage.run_dir import RunDir, locate
from ganscale.tracking import Histogram
from ganscale.tracking import wandb as module
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.tracking.tables import COLUMNS, table_path
from ganscale.tracking.wandb import WandbTracker, read_attempt, run_id, trimmed, upload
from ganscale.tracking.wandb_server import has_key
from tests.report.folders import evaluation
from tests.tracking.test_tables import table
from tests.wandb_files import read_history, read_records
from tests.wandb_server import KEY

PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


def tracker(path: Path, *overrides: str) -> tuple[WandbTracker, RunDir, list[str]]:
    config = load(overrides=[f"run.dir={path}", "run.name=try1", *overrides])
    folder = locate(config)
    folder.path.mkdir(exist_ok=True)
    messages: list[str] = []
    facts = {"git": {"commit": "abc", "dirty": True}}
    return WandbTracker(config, folder, messages.append, environment=facts), folder, messages


def test_two_attempts_are_logged_to_one_wandb_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    first, folder, messages = tracker(tmp_path, "wandb.mode=offline", "wandb.tags=[one, two]", "wandb.group=g")
    first.samples(0, PICTURE)
    first.log(10, {"loss_d": 0.5, "loss_g": float("nan")})
    first.samples(10, PICTURE)
    first.log(20, {"loss_d": 0.25})
    first.details(20, {"real": PICTURE}, {"real_logits": Histogram([0, 0, 2, 0, 1, 0], [0, 1, 2, 3, 4, 5, 6])})
    first.event(20, "divergence", "logits are beyond 1e+05")
    first.close(completed=False)
    JsonlTracker(folder).event(20, "divergence", "logits are beyond 1e+05")
    second, _, _ = tracker(tmp_path, "wandb.mode=offline")
    for images in (20, 30):
        second.log(images, {"loss_d": 0.125})
        second.event(30, "collapse", "one mode")
    second.close(completed=True)
    attempts = sorted(folder.path.glob("wandb/offline-run-*"))
    assert len(attempts) == 2

    # Rows, pictures and histograms, each step once.
    rows = [row for attempt in attempts for row in read_history(attempt)]
    assert [(row["images"], row["_step"], row.get("loss_d")) for row in rows] == [
        (0, 0, None),
        (10, 10, 0.5),
        (20, 20, 0.25),
        (30, 30, 0.125),
    ]
    for name, steps in {"samples": {0, 10}, "real": {20}}.items():
        paths = {row["images"]: row[f"{name}.path"] for row in rows if f"{name}.path" in row}
        assert paths.keys() == steps
        for path in paths.values():
            np.testing.assert_array_equal(np.asarray(Image.open(attempts[0] / "files" / path)), PICTURE)
    (histogram,) = [row for row in rows if "real_logits.bins" in row]
    assert (histogram["real_logits.values"], histogram["real_logits.bins"]) == ([2, 0, 1], [2, 3, 4, 5])

    # The run, its config, metrics and exit codes.
    opened, resumed = (read_records(attempt, "run")[0] for attempt in attempts)
    assert opened["run_id"] == resumed["run_id"] == run_id(folder)
    assert (opened["display_name"], opened["project"], opened["run_group"]) == ("try1", "ganscale", "g")
    assert opened["tags"] == ["one", "two"]
    assert opened["config"]["update"]["optim"]["lr_g"] == 2e-4
    assert opened["config"]["update"]["environment"] == {"git": {"commit": "abc", "dirty": True}}
    metrics = read_records(attempts[0], "metric")
    assert [(m.get("name") or m["glob_name"], m.get("step_metric")) for m in metrics[:2]] == [
        ("images", None),
        ("*", "images"),
    ]
    summaries = {m["name"]: m["summary"] for m in metrics[2:]}
    assert summaries.keys() == METRICS.keys()
    assert summaries["frechet"] == {"min": True, "last": True}
    assert summaries["precision"] == {"max": True, "last": True}
    codes = [read_records(attempt, "exit")[0].get("exit_code", 0) for attempt in attempts]
    assert codes == [1, 0]

    # Events are alerts and notes, each once.
    alerts = [[alert["title"] for alert in read_records(attempt, "alert")] for attempt in attempts]
    assert alerts == [["divergence in try1"], ["collapse in try1"]]
    notes = read_records(attempts[1], "run")[-1]["notes"].splitlines()
    assert [line.split(": ")[:2] for line in notes] == [
        ["at 20 images", "divergence"],
        ["at 30 images", "collapse"],
    ]

    assert len(messages) == 1
    assert f"wandb sync {attempts[0]}" in messages[0]
    for path in folder.path.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path


def test_wandb_0_31_has_the_experimental_settings_in_use() -> None:
    wandb = pytest.importorskip("wandb")
    retries = {f"x_{api}_retry_max" for api in ("graphql", "file_stream", "file_transfer")}
    assert retries <= set(wandb.Settings.model_fields), f"they are missing in wandb {wandb.__version__}"


def test_wandb_0_31_has_the_private_methods_in_use() -> None:
    run = pytest.importorskip("wandb").Run
    assert {"is_user_created", "use_after_commit"} <= inspect.signature(run._log_artifact).parameters.keys()
    assert list(inspect.signature(run._assert_can_log_artifact).parameters) == ["self", "artifact"]
    assert "self._assert_can_log_artifact(" in inspect.getsource(run._log_artifact)


class FakeRun:
    """A W&B run that fails in one method."""

    starting_step, notes = 0, None
    id, url = "fake", "https://example.invalid/fake"

    def __init__(self, fails: str) -> None:
        self.fails, self.rows, self.finished = fails, [], threading.Event()
        self.sync_dir = ""
        self.artifacts: list[tuple[Any, list[str]]] = []
        self.media: list[str] = []
        self.alerts: list[str] = []
        self.summary: dict[str, Any] = {}
        self.inputs: list[Any] = []

    def _log_artifact(self, artifact: Any, *, is_user_created: bool, use_after_commit: bool) -> None:
        assert is_user_created
        assert use_after_commit
        self.inputs.append(artifact)

    def define_metric(self, *_: Any, **__: Any) -> None:
        self._do("define_metric")

    def log(self, row: dict[str, Any], step: int, commit: bool = False) -> None:
        self._do("log")
        self.rows.append({**row, "step": step, "commit": commit})

    def log_artifact(self, artifact: Any, aliases: list[str]) -> None:
        self._do("log_artifact")
        self.artifacts.append((artifact, aliases))

    def alert(self, title: str, **_: Any) -> None:
        self._do("alert")
        self.alerts.append(title)

    def save(self, path: str, base_path: str, policy: str) -> None:
        self.media.append(str(Path(path).relative_to(base_path)))

    def finish(self, exit_code: int) -> None:
        self.finished.set()
        self._do("finish")

    def _do(self, name: str) -> None:
        if self.fails == name:
            raise RuntimeError(f"{name} fails\nsee the log")


@pytest.fixture
def fake(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """In place of wandb; the parameter names what fails."""
    run = FakeRun(getattr(request, "param", ""))
    wandb: Any = types.ModuleType("wandb")
    wandb.options, wandb.modes = {}, []

    def init(**options: Any) -> FakeRun:
        mode = options["settings"]["mode"]
        wandb.options = options
        wandb.modes.append(mode)
        run._do("init")
        prefix = "offline-" if mode == "offline" else ""
        directory = options["dir"] / "wandb" / f"{prefix}run-{len(wandb.modes):03d}"
        directory.mkdir(parents=True)
        run.sync_dir, run.rows = str(directory), []
        return run

    def image(_: Any) -> str:
        run._do("Image")
        return "picture"

    class Artifact:
        def __init__(self, name: str, **facts: Any) -> None:
            self.name, self.facts, self.files = name, facts, []

        def add_file(self, path: str) -> None:
            self.files.append(Path(path).name)

        @contextmanager
        def new_file(self, name: str, mode: str = "w") -> Iterator[io.StringIO]:
            self.text = io.StringIO()
            yield self.text
            self.files.append(name)

    wandb.Settings, wandb.init, wandb.Image, wandb.Artifact = dict, init, image, Artifact
    wandb.Table = lambda **given: given
    wandb.teardown = lambda: None
    monkeypatch.setattr(module, "unreachable", lambda timeout: "")
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    return run


@pytest.mark.parametrize("fake", ["init", "define_metric", "log", "Image", "alert", "finish"], indirect=True)
def test_no_failure_of_wandb_stops_training(fake: FakeRun, tmp_path: Path) -> None:
    wandb, _, messages = tracker(tmp_path, "wandb.mode=online")
    for images in (10, 20):
        wandb.log(images, {"loss_d": 0.5})
        wandb.samples(images, PICTURE)
        wandb.event(images, "collapse", "one mode")
    wandb.close(completed=True)
    assert len([line for line in messages if f"RuntimeError: {fake.fails} fails" in line and "continues" in line]) == 1
    assert fake.finished.is_set() == (fake.fails != "init"), "earlier rows are still uploaded"


def test_a_wandb_that_cannot_be_imported_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    wandb, _, messages = tracker(tmp_path)
    wandb.log(10, {"loss_d": 0.5})
    wandb.close(completed=True)
    assert len(messages) == 1


@pytest.mark.parametrize("raises", [True, False])
def test_an_upload_that_hangs_is_abandoned(
    fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raises: bool
) -> None:
    monkeypatch.setattr(module, "GRACE", 0.1)
    hanging = threading.Event()

    def finish(exit_code: int) -> None:
        if raises:
            raise TimeoutError
        hanging.wait(30)

    monkeypatch.setattr(fake, "finish", finish)
    wandb, folder, messages = tracker(tmp_path, "wandb.mode=online", "wandb.timeout=0.1")
    assert sys.modules["wandb"].options["settings"]["finish_timeout"] == 0.1
    wandb.close(completed=True)
    attempt = read_attempt(folder)
    hanging.set()
    assert len(messages) == 2
    assert attempt
    assert not attempt.finished


@pytest.mark.parametrize("answers", [True, False])
def test_a_server_that_is_away_at_the_start_makes_the_attempt_an_offline_one(
    fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    init, options = sys.modules["wandb"].init, {}

    def refuse(**given: Any) -> FakeRun:
        if given["settings"]["mode"] == "online":
            options.update(given)
            raise RuntimeError("no answer in 60 s")
        return init(**given)

    monkeypatch.setattr(sys.modules["wandb"], "init", refuse)
    monkeypatch.setattr(module, "unreachable", lambda timeout: "" if answers else "connection refused")
    wandb, _, messages = tracker(tmp_path, "wandb.mode=online")
    wandb.log(10, {"loss_d": 0.5})
    assert bool(options) == answers
    assert sys.modules["wandb"].modes == ["offline"]
    assert ("no answer in 60 s" if answers else "connection refused") in messages[0]
    assert f"wandb sync {fake.sync_dir}" in messages[1]
    assert [row["images"] for row in fake.rows] == [10]


@pytest.mark.usefixtures("fake")
def test_disabled_never_calls_wandb(tmp_path: Path) -> None:
    wandb, folder, messages = tracker(tmp_path, "wandb.mode=disabled")
    wandb.log(10, {})
    wandb.samples(10, PICTURE)
    wandb.close(completed=True)
    assert sys.modules["wandb"].modes == messages == list(folder.path.iterdir()) == []


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("mode", "key", "expected"),
    [
        ("auto", "", "offline"),
        ("auto", KEY, "online"),
        ("offline", KEY, "offline"),
        ("online", "", "online"),
        ("online", KEY, "online"),
    ],
)
def test_auto_is_online_with_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, key: str, expected: str
) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    tracker(tmp_path, f"wandb.mode={mode}")[0].close(completed=True)
    assert sys.modules["wandb"].modes == [expected]
    assert KEY not in str(sys.modules["wandb"].options)


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
    assert len(run_id(two)) <= 128, "the longest that W&B takes"


def test_rows_that_the_server_lacks_come_from_the_run_folder(fake: FakeRun, tmp_path: Path) -> None:
    _, folder, _ = tracker(tmp_path, "wandb.mode=disabled")
    local = JsonlTracker(folder)
    for images in (10, 20, 30):
        local.log(images, {"loss_d": math.nan if images == 30 else float(images)})
        local.samples(images, PICTURE)
        local.event(images, f"kind {images}", "text")
    local.close(completed=False)
    killed, _, _ = tracker(tmp_path, "wandb.mode=online")
    killed.log(40, {})
    picture = Path(fake.sync_dir) / "files/media/images/samples_10.png"
    picture.parent.mkdir(parents=True)
    picture.touch()
    fake.starting_step = 11
    fake.alerts = []
    resumed, _, _ = tracker(tmp_path, "wandb.mode=online")
    resumed.log(40, {"loss_d": 40.0})
    assert [row["step"] for row in fake.rows] == [20, 30, 40]
    assert [row.get("samples") for row in fake.rows] == ["picture", "picture", None]
    assert [row["loss_d"] for row in fake.rows] == pytest.approx([20.0, math.nan, 40.0], nan_ok=True)
    assert fake.alerts == [], "the notes have them"
    assert fake.media == ["media/images/samples_10.png"], "the killed attempt may not have uploaded it"


def offline_attempts(folder: RunDir) -> list[str]:
    return sorted(path.name for path in folder.path.glob("wandb/*offline-run-*"))


def test_an_offline_attempt_continues_a_finished_one_and_replaces_a_killed_one(fake: FakeRun, tmp_path: Path) -> None:
    local = None
    for start, finishes in ((0, True), (20, False), (30, True)):
        wandb, folder, _ = tracker(tmp_path, "wandb.mode=offline")
        local = local or JsonlTracker(folder)
        for images in (start + 10, start + 20):
            wandb.log(images, {"loss_d": 1.0})
            if images <= start + (20 if finishes else 10):  # the row after the newest checkpoint is cut off
                local.log(images, {"loss_d": 1.0})
        if finishes:
            wandb.close(completed=False)
    assert [row["step"] for row in fake.rows] == [30, 40, 50], "10 and 20 are in the first attempt"
    assert offline_attempts(folder) == ["offline-run-001", "offline-run-003", "replaced-offline-run-002"]


def test_no_row_of_a_synced_attempt_is_repeated(fake: FakeRun, tmp_path: Path) -> None:
    killed, folder, _ = tracker(tmp_path, "wandb.mode=offline")
    for images in (10, 20, 30):
        killed.log(images, {})
    (Path(fake.sync_dir) / "run-fake.wandb.synced").touch()
    resumed, _, _ = tracker(tmp_path, "wandb.mode=offline")
    for images in (20, 30, 40):
        resumed.log(images, {})
    assert [row["step"] for row in fake.rows] == [40]
    assert offline_attempts(folder) == ["offline-run-001", "offline-run-002"]


def test_an_online_attempt_replaces_offline_ones(fake: FakeRun, tmp_path: Path) -> None:
    offline, folder, _ = tracker(tmp_path, "wandb.mode=offline")
    offline.log(10, {})
    offline.close(completed=True)
    JsonlTracker(folder).log(10, {})
    config = load(overrides=[f"run.dir={tmp_path}", "run.name=try1", "wandb.mode=online"])
    for _ in range(2):
        upload(config, folder, lambda _: None)
    assert sys.modules["wandb"].modes == ["offline", "online"], "the second time there is nothing to upload"
    assert [row["step"] for row in fake.rows] == [10]
    assert offline_attempts(folder) == ["replaced-offline-run-001"]


def test_a_server_that_may_have_rows_gets_no_offline_copy(
    fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed, folder, _ = tracker(tmp_path, "wandb.mode=online")
    killed.log(10, {})
    monkeypatch.setattr(module, "unreachable", lambda timeout: "connection refused")
    away, _, messages = tracker(tmp_path, "wandb.mode=online")
    away.log(20, {})
    away.close(completed=True)
    assert sys.modules["wandb"].modes == ["online"]
    assert len(messages) == 1
    local = JsonlTracker(folder)
    for images in (10, 20):
        local.log(images, {})
    monkeypatch.setattr(module, "unreachable", lambda timeout: "")
    tracker(tmp_path, "wandb.mode=online")
    assert [row["step"] for row in fake.rows] == [10, 20]


def test_a_checkpoint_commits_its_row_and_a_roll_back_logs_no_step_twice(fake: FakeRun, tmp_path: Path) -> None:
    fake.starting_step = 21
    wandb, _, _ = tracker(tmp_path, "wandb.mode=online")
    for images in (10, 20, 30):
        wandb.log(images, {})
        wandb.samples(images, PICTURE)
    wandb.saving(30)
    for images in (30, 40, 50, 40, 60):
        wandb.log(images, {})
    committed = [(30, False), (30, False), (30, True), (40, False), (50, False), (60, False)]
    assert [(row["step"], row["commit"]) for row in fake.rows] == committed


@pytest.mark.parametrize(
    ("setting", "best_metric", "uploaded"),
    [
        ("none", "frechet", []),
        ("best", "frechet", [(10, "best"), (30, "best")]),
        ("best", "", [(40, "best")]),
        ("all", "frechet", [(10, "best"), (20, ""), (30, "best"), (40, "")]),
    ],
)
def test_checkpoints_are_uploaded_as_configured(
    fake: FakeRun, tmp_path: Path, setting: str, best_metric: str, uploaded: list[tuple[int, str]]
) -> None:
    settings = [f"wandb.artifacts={setting}", f"checkpoint.best_metric='{best_metric}'", "eval.every=12800"]
    wandb, _, messages = tracker(tmp_path, *settings)
    for images in (10, 20, 30, 40):
        wandb.saved(images, checkpoint(tmp_path, images), best=bool(best_metric) and images in (10, 30))
    wandb.close(completed=True)
    found = [(a.facts["metadata"]["images"], "best" if "best" in aliases else "") for a, aliases in fake.artifacts]
    assert found == uploaded
    assert all(artifact.files == ["manifest.json", "state.pt"] for artifact, _ in fake.artifacts)
    assert all(artifact.name == "checkpoint-fake" and "latest" in aliases for artifact, aliases in fake.artifacts)
    assert len(messages) == 1


def test_a_checkpoint_takes_its_samples_and_scores_along(fake: FakeRun, tmp_path: Path) -> None:
    _, folder, _ = tracker(tmp_path, "wandb.mode=disabled")
    folder.data.write_text('{"sha256": "abc", "num_images": 3, "earlier": [{"sha256": "old"}]}')
    local = JsonlTracker(folder)
    for images in (10, 20, 30):
        local.samples(images, PICTURE)
        store_evaluation(evaluation(images, 9.0), folder.evaluations)
    local.table(20, table())
    wandb, _, _ = tracker(tmp_path, "wandb.mode=online", "wandb.artifacts=all")
    (data,) = fake.inputs
    assert (data.name, data.facts["type"], data.files) == ("data-mnist", "dataset", ["data.json"])
    assert json.loads(data.text.getvalue()) == data.facts["metadata"] == {"sha256": "abc", "num_images": 3}
    wandb.saved(25, checkpoint(tmp_path, 25), best=False)
    assert [(a.name, a.facts["type"], aliases) for a, aliases in fake.artifacts] == [
        (f"{name}-fake", kind, ["latest", "images-25"])
        for name, kind in (("checkpoint", "model"), ("samples", "samples"), ("metrics", "metrics"))
    ]
    _, samples, metrics = [artifact for artifact, _ in fake.artifacts]
    assert samples.files == ["00000020.png", "00000020.npz"], "those of later images are not this checkpoint's"
    assert [name.partition("-")[0] for name in metrics.files] == [f"{10:012d}", f"{20:012d}"]
    assert samples.facts["metadata"] == {"images": 25, "checkpoint": "checkpoint-fake:images-25"}


def test_without_artifacts_the_data_are_no_input(fake: FakeRun, tmp_path: Path) -> None:
    _, folder, _ = tracker(tmp_path, "wandb.mode=disabled")
    folder.data.write_text('{"sha256": "abc"}')
    tracker(tmp_path, "wandb.mode=online")
    assert fake.inputs == []


def test_tables_are_logged_and_come_again_from_the_run_folder(fake: FakeRun, tmp_path: Path) -> None:
    wandb, folder, _ = tracker(tmp_path, "wandb.mode=online")
    local = JsonlTracker(folder)
    for images in (10, 20, 30):
        local.log(images, {})
        local.table(images, table())
    wandb.table(10, table())
    first = fake.rows[0]["sample_table"]
    assert first["columns"] == list(COLUMNS)
    assert first["data"] == [
        [10, 0, "cat", "picture", 1.5, 0.25, "picture", 5],
        [10, 1, 7, "picture", None, 0.5, "picture", 3],
    ]
    wandb.table(20, table(searched=False, classes=()))
    assert fake.rows[1]["sample_table"]["columns"] == ["images", "index", "sample", "logit"]
    table_path(folder.samples, 30).write_bytes(b"damaged")
    fake.starting_step = 11
    tracker(tmp_path, "wandb.mode=online")
    assert [(row["step"], "sample_table" in row) for row in fake.rows] == [(20, True), (30, False)]
    assert fake.rows[0]["sample_table"]["data"][1][0] == 20


def test_a_damaged_picture_is_left_out(fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, folder, _ = tracker(tmp_path, "wandb.mode=online")
    local = JsonlTracker(folder)
    for images in (10, 20):
        local.log(images, {"loss_d": 0.5})
        local.samples(images, PICTURE)
    (folder.samples / "00000010.png").write_bytes(b"damaged")
    fake.starting_step = 10
    monkeypatch.setattr(sys.modules["wandb"], "Image", lambda path: Image.open(path).size)
    _, _, messages = tracker(tmp_path, "wandb.mode=online")
    assert [(row["step"], row["loss_d"], row.get("samples")) for row in fake.rows] == [
        (10, 0.5, None),
        (20, 0.5, (8, 8)),
    ]
    assert not any("off" in line for line in messages)


def test_the_summary_has_the_time_line_and_the_goodput(fake: FakeRun, tmp_path: Path) -> None:
    wandb, folder, _ = tracker(tmp_path, "wandb.mode=online")
    assert fake.summary == {}, "nothing is known yet"
    local = JsonlTracker(folder)
    local.log(100, {"images_per_second": 10.0})
    wandb.close(completed=False)
    assert fake.summary == {"goodput": 1.0, "seconds_lost": 0.0}
    append_failure(folder.failures, Failure(50.0, "killed", 2, 150, 100, 10.0))
    resumed, _, _ = tracker(tmp_path, "wandb.mode=online")
    assert fake.summary["goodput"] == 0.5
    assert fake.summary["timeline"]["data"] == [[150, "fault", 100, 50.0, 10.0, 2, "killed"]]
    local.event(160, "collapse", "one mode")
    resumed.event(160, "collapse", "one mode")
    assert [row[:2] for row in fake.summary["timeline"]["data"]] == [[150, "fault"], [160, "verdict"]]


def test_the_time_line_is_logged_once_however_many_events_are_missing(
    fake: FakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, folder, _ = tracker(tmp_path, "wandb.mode=online")
    local = JsonlTracker(folder)
    for images in (10, 20, 30):
        local.event(images, "collapse", "one mode")
    read: list[RunDir] = []
    monkeypatch.setattr(module, "timeline", lambda folder: read.append(folder) or [])
    tracker(tmp_path, "wandb.mode=online")
    assert len(fake.alerts) == 3
    assert len(read) == 1


def test_each_of_several_events_at_once_raises_an_alert(fake: FakeRun, tmp_path: Path) -> None:
    wandb, folder, _ = tracker(tmp_path, "wandb.mode=online")
    local = JsonlTracker(folder)
    wandb.log(10, {})
    events = [(10, "collapse", "one mode"), (10, "divergence", "logits")]
    for event in events:
        local.event(*event)  # they are all in the run's folder before W&B is told of the first
    wandb.event(*events[0])
    assert "divergence" not in str(fake.notes), "it has no alert yet: the process may die now"
    for event in (*events, *events):
        wandb.event(*event)
    assert [alert.split()[0] for alert in fake.alerts] == ["collapse", "divergence"]


def test_a_large_checkpoint_is_not_uploaded(fake: FakeRun, tmp_path: Path) -> None:
    wandb, _, messages = tracker(tmp_path, "wandb.artifacts=all", "wandb.artifact_mib=1")
    wandb.saved(10, checkpoint(tmp_path, 10, size=2**20), best=False)
    wandb.saved(20, checkpoint(tmp_path, 20), best=False)
    assert [artifact.facts["metadata"]["images"] for artifact, _ in fake.artifacts] == [20]
    assert "wandb.artifact_mib = 1" in messages[-1]


def test_a_checkpoint_that_a_later_one_has_replaced_is_left_out(fake: FakeRun, tmp_path: Path) -> None:
    wandb, _, messages = tracker(tmp_path, "wandb.artifacts=all")
    said = len(messages)
    wandb.saved(10, tmp_path / f"{10:012d}", best=False)
    wandb.saved(20, checkpoint(tmp_path, 20), best=False)
    assert [artifact.facts["metadata"]["images"] for artifact, _ in fake.artifacts] == [20]
    assert len(messages) == said


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


def test_late_scores_have_their_own_images_and_a_step_of_their_own(fake: FakeRun, tmp_path: Path) -> None:
    wandb, folder, _ = tracker(tmp_path, "wandb.mode=online")
    local = JsonlTracker(folder)
    for images in (100, 200):
        for each in (wandb, local):
            each.log(images, {"loss_d": 1.0})
    for each in (wandb, local):
        each.late({100: {"frechet": 3.0}, 200: {"frechet": 2.0}}, at=300)
        each.log(300, {"loss_d": 0.5})
    local.close(completed=False)
    late = [(298, 100, 3.0), (299, 200, 2.0), (300, 300, None)]
    assert [(row["step"], row["images"], row.get("frechet")) for row in fake.rows[2:]] == late

    # Those that the server lacks are logged again: with their row where it lacks that, too, else by themselves.
    for starting_step, expected in (
        (0, [(100, 100, 3.0), (200, 200, 2.0), (300, 300, None)]),
        (101, [(200, 200, 2.0), (298, 100, 3.0), (300, 300, None)]),
        (201, late),
        (299, late[1:]),
        (300, late[2:]),
    ):
        fake.starting_step = starting_step
        tracker(tmp_path, "wandb.mode=online")
        assert [(row["step"], row["images"], row.get("frechet")) for row in fake.rows] == expected


def test_late_scores_take_no_step_from_rows_to_come(fake: FakeRun, tmp_path: Path) -> None:
    """A run that resumes before the tick at which they came logs them at once."""
    _, folder, _ = tracker(tmp_path, "wandb.mode=disabled")
    local = JsonlTracker(folder)
    local.log(100, {})
    local.log(200, {})
    local.late({100: {"frechet": 3.0}}, at=900)
    local.close(completed=False)
    fake.starting_step = 101
    resumed, _, _ = tracker(tmp_path, "wandb.mode=online")
    resumed.log(300, {})
    assert [(row["step"], row["images"]) for row in fake.rows] == [(200, 200), (201, 100), (300, 300)]


def test_late_scores_arrive_in_the_files_of_wandb(tmp_path: Path) -> None:
    wandb, folder, _ = tracker(tmp_path, "wandb.mode=offline")
    wandb.log(100, {"loss_d": 1.0})
    wandb.late({100: {"frechet": 3.0}}, at=200)
    wandb.log(200, {"loss_d": 0.5})
    wandb.close(completed=True)
    (directory,) = folder.path.glob("wandb/offline-run-*")
    found = [(row["_step"], row["images"], row.get("frechet"), row.get("loss_d")) for row in read_history(directory)]
    assert found == [(100, 100, None, 1.0), (199, 100, 3.0, None), (200, 200, None, 0.5)]
