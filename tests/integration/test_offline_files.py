"""W&B's offline files of a run on two workers that was killed once, read back by W&B's own programs."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganscale.storage.run_dir import RunDir
from ganscale.tracking.jsonl import read_metrics
from tests.processes import Command
from tests.runs import MLP
from tests.wandb_files import read_history
from tests.wandb_server import WandbServer

pytestmark = [pytest.mark.multiprocess, pytest.mark.slow]

EVERY, SAMPLES_EVERY, KILLED, UNTIL = 750, 1_500, 4_500, 12_000
RUN = (
    *(*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection"),
    *("penalty.r1=1", "augment.transforms=[translation]", "augment.adaptive=true"),
    *("train.batch_size=15", f"train.images={UNTIL}", "train.device=cpu", "run.dir=runs", "run.name=try1"),
    *(
        f"log.every={EVERY}",
        f"log.samples_every={SAMPLES_EVERY}",
        "log.num_samples=9",
        "checkpoint.every=1500",
        "checkpoint.mode=inline",
    ),
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


def run(folder: Path, name: str, *command: str, **environment: str) -> Command:
    own = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HOME": str(folder), "NETRC": str(folder / "netrc")}
    program = [sys.executable, "-m", *command]
    return Command(program, folder / f"{name}.out", environment=own | environment, cwd=folder)


def test_a_killed_and_resumed_run_is_synced_without_gaps_or_repeats(tmp_path: Path) -> None:
    path = tmp_path / "runs/try1"
    train = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "ganscale.train", *RUN)
    with run(tmp_path, "first", *train) as command:
        command.until((path / "checkpoints" / f"{KILLED:012d}").exists, 400)
        command.kill()
    with run(tmp_path, "second", *train) as command:
        command.succeed(400)

    # The attempt that finished has every row, and the details of what it trained itself.
    (attempt,) = path.glob("wandb/offline-run-*")
    rows = read_history(attempt)
    assert [row["_step"] for row in rows] == list(range(0, UNTIL + 1, EVERY))
    for row in rows[1:]:
        assert set(row) >= NUMBERS, (row["_step"], NUMBERS - set(row))
        assert row["images"] == row["_step"]
        if row["_step"] % (UNTIL // 2) == 0:
            assert {"frechet", "frechet_floor"} <= set(row)
    trained = [row for row in rows if row["_step"] > KILLED + 2 * SAMPLES_EVERY]
    for name in ("real_logits", "fake_logits"):
        assert all(len(row[f"{name}.bins"]) > 1 for row in trained)
    pictures = {name: {row["_step"]: row.get(f"{name}.path", "") for row in rows} for name in ("samples", "real")}
    assert [step for step, file in pictures["real"].items() if file] == [0]
    for step in range(0, UNTIL + 1, SAMPLES_EVERY):
        copy, local = (attempt / "files" / pictures["samples"][step], path / f"samples/{step:08d}.png")
        np.testing.assert_array_equal(np.asarray(Image.open(copy)), np.asarray(Image.open(local)))
    for name in ("interpolation", "classes"):
        files = [row[f"{name}.path"] for row in trained if row["_step"] % SAMPLES_EVERY == 0]
        assert all(np.asarray(Image.open(attempt / "files" / file)).std() > 0 for file in files)

    # A sync uploads all of it to one run.
    with WandbServer() as server:
        directories = map(str, path.glob("wandb/offline-run-*"))
        with run(tmp_path, "sync", "wandb", "sync", *directories, **server.environment) as command:
            command.succeed(120)
        ((name, synced),) = server.runs.items()
    assert name == (path / "wandb_id").read_text().strip()
    assert [row["_step"] for row in synced.history] == [row["_step"] for row in rows]
    numbers = {row["images"]: row["loss_d"] for row in read_metrics(RunDir(path))}
    assert {row["_step"]: row["loss_d"] for row in synced.history[1:]} == numbers
    assert set(filter(None, pictures["samples"].values())) <= set(synced.files)
