"""Sample grids inside the page: few enough, small enough, still pictures."""

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganscale.report import images
from ganscale.report.images import choose, sample_strips, shrunk
from ganscale.report.record import RunRecord, read_run
from ganscale.tracking.images import write_png
from tests.report import folders


@pytest.mark.parametrize(("count", "most"), [(1, 5), (5, 5), (7, 5), (1000, 50), (9, 1)])
def test_what_is_chosen_is_spread_from_first_to_last(count: int, most: int) -> None:
    chosen = choose(count, most)
    assert len(chosen) == len(set(chosen)) == min(count, most)
    assert chosen[-1] == count - 1
    if most > 1:
        assert chosen[0] == 0
        steps = np.diff(chosen)
        assert len(steps) == 0 or steps.max() - steps.min() <= 1


def decoded(source: str) -> Image.Image:
    kind, _, content = source.partition(",")
    assert kind == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_small_picture_stays_as_it_is(tmp_path: Path) -> None:
    run = read_run(folders.run(tmp_path / "a", pictures=[0, 200]))
    ((first, last),) = [strip["items"] for strip in sample_strips([run])]
    assert (first["images"], last["images"]) == (0, 200)
    np.testing.assert_array_equal(np.asarray(decoded(last["source"]).convert("RGB")), 200)


def test_noise_is_shrunk_to_its_share(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    write_png(tmp_path / "noise.png", noise)
    content, width, height = shrunk(tmp_path / "noise.png", 20_000)
    assert len(content) <= 20_000
    assert width == height < 600
    assert Image.open(io.BytesIO(content)).size == (width, height)


def test_many_runs_share_the_bytes_and_broken_files_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_IN_ALL", 8)
    runs = [read_run(folders.run(tmp_path / name, pictures=range(0, 60, 10))) for name in ("a", "b")]
    runs.insert(1, RunRecord("none", tmp_path))
    (tmp_path / "b" / "samples" / "00000000.png").write_bytes(b"no picture")
    strips = sample_strips(runs)
    assert [strip["run"] for strip in strips] == [0, 2]
    assert [[item["images"] for item in strip["items"]] for strip in strips] == [[0, 20, 30, 50], [20, 30, 50]]


def test_a_decompression_bomb_among_the_plots_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, side in (("small", 8), ("large", 64)):
        write_png(tmp_path / f"{name}.png", np.zeros((side, side, 3), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert list(images.plots(tmp_path)) == ["small"]
