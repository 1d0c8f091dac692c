"""W&B's offline files of a run on two workers that was killed once, read back by W&B's own programs."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.processes import Command
from tests.runs import MLP
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

EVERY, SAMPLES_EVERY, UNTIL = 750, 1_500, 12_000
RUN = (
    *(*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection"),
    *("penalty.r1=1", "augment.transforms=[translation]", "augment.adaptive=true"),
    *("train.batch_size=15", f"train.images={UNTIL}", "train.device=cpu", "run.dir=runs", "run.name=try1"),
    *(f"log.every={EVERY}", f"log.samples_every={SAMPLES_EVERY}", "log.num_samples=9", "checkpoint.every=1500"),
    *(f"eval.every={UNTIL // 2}", "eval.num_samples=64", "eval.metrics=[frechet]", "wandb.mode=offline"),
)
NUMBERS = {
    *("images", "iteration", "loss_d", "loss_g", "images_per_second", "seconds_per_iteration"),
    *(f"{side}_logit_{what}" for side in ("real", "fake") for what in ("mean", "std")),
    *(f"d_accuracy_{side}" for side in ("real", "fake")),
    *(f"{what}_{net}" for what in ("grad_norm", "weight_norm", "lr") for net in ("d", "g")),
    *("penalty_r1", "augment_p", "memory_mib"),
}
"""In every row but that of the start, which has pictures alone."""
HISTOGRAMS = ("real_logits", "fake_logits")
PICTURES = ("samples", "interpolation", "classes")


def train(folder: Path, name: str) -> Command:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    given = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HOME": str(folder), "NETRC": str(folder / "netrc")}
    command = [*torchrun, "-m", "ganscale.train", *RUN]
    return Command(command, folder / f"{name}.out", environment=given, cwd=folder)


def inspect(log: Path) -> list[dict[str, Any]]:
    """The records as `wandb leet inspect` reads them."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run has been trained, in two lives."""
    folder = tmp_path_factory.mktemp("two_lives")
    with train(folder, "first") as command:
        command.until((folder / "runs/try1/checkpoints" / f"{4500:012d}").exists, 180)
        command.kill()
    with train(folder, "second") as command:
        output = command.succeed(180)
    assert "resuming at " in output
    assert "2 workers on cpu" in output
    return folder


def test_every_key_is_there_and_no_step_twice(folder: Path) -> None:
    logs = sorted(folder.glob("runs/try1/wandb/offline-run-*/*.wandb"))
    assert len(logs) == 2
    steps, found = [], {}
    for log in logs:
        for record in inspect(log):
            if record["type"] != "history":
                continue
            row = record["history"]["item"]
            steps.append(row["_step"])
            for name in (*PICTURES, "real"):
                if f"{name}.path" in row:
                    found.setdefault(name, {})[row["_step"]] = log.parent / "files" / row[f"{name}.path"]
            if row["_step"] > 0:
                assert set(row) >= NUMBERS, (row["_step"], NUMBERS - set(row))
                assert row["images"] == row["_step"]
            if row["_step"] % (UNTIL // 2) == 0 and row["_step"]:
                assert {"frechet", "frechet_floor"} <= set(row)
    assert steps == list(range(0, UNTIL + 1, EVERY)), "every step, in order, once"
    for name in PICTURES:
        assert list(found[name]) == list(range(0, UNTIL + 1, SAMPLES_EVERY)), name
    assert list(found["real"]) == [0]
    for paths in found.values():
        for path in paths.values():
            assert np.asarray(Image.open(path)).std() > 0, path
    for step, path in found["samples"].items():
        local = Image.open(folder / f"runs/try1/samples/{step:08d}.png")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), np.asarray(local))


def test_histograms_are_there_but_for_the_moments_before_the_kill(folder: Path) -> None:
    logs = sorted(folder.glob("runs/try1/wandb/offline-run-*/*.wandb"))
    rows = [record["history"]["item"] for log in logs for record in inspect(log) if record["type"] == "history"]
    have = [sum(len(row.get(f"{name}.bins", [])) > 1 for row in rows[1:]) for name in HISTOGRAMS]
    assert min(have) >= 0.5 * (len(rows) - 1), have


def test_a_sync_of_both_lives_completes_one_run(folder: Path) -> None:
    logs = sorted(folder.glob("runs/try1/wandb/offline-run-*"))
    with WandbServer() as server:
        own = {**server.environment, "HOME": str(folder), "NETRC": str(folder / "netrc")}
        command = [sys.executable, "-m", "wandb", "sync", *map(str, logs)]
        with Command(command, folder / "sync.out", environment=own, cwd=folder) as running:
            running.succeed(120)
        ((name, run),) = server.runs.items()
    assert name == (folder / "runs/try1/wandb_id").read_text().strip()
    assert [row["_step"] for row in run.history] == list(range(0, UNTIL + 1, EVERY))
    local = {row["images"]: row for row in read_metrics(RunDir(folder / "runs/try1"))}
    for row in run.history[1:]:
        assert row["loss_d"] == local[row["_step"]]["loss_d"]
    assert {row[name]["path"] for row in run.history for name in PICTURES if name in row} <= set(run.files)
