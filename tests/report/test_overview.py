"""The overview: facts in words, and what several runs have in common."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ganscale.report.images import sample_note
from ganscale.report.overview import duration, facts, overview
from ganscale.report.page import render
from ganscale.report.record import RunRecord, read_run
from ganscale.storage.failures import Failure, append_failure
from tests.report import folders
from tests.report.folders import Page

LOG = "2026-11-29 10:29:03 building mlp\nTraceback without a time\n2026-11-30 01:02:03 done\n"
ROWS = [{"images": 100, "images_per_second": 50.0}, {"images": 300, "images_per_second": 4.0}, {"images": 320}]


def written(folder: Path, *overrides: str) -> RunRecord:
    path = folders.run(folder, *overrides, rows=ROWS, evaluations=[folders.evaluation(300, 5.25)])
    (path / "train.log").write_text(LOG)
    cluster = {"workers": 4, "nodes": 2, "device": "cpu", "cpus": 8}
    (path / "environment.json").write_text(json.dumps({"cluster": cluster}))
    return read_run(path)


def test_facts_have_units_and_names(tmp_path: Path) -> None:
    assert facts(written(tmp_path / "a", "train.images=640", "model.latent_dim=8")) == {
        "score": "Fréchet distance 5.25, floor 1.5",
        "progress": "320 of 640 images (50%)",
        "training time": "52 s",
        "health": "no verdicts",
        "speed": "27 images/s",
        "trained": "2026-11-29 10:29 to 2026-11-30 01:02",
        "device": "CPU, 8 cores",
        "workers": "4 on 2 nodes",
        "data": "MNIST at 28 × 28",
        "generator": "fully connected (MLP)",
        "discriminator": "fully connected (MLP)",
        "loss": "non-saturating",
        "batch": "64 images",
        "seed": "0",
    }


def test_a_folder_with_nothing_but_a_name_is_shown() -> None:
    bare = facts(RunRecord("bare", Path("bare")))
    assert bare == {"score": "not evaluated", "progress": "0 images", "training time": "–", "health": "no verdicts"}


def test_the_gpu_and_a_single_worker_are_named() -> None:
    cluster = {"workers": 1, "device": "cuda", "gpu": "NVIDIA H200"}
    found = facts(RunRecord("a", Path("a"), environment={"cluster": cluster}))
    assert (found["device"], found["workers"]) == ("NVIDIA H200", "1")


def test_several_runs_show_what_differs_and_what_they_share(tmp_path: Path) -> None:
    runs = [written(tmp_path / "a"), written(tmp_path / "b", "run.seed=3", "data.name=ring")]
    found = overview(runs)
    assert found.columns == ["score", "progress", "training time", "health", "data", "seed"]
    assert found.rows[1] == ("b", [*found.rows[0][1][:4], "Ring of 8 Gaussians", "3"])
    assert ("workers", "4 on 2 nodes") in found.common
    assert overview(runs[:1]).rows == []
    page = Page(render(runs))
    assert page.row("b")[-2:] == ["Ring of 8 Gaussians", "3"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (0.0314, "0.031 s"), (42.4, "42 s"), (200.0, "3 min 20 s"), (18_725.0, "5 h 12 min")],
)
def test_time_spans_are_read_at_a_glance(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_samples_say_seed_average_and_classes(tmp_path: Path) -> None:
    classes = ("model.generator.conditioning=norm", "model.generator.norm=batch")
    run = written(tmp_path / "a", "run.seed=7", *classes, "model.discriminator.conditioning=projection")
    assert sample_note(run) == "seed 7, moving average of G (half-life 30,000 images), classes 0 to 9 in turn"
    assert sample_note(replace(run, is_trial=True)) == "first seed, moving average of G"
    assert sample_note(RunRecord("bare", Path("bare"))) == "moving average of G"


def test_health_is_told_in_words(tmp_path: Path) -> None:
    runs = [written(tmp_path / "a"), written(tmp_path / "b")]
    text = render(runs)
    assert "No verdicts: no detector found anything wrong in any run." in text
    assert "No attempt failed." in text
    event = {"images": 10, "kind": "collapse", "text": "stuck"}
    failure = Failure(0.0, "worker 1 <died>", 4, reached=300, resumed=100, seconds_lost=75.0)
    append_failure(tmp_path / "b" / "failures.jsonl", failure)
    text = render([runs[0], replace(read_run(tmp_path / "b"), events=[event])])
    assert "No verdicts in a." in text
    rows = [row for row in Page(text).rows if row[0] == "b"]
    assert ["b", "10", "collapse", "stuck"] in rows
    assert ["b", "300", "100", "1 min 15 s", "4", "worker 1 <died>"] in rows
    assert any("1 verdict, 1 failed attempt" in row for row in rows)
    assert "Goodput" not in render(runs[:1])
    kept = read_run(tmp_path / "b").seconds
    assert kept
    assert f"Goodput of b: {kept / (kept + 75.0):.0%} of the time" in text
    assert "cost 1 min 15 s" in " ".join(text.split())
