"""`python -m ganscale.sample`: every mode end to end, and everything that is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganscale.sample import main
from tests.processes import snapshot
from tests.runs import MLP, RING, saved

CONDITIONAL = (*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
BEST = "checkpoint.best_metric=frechet"
SMALL = ("data.name=stacked_mnist", "data.num_images=60")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("originals")
    saved(folder / "plain", *MLP, *SMALL, BEST, images=64, metrics={"frechet": 1.0})
    saved(folder / "plain", *MLP, *SMALL, BEST, images=128, metrics={"frechet": 2.0})
    saved(folder / "conditional", *CONDITIONAL)
    saved(folder / "ring", *RING)
    return folder


@pytest.fixture(autouse=True)
def runs(originals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with links to the runs, in which each test writes its own files."""
    for run in originals.iterdir():
        (tmp_path / run.name).mkdir()
        (tmp_path / run.name / "checkpoints").symlink_to(run / "checkpoints")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that works says."""
    code = main(arguments)
    output = capsys.readouterr()
    assert code == 0, output
    return output.out


def info(path: Path) -> dict[str, str]:
    with Image.open(path) as picture:
        return dict(picture.info)  # pyright: ignore[reportArgumentType, reportReturnType]


def test_a_grid_lands_in_the_runs_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = said(capsys, "plain")
    path = runs / "plain" / "generated" / "grid.png"
    assert str(path) in output
    assert "at 128 images" in output
    facts = info(path)
    assert (facts["seeds"], facts["truncation"], facts["checkpoint"]) == ("0-63", "1.0", "128")
    with Image.open(path) as picture:
        assert picture.size == (8 * 58 + 2, 8 * 58 + 2)


def test_options_of_a_grid(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "conditional", "--labels", "3,4", "--seeds", "5-9", "--truncation", "0.5", "--out", "here")
    with Image.open(runs / "here" / "grid.png") as picture:
        assert picture.size == (5 * 58 + 2, 2 * 58 + 2)
    facts = info(runs / "here" / "grid.png")
    assert (facts["seeds"], facts["labels"], facts["truncation"]) == ("5-9", "3,4", "0.5")
    said(capsys, "conditional", "--labels", "all", "--out", "here")
    with Image.open(runs / "here" / "grid.png") as picture:
        assert picture.size == (10 * 58 + 2, 10 * 58 + 2)


def test_truncations(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = said(capsys, "plain", "--truncations", "0.5,1", "--seeds", "0-3", "--judge", "30")
    assert "psi 0.5" in output
    assert info(runs / "plain" / "generated" / "truncation.png")["truncations"] == "0.5,1"


def test_pictures_are_projected(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "conditional", "--images", "singles", "--seeds", "3", "--labels", "4")
    output = said(
        capsys, "conditional", "--project", "singles/seed000003-class4.png", "--labels", "4", "--iterations", "9"
    )
    assert "seed000003-class4.png: 0." in output
    facts = info(runs / "conditional" / "generated" / "projection.png")
    assert (facts["space"], facts["label"], facts["iterations"]) == ("z", "4", "9")


@pytest.mark.parametrize(("choice", "images"), [("best", 64), ("64", 64), ("newest", 128)])
def test_the_checkpoint(choice: str, images: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"at {images} images" in said(capsys, "plain", "--checkpoint", choice)


def test_a_checkpoints_pictures_land_in_its_runs_folder(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, f"plain/checkpoints/{64:012d}")
    assert info(runs / "plain" / "generated" / "grid.png")["checkpoint"] == "64"


def test_points(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "ring")
    assert info(runs / "ring" / "generated" / "grid.png")["seeds"] == "0-2499"


def test_single_images(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "3 images  single" in said(capsys, "plain", "--images", "single", "--seeds", "1,8-9")
    assert sorted(path.stem for path in (runs / "single").iterdir()) == ["seed000001", "seed000008", "seed000009"]


def test_interpolation(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said(capsys, "conditional", "--interpolate", "--seeds", "1,2,3", "--steps", "4", "--labels", "7")
    folder = runs / "conditional" / "generated"
    facts = info(folder / "interpolation.png")
    assert (facts["seeds"], facts["label"]) == ("1,2,3", "7")
    assert (folder / "interpolation.gif").exists()
    with Image.open(folder / "interpolation.png") as picture:
        assert picture.size == (4 * 58 + 2, 2 * 58 + 2)


def test_nearest(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = said(capsys, "plain", "--nearest", "2", "--seeds", "0-4", "--out", "here")
    assert "compared with 60 training images" in output
    assert (runs / "here" / "nearest.png").exists()


def test_shards_are_made_and_found_again(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("plain", "--num-samples", "50", "--shard-size", "20", "--out", "many")
    output = said(capsys, *command)
    assert "0 of 3 shards are there" in output
    assert "made 50 samples" in output
    before = snapshot(runs / "many")
    assert np.load(runs / "many" / "shard-000002.npz")["arr_0"].shape == (10, 8, 8, 3)
    output = said(capsys, *command)
    assert "3 of 3 shards are there" in output
    assert "made 50" not in output
    assert snapshot(runs / "many") == before
    assert "truncation: 1.0 -> 0.5" in refused(capsys, *command, "--truncation", "0.5")
    assert "images: 128 -> 64" in refused(capsys, *command, "--checkpoint", "64")


def test_an_export_is_a_run_to_this_command(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = said(capsys, "plain", "--export", "out", "--formats", "safetensors,pt2")
    assert "generator.pt2  largest difference" in output
    said(capsys, "out", "--seeds", "0-8")
    said(capsys, "plain", "--seeds", "0-8")
    assert snapshot(runs / "out" / "generated") == snapshot(runs / "plain" / "generated")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a command that must be refused."""
    try:
        code: object = main(arguments)
    except SystemExit as stop:
        code = stop.code
    output = capsys.readouterr()
    assert code == 2, output
    assert "Traceback" not in output.out + output.err
    assert output.err.count("error: ") == 1
    assert len(output.err) < (3000 if "usage" in output.err else 700)
    return output.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: RUN"),
        (["nothing"], "path = nothing: no such folder"),
        (["."], "path = .: "),
        (["plain", "--checkpoint", "77"], "one of: 64, 128"),
        (["conditional", "--checkpoint", "best"], "--checkpoint = best: "),
        (["plain", "--seeds", "3-1"], "is no range of seeds"),
        (["plain", "--seeds", ""], "is no range of seeds"),
        (["plain", "--seeds", "0-5000"], "too many for a grid"),
        (["plain", "--labels", "all"], "takes no labels"),
        (["conditional", "--labels", "10"], "classes from 0 to 9"),
        (["plain", "--truncation", "2"], "--truncation = 2.0: out of range"),
        (["plain", "--truncation", "nan"], "out of range"),
        (["plain", "--truncation", "x"], "invalid float value"),
        (["ring", "--images", "here"], "2-D points are no images"),
        (["ring", "--interpolate"], "points and latents are no images"),
        (["ring", "--nearest", "3"], "no finite training set"),
        (["plain", "--nearest", "0"], "--nearest = 0: too small"),
        (["plain", "--nearest", "60"], "too many neighbors"),
        (["conditional", "--interpolate", "--labels", "1,2"], "takes one class"),
        (["plain", "--interpolate", "--steps", "1"], "--steps = 1: too small"),
        (["plain", "--steps", "5"], "add --interpolate, or leave it out"),
        (["plain", "--workers", "2"], "add --num-samples, or leave it out"),
        (["plain", "--formats", "pt2"], "add --export, or leave it out"),
        (["plain", "--num-samples", "0"], "--num-samples = 0: too small"),
        (["plain", "--num-samples", "9", "--seeds", "3"], "--seeds = 3: it belongs to another mode"),
        (["plain", "--num-samples", "9", "--workers", "0"], "--workers = 0: too small"),
        (["plain", "--num-samples", "9", "--out", "plain"], "holds other files"),
        (["plain", "--num-samples", "9", "--images", "here"], "not allowed with argument"),
        (["plain", "--export", "out", "--formats", "tflite"], "unknown format"),
        (["plain", "--device", "tpu"], "invalid choice"),
        (["plain", "--mix", "0-3"], "no mapping network"),
        (["plain", "--mix", "3-0"], "--mix = 3-0: "),
        (["plain", "--layers", "fine"], "--layers = fine: it belongs to another mode"),
        (["plain", "--truncations", "0.5,2"], "--truncations = 0.5,2: "),
        (["plain", "--truncations", "0.5", "--truncation", "0.7"], "--truncation = 0.7: it belongs to another mode"),
        (["plain", "--truncations", "1", "--judge", "3"], "--judge = 3: too small"),
        (["plain", "--project", "missing.png"], "--project = missing.png: "),
        (["plain", "--project", "missing.png", "--seeds", "1"], "--seeds = 1: it belongs to another mode"),
        (["plain", "--project", "missing.png", "--space", "w"], "--space = w: "),
        (["plain", "--export", "out", "--truncation", "0.5"], "--truncation = 0.5: it belongs to another mode"),
        (["conditional", "--export", "out", "--labels", "3"], "--labels = 3: it belongs to another mode"),
        (["plain", "--images", "here", "--out", "there"], "--out = there: it belongs to another mode"),
        (["plain", "--iterations", "5"], "--iterations = 5: it belongs to another mode"),
    ],
    ids=" ".join,
)
def test_what_is_refused(arguments: list[str], words: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(runs)
    assert words in refused(capsys, *arguments)
    assert snapshot(runs) == before


def test_storage_that_refuses_gives_exit_code_1(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "file").write_text("")
    assert main(["plain", "--out", "file/below"]) == 1
    assert capsys.readouterr().err.startswith("ganscale: sampling failed: ")
