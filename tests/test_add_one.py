"""One new file and one entry add a thing: a loss, an architecture, a data set, a metric, a detector.

A copy of the package with them trains, evaluates and sweeps, in one process.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import ROOT

ADDITIONS = [
    (
        "losses/exponential.py",
        """
def d_loss(real_logits, fake_logits, targets):
    return (-real_logits).exp() + fake_logits.exp()


def g_loss(fake_logits, real_logits):
    return (-fake_logits).exp()
""",
        "config/losses.py",
        "LOSSES: dict[str, AdversarialLoss] = {",
        '"exponential": AdversarialLoss("ganscale.losses.exponential:d_loss", "ganscale.losses.exponential:g_loss"),',
    ),
    (
        "models/sine.py",
        """
from pydantic import Field
from torch import nn

from ganscale.config import Count, Section


class Settings(Section):
    \"\"\"One hidden layer of sines.\"\"\"

    width: Count = Field(default=8, ge=1, description="Units of the hidden layer.")


class Generator(nn.Module):
    def __init__(self, settings, geometry):
        super().__init__()
        self.hidden = nn.Linear(geometry.latent_dim, settings.width)
        self.out = nn.Linear(settings.width, geometry.size)
        self.shape = geometry.shape

    def forward(self, z, labels=None):
        return self.out(self.hidden(z).sin()).unflatten(1, self.shape)
""",
        "config/networks.py",
        "GENERATORS: dict[str, Architecture] = {",
        '"sine": Architecture("ganscale.models.sine:Settings", "ganscale.models.sine:Generator"),',
    ),
    (
        "data/spiral.py",
        """
import torch

from ganscale.parallel.random import Stream


class Spiral:
    shape, num_classes = (2,), 0

    def __init__(self, seed, device, dtype):
        self.stream, self.dtype = Stream(seed, "data/spiral", device), dtype

    def read(self, start, stop):
        t = self.stream.uniform(start, stop).to(self.dtype)
        return torch.stack((t * (9 * t).cos(), t * (9 * t).sin()), 1), None


def open_spiral(config, device, dtype):
    return Spiral(config.run.seed, device, dtype)
""",
        "config/datasets.py",
        "DATASETS: dict[str, Dataset] = {",
        '"spiral": Dataset("ganscale.data.spiral:open_spiral", is_points=True, metrics=("frechet", "mean_gap")),',
    ),
    (
        "evaluation/metrics/mean_gap.py",
        """
def mean_gap(reference, judged, setting):
    return (reference.seen.features.mean(0) - judged.features.mean(0)).norm()
""",
        "config/evaluation.py",
        "METRICS: dict[str, Metric] = {",
        '"mean_gap": Metric(False, "features", "distance of means", "ganscale.evaluation.metrics.mean_gap:mean_gap"),',
    ),
    (
        "health/always.py",
        """
from ganscale.health.detectors import Verdict


def always(evidence):
    return Verdict("always", "each run has it", 0)
""",
        "config/health.py",
        "DETECTORS: dict[str, Detector] = {",
        '"always": Detector("ganscale.health.always:always", is_transient=True),',
    ),
]
"""A new file and its code; the file of a table, the line of the table below which an entry goes, and the entry."""

RUN = """
import torch
from pathlib import Path
from ganscale import evaluate, load_generator, train, tune
from ganscale.sweep.plan import load_plan
from ganscale.sweep.trial import MultiSeedTrial

overrides = [
    "loss.name=exponential", "model.generator.name=sine", "model.generator.width=5", "data.name=spiral",
    "model.discriminator.width=8", "model.latent_dim=2", "train.images=64", "train.batch_size=8", "log.every=32",
    "eval.every=32", "eval.num_samples=100", "checkpoint.every=32", "wandb.mode=disabled", "run.name=one",
    "health.patience=2",
]
assert train.main(["--launcher", "local", *overrides]) == 0
assert evaluate.main(["runs/one"]) == 0
assert load_generator("runs/one").sample(3).shape == (3, 2)
search = "sweep: {metrics: [mean_gap], num_configs: 1}\\nspace: {optim.lr_g: {loguniform: [1e-4, 1e-2]}}"
Path("sweep.yaml").write_text(f"base: runs/one/config.yaml\\n{search}")
assert tune.main(["sweep.yaml", "--dry-run"]) == 0
plan = load_plan("sweep.yaml", [])
config = plan.space.config(plan.sampler[0])
trial = MultiSeedTrial(config, plan.sampler[0], (0,), plan.metrics, Path("trial"), device=torch.device("cpu"))
row = trial.row(0)
print("mean_gap of the trial:", row.seeds[0].values["mean_gap"])
"""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with a copy of the package that has the additions."""
    shutil.copytree(ROOT / "ganscale", tmp_path / "ganscale", ignore=shutil.ignore_patterns("__pycache__", "files"))
    for file, code, table, line, entry in ADDITIONS:
        new, path = tmp_path / "ganscale" / file, tmp_path / "ganscale" / table
        assert not new.exists()
        new.write_text(code, encoding="utf-8")
        before = path.read_text(encoding="utf-8")
        assert before.count(f"\n{line}\n") == 1
        path.write_text(before.replace(f"{line}\n", f"{line}\n    {entry}\n"), encoding="utf-8")
    return tmp_path


def test_one_file_and_one_entry_add_a_thing_of_each_kind(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package), "GANSCALE_CACHE": str(package / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (package / "runs/one/metrics.jsonl").read_text().splitlines()]
    assert any("mean_gap" in row for row in rows), rows
    assert "always" in done.stdout, "the detector was asked"
    assert "mean_gap of the trial: 0." in done.stdout
