"""Every file in configs/sweeps/ is a sweep whose configurations are runs that work."""

from pathlib import Path

import pytest
import torch

from ganscale.config import parse
from ganscale.sweep.plan import load_plan
from ganscale.training.build import build
from ganscale.training.loop import train
from ganscale.tune import main

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs" / "sweeps").glob("*.yaml"))


def test_there_are_sweeps() -> None:
    expected = {"stability_textbook", "robustness_200", "robustness_small", "rates_latent", "gaussians", "pbt_dcgan"}
    expected |= {"mlp_quick", "stacked_mnist_ablation"}
    assert {path.stem for path in FILES} == expected


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_sweep_names_itself_and_its_sources(path: Path) -> None:
    assert load_plan(path, []).sweep.sweep.name == path.stem
    comment = "".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert " et al. 20" in comment


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_dry_run(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(path), "--dry-run"]) == 0
    out = capsys.readouterr().out
    assert path.stem in out
    assert "warning:" not in out


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_intervals_fit_into_each_other(path: Path) -> None:
    plan = load_plan(path, [])
    for number in range(min(len(plan.sampler), 24)):
        config = plan.space.config(plan.sampler[number])
        assert config.train.images % config.eval.every == 0
        assert config.eval.every % config.log.every == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_configuration_trains(path: Path, number: int) -> None:
    """An iteration at its own size, in a small batch."""
    plan = load_plan(path, [])
    raw = plan.space.config(plan.sampler[number]).model_dump(mode="json")
    raw["train"] |= {"batch_size": 2, "device": "cpu"}
    experiment = build(parse(raw))
    (tick,) = train(experiment, intervals={}, until=1)
    assert tick.iteration == 1
    assert all(torch.isfinite(p).all() for p in experiment.state.generator.parameters())
