"""The command line of a sweep: starts quickly, refuses early, shows what it would try."""

import re
import shlex
from pathlib import Path

import pytest

from ganscale.sweep.plan import load_plan
from ganscale.tune import main

ROOT = Path(__file__).parents[1]
SWEEP = """
sweep: {name: tiny, num_configs: 12, seeds: 3}
set: {train.images: 1280, eval.every: 640}
space:
  optim.lr_g: {loguniform: [1e-5, 1e-2]}
  loss.name: {choice: [non_saturating, minimax]}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(SWEEP, encoding="utf-8")
    return path


def test_a_dry_run_shows_the_space_and_ten_samples(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "12 configurations x 3 seeds x 1,280 images = 46,080 images" in text
    assert "optim.lr_g: loguniform [1e-05, 0.01]" in text
    assert [line[:4] for line in text.splitlines() if line[:4].isdigit()] == [f"{i:04d}" for i in range(10)]


def test_overrides_reach_the_sweep_and_the_runs(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "--dry-run", "sweep.seeds=4", "train.images=6400", "sweep.num_configs=2"]) == 0
    assert "2 configurations x 4 seeds x 6,400 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "computed"),
    [
        ([], ()),
        (["sweep.metrics=[modes, frechet]"], ("modes", "frechet")),
        (["sweep.metrics=frechet", "eval.metrics=[kid, frechet]"], ("kid", "frechet")),
        (["eval.metrics=[kid, frechet]"], ("kid", "frechet")),
        (["sweep.metrics=frechet", "checkpoint.best_metric=kid"], ("frechet", "kid")),
        (["sweep.metrics=frechet", "checkpoint.best_metric=frechet"], ("frechet",)),
    ],
)
def test_runs_compute_no_metric_in_vain(sweep: Path, arguments: list[str], computed: tuple[str, ...]) -> None:
    plan = load_plan(sweep, arguments)
    assert plan.config.eval.metrics == computed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sweep.seeds=2"], "sweep.seeds = 2"),
        (["sweep.sedes=3"], "did you mean 'seeds'"),
        (["train.image=3"], "did you mean 'images'"),
        (["eval.every=0"], "never evaluated"),
        (["sweep.metrics=coverage", "eval.metrics=[frechet]"], "sweep.metrics = coverage"),
        (["sweep.metrics=high_quality"], "mnist does not give high_quality"),
        (["eval.mode=async"], "eval.mode = async"),
        (["sweep.score=success_rate"], "sweep.threshold"),
        (["sweep.search=grid"], "a range has no grid"),
        (["sweep.scheduler=pbt"], "space.loss.name"),
        (["--max-concurrent", "0"], "max_concurrent"),
        (["--budget-hours", "-1"], "budget_hours"),
        (["sweep.gpus_per_worker=0.5", "sweep.workers=2"], "whole GPUs"),
        (["sweep.scheduler=pbt", "--budget-hours", "1"], "without sweep.budget_hours"),
    ],
)
def test_what_cannot_work_is_refused(
    sweep: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert main([str(sweep), "--dry-run", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert "remedy:" in error


def test_a_missing_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "no.yaml")]) == 2
    assert "no such config file" in capsys.readouterr().err


PAGE = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[3:] for line in PAGE.splitlines() if line.startswith("python -m ganscale.tune")
]


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_a_command_of_the_page_loads(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*(word for word in arguments if word != "--dry-run"), "--dry-run"]) == 0
    assert "0000  " in capsys.readouterr().out


def test_the_example_of_the_page_is_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example.replace("../mnist_mlp.yaml", str(ROOT / "configs" / "mnist_mlp.yaml")), encoding="utf-8")
    assert main([str(path), "--dry-run"]) == 0
    assert "24 configurations x 3 seeds" in capsys.readouterr().out


def test_the_page_tells_every_draw_search_and_scheduler() -> None:
    from typing import get_args

    from ganscale.sweep.config import KINDS, SweepSettings

    words = [
        *KINDS,
        *(w for n in ("search", "scheduler", "score") for w in get_args(SweepSettings.model_fields[n].annotation)),
    ]
    assert [word for word in words if f"`{word}`" not in PAGE] == []
