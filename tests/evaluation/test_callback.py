"""Missing weights: refused at the start or replaced by rule, with what to do, and never the end of a run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import Config, ConfigError, load
from ganscale.config.checks import check_files
from ganscale.data import ImageSource
from ganscale.evaluate import main as evaluate
from ganscale.evaluation.callback import EvaluationCallback
from ganscale.evaluation.evaluator import missing_extractor
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.parallel.replica import Replica
from ganscale.train import main as train
from ganscale.training.build import build
from ganscale.training.loop import train as ticks
from ganscale.tune import main as tune
from tests.evaluation.metrics.test_vit import dino
from tests.fleet import Fleet
from tests.runs import MLP

RUN = (*MLP, "data.name=folder", "data.path=x", "data.resolution=16", "eval.num_samples=40", "eval.every=64")
SHORT = (*RUN, "train.images=64", "train.batch_size=16", "log.every=64")


def evaluated(config: Config) -> tuple[Evaluation | None, list[str]]:
    """The evaluation of a run of 64 images, and what was logged."""
    pictures = torch.randint(0, 256, (100, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    source = ImageSource(pictures, torch.zeros(100, dtype=torch.int64), 0, seed=0, device=torch.device("cpu"))
    experiment, lines = build(config, source=source, replica=Replica.current()), list[str]()
    callback = EvaluationCallback(experiment, lines.append)
    (found,) = (callback(tick) for tick in ticks(experiment, intervals={"eval": 64}, until=64) if tick.is_due("eval"))
    return found, lines


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANSCALE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("overrides", "metrics"),
    [
        ([], ["swd"]),
        (["checkpoint.best_metric=frechet"], ["swd"]),
        (["eval.metrics=memorization"], ["memorization"]),
        (["eval.metrics=[frechet, memorization]"], None),
        (["eval.extractor=dinov2"], None),
    ],
)
def test_a_run_without_weights_is_evaluated_by_what_needs_none(
    tmp_path: Path, overrides: list[str], metrics: list[str] | None
) -> None:
    found, lines = evaluated(load(overrides=[*SHORT, f"eval.weights={tmp_path}/none.pth", *overrides]))
    assert f"{tmp_path}/none.pth" in lines[0]
    assert "eval.extractor=patches" in lines[0]
    assert ("checkpoint.best_metric" in lines[0]) == ("checkpoint.best_metric=frechet" in overrides)
    assert (list(found.scores) if found else None) == metrics
    if found and "swd" in found.scores:
        assert found.extractor == "patches"
        assert found.scores["swd"].value > found.scores["swd"].floor > 0
        assert found.scores["swd"].error


def test_weights_that_go_bad_during_a_run_end_its_evaluations_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "w.pth"
    torch.save(dino(), file)
    config = load(overrides=[*SHORT, "eval.extractor=dinov2", f"eval.weights={file}", "eval.metrics=frechet"])
    found, lines = evaluated(config)
    assert found
    assert (found.extractor, len(found.extractor_sha256)) == ("dinov2", 64)
    assert f"through dinov2 ({found.extractor_sha256[:12]})" in found.line()
    make = EvaluationCallback._make

    def removed(self: EvaluationCallback) -> None:
        file.write_bytes(b"damaged")
        make(self)

    monkeypatch.setattr(EvaluationCallback, "_make", removed)
    found, lines = evaluated(config)
    assert found is None
    assert "eval.weights" in lines[-1]
    assert "not evaluated" in lines[-1]


def test_other_weights_than_inceptions_leave_a_run_its_patches(tmp_path: Path) -> None:
    torch.save(dino(), tmp_path / "w.pth")
    found, lines = evaluated(load(overrides=[*SHORT, f"eval.weights={tmp_path}/w.pth"]))
    assert found
    assert found.extractor == "patches"
    assert "eval.extractor=dinov2" in lines[0]


def test_no_error_of_a_worker_keeps_it_from_agreeing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: EvaluationCallback) -> None:
        raise RuntimeError("a bad file")

    monkeypatch.setattr(EvaluationCallback, "_make", broken)
    found, lines = evaluated(load(overrides=[*SHORT, "eval.extractor=patches"]))
    assert found is None
    assert "not evaluated: RuntimeError: a bad file" in lines[-1]


def on_a_rank(folder: str) -> tuple[bool, list[str]]:
    weights = f"{folder}/{Replica.current().rank}.pth"
    config = load(overrides=[*SHORT, "eval.extractor=dinov2", f"eval.weights={weights}", "eval.metrics=frechet"])
    found, lines = evaluated(config)
    return found is not None, lines


@pytest.mark.multiprocess
def test_workers_agree_when_one_has_no_weights(fleet: Fleet, tmp_path: Path) -> None:
    torch.save(dino(), tmp_path / "0.pth")
    first, second = fleet.run(on_a_rank, 2, str(tmp_path))
    assert not first[0]
    assert not second[0]
    assert "another worker" in first[1][0]
    assert "1.pth" in second[1][0]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(30):
        pixels = np.random.default_rng(index).integers(0, 255, (16, 16, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def test_commands_refuse_what_they_cannot_score_before_they_start(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*SHORT, f"data.path={pictures}", "run.name=one", "wandb.mode=disabled", "data.num_workers=0"]
    words += [f"eval.weights={tmp_path}/none.pth"]
    assert train([*words, "eval.extractor=dinov2", "--launcher", "local"]) == 2
    assert "remedy: name a file of DINOv2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    assert train([*words, "eval.extractor=dinov2", "--dry-run"]) == 0
    assert "# eval.extractor = dinov2: no weights" in capsys.readouterr().out
    assert train([*words, "--dry-run"]) == 0
    assert "# samples are evaluated by swd" in capsys.readouterr().out
    assert train([*words, "--launcher", "local"]) == 0
    capsys.readouterr()
    assert evaluate(["runs/one", "--extractor", "inception"]) == 2
    assert "eval.extractor=patches" in capsys.readouterr().err
    assert evaluate(["runs/one", "--extractor", "patches", "--metrics", "swd,memorization"]) == 0
    assert "memorization" in capsys.readouterr().out
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("sweep: {name: s, num_configs: 2, seeds: 3}\nspace: {optim.lr_g: {choice: [1e-4, 2e-4]}}\n")
    assert tune([str(sweep), *(word for word in words if not word.startswith("run.name"))]) == 2
    assert "eval.extractor = inception" in capsys.readouterr().err
    assert tune([str(sweep), "--dry-run", *(word for word in words if not word.startswith("run.name"))]) == 0
    assert "eval.extractor = inception" in capsys.readouterr().out


def test_missing_weights_are_named_with_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(overrides=["data.name=folder", "data.path=x", f"eval.weights={tmp_path}/none.pth"])
    assert missing_extractor(load()) is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "ganscale[inception]" in (missing_extractor(config) or "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert f"{tmp_path}/none.pth" in (missing_extractor(config) or "")
    torch.save({"Conv2d_1a_3x3.conv.weight": torch.zeros(1)}, tmp_path / "none.pth")
    assert missing_extractor(config) is None


LARGE = ("data.resolution=80", "eval.extractor=pixels")


@pytest.mark.parametrize("overrides", [("data.channels=3", "data.resolution=64", "eval.extractor=pixels"), LARGE])
def test_pictures_too_large_for_pixels_are_refused_before_the_start(pictures: Path, overrides: tuple[str, ...]) -> None:
    config = load(overrides=[*RUN, f"data.path={pictures}", *overrides])
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    assert (caught.value.key, caught.value.value) == ("eval.extractor", "pixels")
    assert "use patches" in caught.value.remedy
    never = load(overrides=[*RUN, f"data.path={pictures}", *overrides, "eval.every=0"])
    check_files(never)
    with pytest.raises(ConfigError, match="numbers are too large"):
        check_files(never, scores=True)


@pytest.mark.parametrize("resolution", [16, 64])
def test_pictures_that_may_be_gray_are_small_enough_for_pixels(pictures: Path, resolution: int) -> None:
    config = load(overrides=[*RUN, f"data.path={pictures}", "eval.extractor=pixels", f"data.resolution={resolution}"])
    check_files(config)
    check_files(load(overrides=["data.name=grid", "data.resolution=1024"]), scores=True)


def test_an_error_names_the_weights_only_where_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise ValueError("is damaged")

    monkeypatch.setattr("ganscale.evaluation.callback.Evaluator", broken)
    torch.save(dino(), tmp_path / "w.pth")
    words = [*SHORT, "eval.metrics=memorization", f"eval.weights={tmp_path}/w.pth"]
    for name, named in (("patches", "eval.extractor = patches: is"), ("dinov2", "w.pth: is damaged; repair")):
        found, lines = evaluated(load(overrides=[*words, f"eval.extractor={name}"]))
        assert found is None
        assert named in lines[-1]


@pytest.mark.parametrize("every", [0, 64, 1_000_000_000])
def test_a_run_that_is_never_evaluated_needs_no_weights(every: int) -> None:
    config = load(overrides=["eval.extractor=clip", "eval.metrics=frechet", f"eval.every={every}"])
    if every != 64:
        check_files(config)
        return
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    assert caught.value.key == "eval.extractor"
