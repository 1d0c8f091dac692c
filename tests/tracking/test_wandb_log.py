"""What earlier lives left in W&B's files: torn ends, rows and pictures that a kill kept from the server."""

import math
import os
from pathlib import Path

import numpy as np
import pytest

from ganscale.config import load
from ganscale.storage.run_dir import RunDir, locate
from ganscale.tracking import Histogram
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.tracking.wandb import WandbTracker
from ganscale.tracking.wandb_log import DELIVERED, last_step, lives, mend, missing_rows, payloads, undelivered
from tests.wandb_files import records

PICTURE = np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run whose one life logged steps 0 to 300, the last three of which its own folder does not have."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    config = load(overrides=[f"run.dir={tmp_path}", "run.name=try1", "wandb.mode=offline"])
    folder = locate(config)
    folder.path.mkdir()
    wandb, local = WandbTracker(config, folder, lambda _: None), JsonlTracker(folder)
    for images in range(0, 301, 10):
        for tracker in (wandb, local) if images <= 270 else (wandb,):
            tracker.log(images, {"loss_d": math.nan if images == 20 else float(images), "lr_d": 0.5})
            tracker.details(images, {"classes": PICTURE} if images == 20 else {}, {})
        wandb.details(images, {}, {"real_logits": Histogram([2, 1], [0.0, 1.0, 2.0])})
    local.samples(20, PICTURE)
    wandb.close(completed=False)
    local.close(completed=False)
    (life,) = lives(folder)
    records(next(life.glob("*.wandb")))  # waits until they are written
    return folder


def test_rows_and_pictures_come_from_both_places(folder: RunDir) -> None:
    assert last_step(folder) == 300
    rows = missing_rows(folder, 0)
    assert list(rows) == list(range(10, 271, 10)), "the rest is of a life that was lost"
    assert rows[30]["loss_d"] == 30.0
    assert rows[30]["real_logits"] == {"_type": "histogram", "values": [2, 1], "bins": [0.0, 1.0, 2.0]}
    assert math.isnan(rows[20]["loss_d"])
    assert rows[20]["samples"] == folder.samples / f"{20:08d}.png"
    assert rows[20]["classes"].name.startswith("classes_20_")
    assert not any(key.startswith("_") for row in rows.values() for key in row)
    assert missing_rows(folder, 270) == {}


def test_a_torn_end_is_cut_off_and_nothing_else(folder: RunDir) -> None:
    (life,) = lives(folder)
    (log,) = life.glob("*.wandb")
    whole = log.read_bytes()
    before = list(payloads(log))
    old = 1_700_000_000

    os.utime(log, (old, old))
    mend(life)
    assert log.read_bytes() == whole, "nothing is torn"

    log.write_bytes(whole[:-3])
    mend(life)
    assert len(log.read_bytes()) == len(whole) - 3, "somebody may still write to it"
    os.utime(log, (old, old))
    mend(life)
    assert list(payloads(log)) == before[:-1]
    assert log.read_bytes() == whole[: len(log.read_bytes())]
    torn = log.stat().st_size
    mend(life)
    assert log.stat().st_size == torn


def test_a_life_is_owed_until_it_is_marked(folder: RunDir) -> None:
    (life,) = lives(folder)
    assert undelivered(folder) == [life]
    synced = life / "run-x.wandb.synced"
    synced.touch()
    assert undelivered(folder) == []
    synced.unlink()
    (life / DELIVERED).touch()
    assert undelivered(folder) == []
