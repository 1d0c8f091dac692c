"""Which panels a dashboard has, and the commands that make it, without an account."""

import sys
from pathlib import Path

import pytest
import torch

from ganscale import dashboard
from ganscale.config.objective import Penalty
from ganscale.run.samples import SampleRenderer
from ganscale.run.session import run_worker
from ganscale.storage.run_dir import RunDir
from ganscale.tracking import wandb_dashboards as module
from ganscale.tracking.dashboards import PENALTIES, REPRODUCE, SAMPLE_TABLE, for_runs, for_sweep, outline
from ganscale.tracking.jsonl import read_metrics
from ganscale.training.build import build
from tests.report.folders import seed, sweep, trial
from tests.runs import MLP, tiny

CPU = torch.device("cpu")
TRIALS = [trial(0, {"optim.lr_g,optim.lr_d": 0.1, "loss.name": "hinge"}, [seed(0, modes=5.0)] * 3)]


def keys() -> set[str]:
    return {key for panels in for_runs().sections.values() for panel in panels for key in panel.keys}


def test_all_that_a_run_logs_has_a_panel(tmp_path: Path) -> None:
    ada = ("augment.transforms=[cutout]", "augment.adaptive=true", "augment.every=1", "penalty.r1=1")
    off = ("wandb.mode=disabled", "eval.every=0", "train.images=24", "log.every=12")
    config = tiny(*MLP, *ada, *off, f"run.dir={tmp_path}", "run.name=a")
    run_worker(config, tmp_path / "a", device=CPU, echo=False)
    logged = set(read_metrics(RunDir(tmp_path / "a"))[-1]) - {"images", "iteration"}
    assert {"augment_p", "weight_norm_d", "penalty_r1"} <= logged
    assert logged <= keys()
    conditional = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
    assert set(SampleRenderer(build(tiny(*MLP, *conditional), device=CPU)).details(first=True)) <= keys()
    assert {SAMPLE_TABLE, "goodput", "timeline"} <= keys()
    assert set(PENALTIES) == {name for name in Penalty.model_fields if "_" not in name} - {"sigma", "auto"}


def test_a_sweeps_dashboard_shows_its_group_settings_and_metrics() -> None:
    made = for_sweep("Rates & more", ["modes"], ["optim.lr_g,optim.lr_d", "loss.name"])
    assert (made.group, made.view) == ("Rates & more", "sweepratesmore")
    panels = {panel.kind: panel.keys for panel in made.sections["Settings"]}
    assert panels["parallel"] == ("optim.lr_g", "loss.name", "score")
    assert made.sections["Trials"][0].keys == ("modes", "modes_bound")
    text = outline([made], entity="", project="p")
    assert "Rates & more" in text
    assert "optim.lr_g, loss.name, score" in text


def test_a_dry_run_needs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    path = sweep(tmp_path / "s", TRIALS)
    assert dashboard.main([str(path), "--project", "p", "--entity", "me", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "'ganscale runs' in me/p, all runs" in shown
    assert "'ganscale sweep stability' in me/p, runs of group stability" in shown


def test_what_cannot_work_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert dashboard.main([str(tmp_path), "--dry-run"]) == 2
    assert "has no results of a sweep" in capsys.readouterr().err
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert dashboard.main([]) == 2
    assert "pip install 'ganscale[dashboard]'" in capsys.readouterr().err
    monkeypatch.setattr(module, "find_spec", lambda name: object())
    monkeypatch.setattr(module, "has_key", lambda: False)
    assert dashboard.main([]) == 2
    assert "wandb login" in capsys.readouterr().err


def test_a_refusal_of_the_server_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr(module, "check_ready", lambda: None)
    monkeypatch.setattr(module, "_save_workspace", refuse)
    assert dashboard.main(["--entity", "me"]) == 1
    assert "'ganscale runs' (OSError: no route)" in capsys.readouterr().err


def test_a_report_is_reproduced_from_a_commit_as_nothing_is_released() -> None:
    assert "pip install" not in REPRODUCE
    assert "git checkout COMMIT" in REPRODUCE
