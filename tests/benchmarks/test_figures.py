"""The README's figures: what is recorded is what their captions promise, and they can be drawn."""

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.figures import __main__ as command
from benchmarks.figures import draw, measure, usual
from ganscale.config import load
from tests.fleet import Fleet

WORLDS = json.loads((command.HERE / "worlds.json").read_text(encoding="utf-8"))
FAULTS = json.loads((command.HERE / "faults.json").read_text(encoding="utf-8"))


def test_five_numbers_of_workers_have_one_curve_and_one_state() -> None:
    assert list(WORLDS["ganscale"]) == list(WORLDS["usual"]) == [str(workers) for workers in measure.WORLDS]
    assert len({str(curve) for curve in WORLDS["ganscale"].values()}) == 1
    assert len(set(WORLDS["sha256"].values())) == 1


def test_the_usual_loop_has_five() -> None:
    assert len({curve[-1][1] for curve in WORLDS["usual"].values()}) == len(measure.WORLDS)


def test_the_disturbed_run_is_the_undisturbed_one() -> None:
    pairs = zip(FAULTS["disturbed"], FAULTS["undisturbed"], strict=True)
    stopped = FAULTS["attempts"][2][0]  # between two rows: the next one is a mean over the iterations since
    assert [one[0] for one, other in pairs if one != other] == [next(x for x, _ in FAULTS["disturbed"] if x > stopped)]
    assert len(set(FAULTS["sha256"].values())) == 1
    begins, workers = zip(*FAULTS["attempts"], strict=True)
    assert workers == (2, 1, 3)
    assert 0 == begins[0] < begins[1] <= FAULTS["killed"] < begins[2]


def test_the_figures_are_drawn(tmp_path: Path) -> None:
    assert command.main(["--out", str(tmp_path)]) == 0
    kept = sorted(command.DOCS.glob("images/figure_*.png"))
    assert [path.name for path in kept] == sorted(path.name for path in tmp_path.iterdir())
    for path in kept:
        old, new = Image.open(path), Image.open(tmp_path / path.name)
        assert (old.size, old.info[draw.RECORD]) == (new.size, new.info[draw.RECORD]), "python -m benchmarks.figures"


def test_a_figure_tells_what_it_was_drawn_from() -> None:
    page = (command.DOCS / "stability.md").read_text(encoding="utf-8")
    records = {"worlds": WORLDS, "faults": FAULTS, "success": draw.success_table(page)}
    for name, record in records.items():
        assert Image.open(command.DOCS / f"images/figure_{name}.png").info[draw.RECORD] == draw.digest(record)
    assert draw.digest(WORLDS | {"sha256": {}}) != draw.digest(WORLDS)


def test_attempts_are_read_from_the_log() -> None:
    log = "mlp on mnist for 2 workers on cpu\n...\nmlp on mnist for 1 worker on cpu\nresuming at 12,800 images\n"
    assert measure.attempts(log) == [[0, 2], [12_800, 1]]


def test_the_table_of_successes_is_the_pages_first() -> None:
    page = (command.DOCS / "stability.md").read_text(encoding="utf-8")
    table = draw.success_table(page)
    assert table[0] == ("RpGAN+R1+R2", 16, 24, 0.34, 0.89)
    assert [name for name, *_ in table] == ["RpGAN+R1+R2", "WGAN-GP", "GAN", "WGAN"]
    with pytest.raises(ValueError, match="no table"):
        draw.success_table("")


def usual_curve() -> list[list[float]]:
    settings = [*measure.WORLD_RUN, "train.images=240", "log.every=120"]
    return usual.curve(load("mnist_mlp", settings))


@pytest.mark.multiprocess
def test_the_usual_loop_depends_on_the_number_of_workers(fleet: Fleet) -> None:
    pairs = [fleet.run(usual_curve, workers)[0] for workers in (2, 3)]
    assert [[images for images, _ in pair] for pair in pairs] == [[120, 240], [120, 240]]
    assert pairs[0] != pairs[1]
