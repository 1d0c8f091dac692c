"""The command `python -m ganscale.evaluate`, on runs of 2-D points."""

import json
from pathlib import Path

import pytest
from PIL import Image

from ganscale.evaluate import main
from ganscale.train import main as train
from tests.runs import MLP

RUN = (*MLP, "data.name=ring", "model.latent_dim=2", "train.batch_size=16", "wandb.mode=disabled", "log.every=160")
EVALUATED = ("train.images=480", "eval.every=160", "eval.num_samples=500", "checkpoint.every=240")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short runs, evaluated on the way."""
    folder = tmp_path_factory.mktemp("runs")
    for name, seed in (("one", 0), ("two", 1)):
        options = (f"run.dir={folder}", f"run.name={name}", f"run.seed={seed}", "--launcher", "local")
        assert train([*RUN, *EVALUATED, *options]) == 0
    return folder


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scores(file: Path) -> dict[str, dict[str, float]]:
    return json.loads(file.read_text())["scores"]


def test_training_evaluates_every_interval_into_log_and_folder(runs: Path) -> None:
    rows = [json.loads(line) for line in (runs / "one" / "metrics.jsonl").read_text().splitlines()]
    assert [row["images"] for row in rows if "high_quality" in row] == [160, 320, 480]
    assert 0.97 < rows[-1]["high_quality_floor"] <= 1
    files = sorted(path.name for path in (runs / "one" / "evaluations").iterdir())
    assert files[:3] == [f"{images:012d}-500-pixels-0.json" for images in (160, 320, 480)]
    assert "evaluation at 320 images, 500 samples through pixels: modes" in (runs / "one" / "train.log").read_text()


def test_the_command_finds_what_training_found(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = runs / "one" / "evaluations" / "000000000480-500-pixels-0.json"
    during = scores(kept)
    kept.unlink()
    assert main([str(runs / "one"), "--json", "out.json"]) == 0
    assert scores(kept) == during
    said = capsys.readouterr().out
    assert "one at 480 images" in said
    assert "high_quality" in said
    assert str(kept) in said
    [row] = json.loads((tmp_path / "out.json").read_text())
    assert row["run"] == "one"
    assert row["scores"] == during


def test_other_protocols_and_checkpoints(runs: Path) -> None:
    options = ("--metrics", "recall, precision", "--num-samples", "1_000", "--seed", "5", "--checkpoint", "all")
    assert main([str(runs / "two"), *options]) == 0
    for images in (240, 480):
        found = scores(runs / "two" / "evaluations" / f"{images:012d}-1000-pixels-5.json")
        assert list(found) == ["recall", "precision"]
        assert found["recall"]["floor"] > 0.9
    one = runs / "two" / "checkpoints" / "000000000240"
    assert main([str(one), "--num-samples", "300"]) == 0
    assert (runs / "two" / "evaluations" / "000000000240-300-pixels-0.json").exists()


def test_runs_are_compared(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--compare", str(runs / "one"), str(runs / "two")]) == 0
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()[1:5]] == ["run", "one", "two", "(floor)"]
    assert Image.open(tmp_path / "comparison.png").size[0] > 500


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{runs}/none"], "no such folder"),
        (["{runs}/one", "--metrics", "fid"], "eval.metrics"),
        (["{runs}/one", "--metrics", "frechet,inception_score"], "does not give inception_score"),
        (["{runs}/one", "--extractor", "mnist"], "use pixels"),
        (["{runs}/one", "--num-samples", "few"], "give a whole number"),
        (["{runs}/one", "--checkpoint", "77"], "use newest, best, or one of: "),
        (["{runs}/none", "--checkpoint", "all"], "name a run's folder"),
        (["--compare", "{runs}/none"], "run python -m ganscale.evaluate"),
        (["{runs}/one", "--device", "cuda"], "train.device"),
    ],
)
def test_what_cannot_work_ends_with_one_message(
    runs: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([argument.format(runs=runs) for argument in arguments]) == 2
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.startswith("ganscale: error: ")
    assert "remedy: " in said.err


def test_the_best_checkpoint_of_a_run_is_kept_and_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = (f"run.dir={tmp_path}", "run.name=best", "checkpoint.best_metric=high_quality", "checkpoint.keep=1")
    assert train([*RUN, *EVALUATED, *options, "--launcher", "local"]) == 0
    best = json.loads((tmp_path / "best" / "checkpoints" / "best.json").read_text())
    rows = [json.loads(line) for line in (tmp_path / "best" / "metrics.jsonl").read_text().splitlines()]
    assert best["value"] == max(row["high_quality"] for row in rows if "high_quality" in row)
    capsys.readouterr()
    assert main([str(tmp_path / "best"), "--checkpoint", "best"]) == 0
    assert f"best at {best['images']:,} images" in capsys.readouterr().out
