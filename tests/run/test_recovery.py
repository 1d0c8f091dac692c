"""How a run is taken up: other data are refused, by all replicas, and what the last failure cost is recorded."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import Config, ConfigError
from ganscale.config import load as load_config
from ganscale.data import FolderSource, PointSource, open_source
from ganscale.parallel.replica import Replica
from ganscale.run import recovery
from ganscale.run.heartbeats import Heartbeat
from ganscale.run.recovery import check_data, record_failure
from ganscale.run.session import run_worker
from ganscale.storage.failures import read_failures
from ganscale.storage.run_dir import RunDir
from tests.fleet import Fleet
from tests.runs import FIFTY, QUIET

CPU = torch.device("cpu")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        Image.fromarray(np.full((8, 8, 3), 30 * number, np.uint8)).save(folder / f"{number}.bmp")
    return folder


def config(pictures: Path, *overrides: str) -> Config:
    data = ("data.name=folder", f"data.path={pictures}", "data.num_workers=0", "train.images=60", "log.every=60")
    place = (f"run.dir={pictures.parent}", "run.name=run")
    return load_config(overrides=(*FIFTY, *QUIET, *data, *place, *overrides))


def run(pictures: Path, *overrides: str) -> RunDir:
    folder = RunDir(pictures.parent / "run")
    run_worker(config(pictures, *overrides), folder.path, device=CPU, echo=False)
    return folder


def record(folder: RunDir) -> dict[str, Any]:
    return json.loads(folder.data.read_text(encoding="utf-8"))


def replace(pictures: Path) -> None:
    Image.fromarray(np.full((8, 8, 3), 255, np.uint8)).save(pictures / "3.bmp")


def test_a_run_resumes_with_the_data_that_it_began_with(pictures: Path) -> None:
    folder = run(pictures)
    before = record(folder)
    assert (before["num_images"], before["earlier"]) == (8, [])
    moved = pictures.rename(pictures.with_name("moved"))
    run(moved, "train.images=120")
    assert record(folder) == before


def test_other_data_are_refused_with_both_hashes_and_accepted_on_request(pictures: Path) -> None:
    folder = run(pictures)
    old = record(folder)
    replace(pictures)
    with pytest.raises(ConfigError) as caught:
        run(pictures, "train.images=120")
    assert (caught.value.key, caught.value.value) == ("data.path", str(pictures))
    assert record(folder) == old, "a refusal changes nothing"
    run(pictures, "train.images=120", "data.changed=accept")
    new = record(folder)
    assert new["sha256"] != old["sha256"]
    assert old["sha256"] in str(caught.value)
    assert new["sha256"] in str(caught.value)
    assert "data.changed=accept" in str(caught.value)
    assert new["earlier"] == [{"sha256": old["sha256"], "num_images": 8, "until": 60}]
    run(pictures, "train.images=180")
    assert record(folder) == new


@pytest.mark.parametrize("text", [None, "{", "[]", '{"sha256": "0", "num_images": 8}', '{"rule": 1, "sha256": "0"}'])
def test_a_run_without_a_usable_record_resumes_and_says_so(pictures: Path, text: str | None) -> None:
    folder = run(pictures)
    before = record(folder)
    folder.data.unlink() if text is None else folder.data.write_text(text)
    run(pictures, "train.images=120")
    assert "has no record of its data" in folder.log.read_text(encoding="utf-8")
    assert record(folder) == before


def test_a_run_without_a_checkpoint_begins_with_the_data_that_are_there(pictures: Path) -> None:
    folder = run(pictures)
    old = record(folder)
    for path in folder.path.joinpath("checkpoints").iterdir():
        path.rename(folder.path / path.name)
    replace(pictures)
    run(pictures)
    assert record(folder)["sha256"] != old["sha256"]
    assert record(folder)["earlier"] == []


def test_data_without_files_are_named_by_their_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, changed = RunDir(tmp_path / "run"), load_config(overrides=QUIET)
    source = open_source(changed, CPU, torch.float32)
    (folder.path / "checkpoints" / f"{60:012d}").mkdir(parents=True)
    folder.data.write_text(json.dumps({"rule": recovery.RULE, "sha256": "0", "num_images": 1}))
    with pytest.raises(ConfigError) as caught:
        check_data(changed, folder, source, Replica(), print)
    assert (caught.value.key, caught.value.value) == ("data.name", "mnist")


def test_points_are_a_function_of_the_config(tmp_path: Path) -> None:
    config = load_config(overrides=("data.name=ring", "model.latent_dim=2"))
    source = open_source(config, CPU, torch.float32)
    assert isinstance(source, PointSource)
    check_data(config, RunDir(tmp_path), source, Replica(), print)
    assert not RunDir(tmp_path).data.exists()


def refused(pictures: str) -> tuple[str, int]:
    """The key of the error, and how often the data were hashed here."""
    hashed: list[int] = []
    real = FolderSource.state_hash

    def count(self: FolderSource) -> str:
        hashed.append(1)
        return real(self)

    FolderSource.state_hash = count
    try:
        run(Path(pictures), "train.images=120")
        return "complete", len(hashed)
    except ConfigError as error:
        return error.key, len(hashed)
    finally:
        FolderSource.state_hash = real


@pytest.mark.multiprocess
def test_all_replicas_refuse_and_only_rank_zero_reads(fleet: Fleet, pictures: Path) -> None:
    run(pictures)
    replace(pictures)
    first, second = fleet.run(refused, 2, str(pictures))
    assert first == ("data.path", 1)
    assert second[0].startswith("data.")
    assert second[1] == 0


DAY = 86_400.0


def failed(folder: RunDir, *, started: float, checkpoint: float | None, died: float) -> None:
    """A folder as a killed attempt leaves it: times in seconds before now, with a checkpoint at 60 images or none."""
    now = time.time()
    folder.attempts.write_text(json.dumps({"time": now - started, "images": 0, "workers": 1}) + "\n")
    if checkpoint is not None:
        manifest = folder.path / "checkpoints" / f"{60:012d}" / "manifest.json"
        manifest.parent.mkdir(parents=True)
        manifest.touch()
        os.utime(manifest, (now - checkpoint, now - checkpoint))
    beat = folder.path / ".heartbeats" / "0.json"
    beat.parent.mkdir()
    beat.write_text(json.dumps(asdict(Heartbeat(0, "host", 1, 1, 0.0, 90, 9, "step", 0.0))))
    os.utime(beat, (now - died, now - died))


@pytest.mark.parametrize(
    ("checkpoint", "cause", "restarts", "lost"),
    [
        pytest.param(DAY + 40.0, None, "0", 40.0, id="repeated a day after the kill"),
        pytest.param(DAY + 40.0, "worker 1 died", "0", DAY + 40.0, id="restarted by Ray"),
        pytest.param(DAY + 40.0, None, "1", DAY + 40.0, id="restarted by torchrun"),
        pytest.param(None, None, "0", 100.0, id="killed before its first checkpoint"),
        pytest.param(7 * DAY, None, "0", 100.0, id="resumed at an old checkpoint, and killed before a new one"),
    ],
)
def test_lost_seconds_are_work_and_the_wait_of_one_command(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: float | None,
    cause: str | None,
    restarts: str,
    lost: float,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", restarts)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    folder = RunDir(tmp_path)
    failed(folder, started=DAY + 100.0, checkpoint=checkpoint, died=DAY)
    record_failure(folder, 60 if checkpoint else 0, cause, lambda line: None)
    (failure,) = read_failures(folder.failures)
    assert failure.seconds_lost == pytest.approx(lost, abs=0.01)
    assert not folder.heartbeats.exists()
