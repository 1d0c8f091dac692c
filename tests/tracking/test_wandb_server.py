"""Online runs against a W&B server that is killed, restarted, or never there: training continues, no row is lost."""

import io
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganscale.config import load
from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.processes import TRAIN, Command
from tests.runs import MLP, RING
from tests.wandb_server import KEY, Run, WandbServer

EVERY, SAMPLES_EVERY, UNTIL = 1_600, 16_000, 96_000
RUN = (
    *RING,
    *("train.batch_size=16", f"train.images={UNTIL}", "train.device=cpu", "run.dir=runs", "run.name=try1"),
    *(f"log.every={EVERY}", f"log.samples_every={SAMPLES_EVERY}", "checkpoint.every=16000"),
    *("wandb.mode=online", "wandb.timeout=5"),
)
QUICK = {
    "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",
    **{f"WANDB__{api}_RETRY_WAIT_MIN_SECONDS": "0.2" for api in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")},
    **{f"WANDB__{api}_RETRY_WAIT_MAX_SECONDS": "0.5" for api in ("GRAPHQL", "FILE_STREAM", "FILE_TRANSFER")},
}
"""W&B sends and retries more often than by default: a test has less time than a run."""


@pytest.fixture
def server() -> Iterator[WandbServer]:
    """A server that does not listen yet."""
    server = WandbServer()
    yield server
    server.kill()


def environment(server: WandbServer, folder: Path) -> dict[str, str | None]:
    unset = {name: None for name in os.environ if name.startswith("WANDB")}
    own = {"HOME": str(folder), "NETRC": str(folder / "netrc"), "OMP_NUM_THREADS": "1"}
    return {**unset, **server.environment, **QUICK, **own}


def train(server: WandbServer, folder: Path, *overrides: str, name: str = "train") -> Command:
    command = [*TRAIN, "--launcher", "local", *RUN, *overrides]
    return Command(command, folder / f"{name}.out", environment=environment(server, folder), cwd=folder)


def sync(server: WandbServer, folder: Path, text: str) -> str:
    """Run the command that the log has after a text, as a shell does."""
    words = shlex.split((folder / "runs/try1/train.log").read_text().partition(text)[2].partition("\n")[0])
    program = words.index("wandb")
    given = dict(setting.split("=") for setting in words[:program])
    command = [sys.executable, "-m", *words[program:]]
    with Command(command, folder / "sync.out", environment=environment(server, folder) | given, cwd=folder) as running:
        return running.succeed(300)


def rows(folder: Path) -> list[dict[str, Any]]:
    return read_metrics(RunDir(folder / "runs/try1"))


def check(server: WandbServer, folder: Path, *, histograms: float = 1.0) -> Run:
    """Every row and sample grid has arrived, once, with this share of the histograms; the key is nowhere."""
    ((name, run),) = server.runs.items()
    assert name == (folder / "runs/try1/wandb_id").read_text().strip()
    assert server.unknown == []
    assert run.rewritten == []
    assert [row["_step"] for row in run.history] == list(range(0, UNTIL + 1, EVERY))
    local = {row["images"]: row for row in rows(folder)}
    for row in run.history[1:]:
        for key, value in local[row["_step"]].items():
            assert row[key] == pytest.approx(value), (row["_step"], key)
    found = [row["_step"] for row in run.history[1:] if row.get("real_logits", {}).get("_type") == "histogram"]
    assert len(found) >= histograms * (len(run.history) - 1)
    pictures = {row["_step"]: row["samples"]["path"] for row in run.history if "samples" in row}
    assert list(pictures) == list(range(0, UNTIL + 1, SAMPLES_EVERY))
    for step, path in pictures.items():
        expected = np.asarray(Image.open(folder / f"runs/try1/samples/{step:08d}.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(run.files[path]))), expected)
    asked = load(overrides=RUN).model_dump(mode="json")
    assert not asked["data"].pop("class_weights"), "W&B leaves empty mappings out"
    assert {key: run.config[key] for key in asked} == asked
    for path in folder.rglob("*"):
        assert not path.is_file() or KEY.encode() not in path.read_bytes(), path
    return run


@pytest.mark.slow
def test_a_server_that_is_killed_and_comes_back_gets_everything(server: WandbServer, tmp_path: Path) -> None:
    server.start()
    with train(server, tmp_path) as command:
        command.until(lambda: any(len(run.history) > 5 for run in server.runs.values()), 300)
        server.kill()
        lost, first = len(rows(tmp_path)), time.monotonic()
        command.until(lambda: len(rows(tmp_path)) >= lost + 15, 60)
        took = time.monotonic() - first
        back = len(rows(tmp_path))
        server.start()
        output = command.succeed(300)
    assert f"complete at {UNTIL:,} images" in output
    assert "the upload to W&B is incomplete" not in output
    run = check(server, tmp_path)
    assert run.exit_code == 0
    speed = [row["images_per_second"] for row in rows(tmp_path)]
    served, away = speed[1 : lost - 1] + speed[back + 1 :], speed[lost + 1 : back]
    assert statistics.median(away) > 0.5 * statistics.median(served), (served, away)
    assert took < 5 * 15 * EVERY / statistics.median(served)


@pytest.mark.slow
def test_the_same_command_uploads_to_a_server_that_comes_back_after_the_end(
    server: WandbServer, tmp_path: Path
) -> None:
    server.start()
    with train(server, tmp_path) as command:
        command.until(lambda: any(len(run.history) > 5 for run in server.runs.values()), 300)
        server.kill()
        command.until(lambda: bool(rows(tmp_path)) and rows(tmp_path)[-1]["images"] == UNTIL, 300)
        ended = time.monotonic()
        command.succeed(120)
        assert time.monotonic() - ended < 25, "wandb.timeout is 5 s"
    before = len(next(iter(server.runs.values())).history)
    assert before < UNTIL // EVERY
    with train(server, tmp_path, name="too early") as command:
        assert "lacks a part of this run" in command.succeed(120)
    server.start()
    with train(server, tmp_path, name="again") as command:
        assert "resuming" not in command.succeed(120)
    assert check(server, tmp_path, histograms=0.0).exit_code == 0
    requests = server.requests
    with train(server, tmp_path, name="once more") as command:
        command.succeed(120)
    assert server.requests == requests, "it has everything"


@pytest.mark.slow
@pytest.mark.parametrize("refuses", [False, True])
def test_a_server_that_is_never_there_gets_everything_from_a_sync(
    server: WandbServer, tmp_path: Path, refuses: bool
) -> None:
    server.refuses = refuses
    if refuses:
        server.start()
    with train(server, tmp_path) as command:
        output = command.succeed(300)
    assert "this attempt is logged offline" in output
    assert f"complete at {UNTIL:,} images" in output
    assert server.runs == {}
    server.refuses = False
    if not refuses:
        server.start()
    sync(server, tmp_path, "offline; upload with: ")
    assert check(server, tmp_path).exit_code == 0


@pytest.mark.slow
def test_a_run_that_is_killed_resumes_without_a_gap(server: WandbServer, tmp_path: Path) -> None:
    server.start()
    with train(server, tmp_path) as command:
        command.until((tmp_path / "runs/try1/checkpoints" / f"{32_000:012d}").exists, 300)
        command.kill()
    with train(server, tmp_path, name="again") as command:
        assert "resuming at " in command.succeed(300)
    assert check(server, tmp_path, histograms=0.5).exit_code == 0


@pytest.mark.slow
def test_tables_and_lineage_arrive_once_through_a_kill(server: WandbServer, tmp_path: Path) -> None:
    """Each grid has its table; the data are used, and checkpoints come with their samples."""
    images = (*MLP, "log.every=1600", "log.samples_every=3200", "train.images=9600", "checkpoint.every=3200")
    extra = ("log.num_samples=4", "log.table_samples=3", "log.table_reals=50", "wandb.artifacts=all", "eval.every=0")
    given = (*images, *extra, "data.name=mnist", "wandb.timeout=60")
    server.start()
    with train(server, tmp_path, *given) as command:
        command.until((tmp_path / "runs/try1/checkpoints" / f"{3_200:012d}").exists, 300)
        command.kill()
    with train(server, tmp_path, *given, name="again") as command:
        assert "resuming at " in command.succeed(300)
    ((name, run),) = server.runs.items()
    assert server.unknown == []
    assert [row["_step"] for row in run.history] == list(range(0, 9_601, 1_600))
    tables = {row["_step"]: row["sample_table"]["path"] for row in run.history if "sample_table" in row}
    assert list(tables) == [0, 3_200, 6_400, 9_600]
    for step, path in tables.items():
        table = json.loads(run.files[path])
        assert table["columns"] == ["images", "index", "sample", "logit", "distance", "nearest", "row"]
        assert [row[:2] for row in table["data"]] == [[step, index] for index in range(3)]
    made = [each for each in server.artifacts if each.committed]
    assert {each.name: each.maker for each in made if each.kind == "dataset"} == {"data-mnist": ""}
    assert {user for each in made if each.kind == "dataset" for user in each.users} == {name}
    for kind in ("model", "samples"):
        own = [each for each in made if each.kind == kind]
        assert {6_400, 9_600} <= {each.metadata["images"] for each in own}, "the kill may have come before the first"
        assert {each.maker for each in own} == {name}
    newest = next(each for each in made if each.kind == "samples" and each.metadata["images"] == 9_600)
    assert {"00009600.png", "00009600.npz"} <= newest.files.keys()
    assert newest.metadata["checkpoint"] == f"checkpoint-{name}:images-9600"


@pytest.mark.slow
def test_tables_and_artifacts_wait_for_no_server(server: WandbServer, tmp_path: Path) -> None:
    images = (*MLP, "log.every=1600", "log.samples_every=1600", "train.images=32_000", "checkpoint.every=1600")
    extra = ("log.num_samples=4", "log.table_samples=3", "log.table_reals=50", "wandb.artifacts=all", "eval.every=0")
    server.start()
    with train(server, tmp_path, *images, *extra, "data.name=mnist") as command:
        command.until(lambda: any(len(run.history) > 0 for run in server.runs.values()), 300)
        server.kill()
        output = command.succeed(300)
    assert "complete at 32,000 images" in output
    assert "W&B failed" not in output
