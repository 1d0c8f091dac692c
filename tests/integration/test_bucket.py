"""A run in a bucket: killed and resumed, read by every command, one writer at a time, a token that expires."""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import ganscale
from ganscale.config import ConfigError
from ganscale.copy import main as copy
from ganscale.dashboard import main as dashboard
from ganscale.evaluate import main as evaluate
from ganscale.report.__main__ import main as report
from ganscale.report.sweep import open_results
from ganscale.sample import main as sample
from ganscale.storage.checkpoint import CheckpointStore, verify
from ganscale.storage.run_dir import RunDir
from ganscale.storage.store import StorePath, open_place
from ganscale.tracking.images import write_png
from ganscale.train import main
from tests.buckets import Proxy, Server, moto
from tests.processes import Command, final_state
from tests.report.folders import seed, sweep, trial
from tests.run.test_stop_signal import RUN
from tests.runs import rows

pytestmark = pytest.mark.usefixtures("all_held_out")

COMMAND = ("--launcher", "local", *RUN, "checkpoint.keep=2")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with moto() as started:
        yield started


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in a folder, undisturbed."""
    folder = tmp_path_factory.mktemp("folder")
    assert main([*COMMAND, f"run.dir={folder}", "run.name=a"]) == 0
    return folder / "a"


def final(uri: str) -> str:
    """SHA-256 of the newest state of a run in a bucket."""
    place = open_place(uri)
    assert isinstance(place, StorePath)
    newest = CheckpointStore(place / "checkpoints").newest(print)
    assert newest is not None
    return hashlib.sha256((newest.path / newest.state).read_bytes()).hexdigest()


def test_a_killed_run_in_a_bucket_ends_as_one_in_a_folder(
    server: Server, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = server.use(monkeypatch)
    words = [*COMMAND, f"run.dir={place}", "run.name=a"]
    slow = (sys.executable, "-c", SLOW)
    with Command([*slow, *words], tmp_path / "killed.out") as killed:
        killed.until(lambda: "360 / 600" in killed.output, 180)
        killed.kill()
    uri = f"{place}/a"
    listed = [int(folder.name) for folder in CheckpointStore(open_place(uri) / "checkpoints").folders()]
    assert listed
    assert 0 < listed[0] < 600
    assert main(words) == 0
    assert f"resuming at {listed[0]:,} images" in capsys.readouterr().out
    assert final(uri) == final_state(straight)
    assert rows(RunDir(uri)) == rows(RunDir(straight)), "no row is missing, none is there twice"
    local = RunDir(uri).pull()
    failures = [json.loads(line) for line in local.failures.read_text().splitlines()]
    assert [each["resumed"] for each in failures] == [listed[0]]

    # Every command reads it.
    monkeypatch.chdir(tmp_path)
    assert main(words) == 0, "complete"
    assert sample([uri, "--out", str(tmp_path / "samples")]) == 0
    assert report([uri]) == 0
    assert "loss" in (tmp_path / "report.html").read_text()
    assert evaluate([uri, "--num-samples", "16", "--extractor", "pixels", "--metrics", "frechet"]) == 0
    assert evaluate([uri, "--compare"]) == 0
    one, other = (ganscale.load_generator(path).sample(3) for path in (uri, straight))
    assert (one == other).all()
    files = {entry.key.partition("/")[0] for entry in StorePath(open_place(uri).store).store.list()}  # pyright: ignore
    assert files == {
        "checkpoints", "config.yaml", "data.json", "environment.json", "evaluations", "failures.jsonl", "lease.json",
        "attempts.jsonl", "metrics.jsonl", "samples", "train.log", "workers.json",
    }  # fmt: skip


def test_a_run_is_copied_and_resumed_elsewhere(
    server: Server, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a folder to a bucket, trained on there, and back: the bits of a run that stayed in its folder."""
    place = server.use(monkeypatch)
    start = [*COMMAND, "train.images=360"]
    assert main([*start, f"run.dir={tmp_path}", "run.name=a"]) == 0
    assert copy([str(tmp_path / "a"), f"{place}/a"]) == 0
    assert "copied with 2 checkpoints" in capsys.readouterr().out
    assert rows(RunDir(f"{place}/a")) == rows(RunDir(tmp_path / "a"))
    assert main([*COMMAND, f"run.dir={place}", "run.name=a"]) == 0
    assert "resuming at 360 images" in capsys.readouterr().out
    assert final(f"{place}/a") == final_state(straight)
    back = tmp_path / "back"
    assert copy([f"{place}/a", str(back / "a")]) == 0
    assert final_state(back / "a") == final_state(straight)
    assert rows(RunDir(back / "a")) == rows(RunDir(straight))
    assert main([*COMMAND, f"run.dir={back}", "run.name=a", "train.images=660"]) == 0
    assert "resuming at 600 images" in capsys.readouterr().out
    for words, problem in (
        ([f"{place}/a", str(back / "a")], "a run lies there already"),
        ([f"{place}/a", str(back / "b")], "the run's name is a"),
        ([str(tmp_path), str(back / "c")], "no such run"),
    ):
        assert copy(words) == 2
        assert problem in capsys.readouterr().err


def test_a_thread_uploads_the_same_bytes(server: Server, straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = server.use(monkeypatch)
    keep_all = ("checkpoint.mode=async", "health.response=rollback", "checkpoint.keep=9")
    assert main([*COMMAND, f"run.dir={place}", "run.name=a", *keep_all]) == 0
    folders = CheckpointStore(open_place(f"{place}/a") / "checkpoints").folders()
    assert [int(folder.name) for folder in folders] == [600, 480, 360, 240, 120]
    assert all(verify(folder).images == int(folder.name) for folder in folders)
    assert final(f"{place}/a") == final_state(straight)


SLOW = """
import sys, time
from ganscale.tracking.jsonl import JsonlTracker
log = JsonlTracker.log
def slow(tracker, images, metrics):
    log(tracker, images, metrics)
    time.sleep(0.5)
JsonlTracker.log = slow
from ganscale.train import main
sys.exit(main(sys.argv[1:]))
"""


def test_of_two_drivers_one_trains_and_the_other_names_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ganscale.storage.lease.SECONDS", 6.0)
    words = [*COMMAND, f"run.dir={server.use(monkeypatch)}", "run.name=a"]
    with Command([sys.executable, "-c", PACED, *words], tmp_path / "first.out") as first:
        first.until(lambda: "60 / 600" in first.output, 180)
        assert main([*words, "cluster.timeout=2"]) == 2
        said = capsys.readouterr().err
        assert "another process is writing to s3://" in said
        assert f": process {first.process.pid} on " in said
        assert ", since 20" in said
        first.process.send_signal(signal.SIGTERM)
        assert first.wait(180) == 75
    assert main([*words, "cluster.timeout=2"]) == 0, "released, it can be taken"


PACED = f"""
from ganscale.storage import lease
lease.SECONDS = 3.0
{SLOW}
"""


@pytest.mark.slow
def test_a_token_that_expires_costs_no_more_than_the_work_since(
    server: Server, straight: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    proxy = Proxy(server)
    place = proxy.server.use(monkeypatch)
    words = [*COMMAND, f"run.dir={place}", "run.name=a"]

    def disturb(method: str, path: str) -> object:
        return "expired" if any(f"{n:012d}/state" in each for n in (360,) for _, each in proxy.requests) else None

    proxy.disturb = disturb
    assert main(words) == 1, "what comes at the end could not be kept"
    said = capsys.readouterr()
    assert "ExpiredToken; renew the credentials in the environment" in said.out + said.err
    proxy.disturb = lambda method, path: None
    proxy.requests.clear()
    assert main(words) == 0
    assert "resuming at 240 images" in capsys.readouterr().out
    assert final(f"{place}/a") == final_state(straight)
    proxy.close()


def test_a_run_that_is_not_there_is_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    uri = f"{server.use(monkeypatch)}/none"
    for command in (report, evaluate, sample, lambda words: evaluate([*words, "--compare"])):
        assert command([uri]) == 2
        assert f"path = {uri}: no " in capsys.readouterr().err


def test_the_environment_names_no_secret_in_the_bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    place = server.use(monkeypatch)
    assert main([*COMMAND, f"run.dir={place}", "run.name=a", "train.images=120"]) == 0
    root = open_place(place)
    assert isinstance(root, StorePath)
    for entry in root.store.list():
        content = root.store.get(entry.key)[0]
        assert server.secret.encode() not in content
        assert server.key.encode() not in content
    assert os.environ["AWS_ACCESS_KEY_ID"] == server.key


def test_a_sweep_is_read_there(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the report, which fetches what its page shows, and by the dashboard; its winner is a run to train."""
    place = open_place(server.use(monkeypatch))
    assert isinstance(place, StorePath)
    folder = sweep(tmp_path / "s", [trial(number, {"lr": 0.1}, [seed(0, modes=5.0)] * 3) for number in range(3)])
    write_png(folder / "trials" / "0001" / "seed-0" / "samples" / "00000020.png", np.zeros((8, 8, 3), np.uint8))
    (folder / "best.yaml").write_text("run: {name: s-best}\n", encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file():
            place.store.put(f"s/{path.relative_to(folder)}", path.read_bytes())
    for name in ("s/trials/0001/seed-0/checkpoints/1/state.pt", "begun/sweep.yaml"):
        place.store.put(name, b"x")
    monkeypatch.chdir(tmp_path)
    assert report([f"{place}/s"]) == 0
    assert "trial 0002" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert report([f"{place}/s", "--out", f"{place}/s/report.html"]) == 0
    assert (place / "s" / "report.html").read_text() != ""
    assert dashboard([f"{place}/s", "--dry-run"]) == 0
    assert "stability" in capsys.readouterr().out
    assert ganscale.Trainer(f"{place}/s/best.yaml").config.run.name == "s-best"
    for command in (report, lambda words: dashboard([*words, "--dry-run"])):
        assert command([f"{place}/begun"]) == 2
        assert "results" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no such config file"):
        ganscale.Trainer(f"{place}/none/best.yaml")
    run = open_results(f"{place}/s")
    fetched = {str(path.relative_to(run.path)) for path in run.path.rglob("*") if path.is_file()}
    rows = {f"trials/{number:04d}/rows.jsonl" for number in range(3)}
    assert fetched == {"results.json", "trials/0001/seed-0/samples/00000020.png", *rows}
