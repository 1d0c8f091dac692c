"""TensorBoard's files, read back by TensorBoard: what arrives, one run over all lives, training that it cannot stop."""

import io
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ganscale.config import ConfigError, load
from ganscale.config import checks as module
from ganscale.config.checks import check_files
from ganscale.storage.run_dir import RunDir
from ganscale.tracking import DetailedTracker, Histogram
from ganscale.tracking.tensorboard import TensorBoardTracker

installed = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
PICTURE = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)


def tracker(path: Path, images: int = 0) -> tuple[TensorBoardTracker, list[str]]:
    said: list[str] = []
    return TensorBoardTracker(RunDir(path), said.append, images=images), said


def events(path: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    return EventAccumulator(str(path / "tensorboard"), size_guidance={"histograms": 0, "images": 0}).Reload()


@installed
def test_numbers_pictures_and_histograms_arrive(tmp_path: Path) -> None:
    board, said = tracker(tmp_path)
    assert isinstance(board, DetailedTracker)
    board.log(10, {"loss_d": 0.5, "loss_g": float("nan")})
    board.samples(10, PICTURE)
    board.details(10, {"real": PICTURE}, {"real_logits": Histogram([2, 0, 1], [-1.0, 0.0, 1.0, 2.0])})
    board.log(20, {"loss_d": 0.25})
    board.event(20, "collapse", "one mode")
    board.close(completed=True)
    board.log(30, {"loss_d": 0.125})
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss_d")] == [(10, 0.5), (20, 0.25)]
    assert np.isnan(found.Scalars("loss_g")[0].value)
    for name in ("samples", "real"):
        (picture,) = found.Images(name)
        assert picture.step == 10
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))), PICTURE)
    (event,) = found.Tensors("health/text_summary")
    assert (event.step, event.tensor_proto.string_val[0]) == (20, b"collapse: one mode")
    values = found.Histograms("real_logits")[0].histogram_value
    assert (list(values.bucket_limit), list(values.bucket)) == ([0.0, 1.0, 2.0], [2.0, 0.0, 1.0])
    assert (values.num, values.sum) == (3.0, 0.5)
    assert said == []


@installed
def test_a_second_life_repeats_no_step(tmp_path: Path) -> None:
    first, _ = tracker(tmp_path)
    for images in (10, 20, 30):
        first.log(images, {"loss_d": images})
        first.samples(images, PICTURE)
    first.close(completed=False)
    second, said = tracker(tmp_path, images=20)
    second.log(30, {"loss_d": 31.0})
    second.close(completed=True)
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("loss_d")] == [(10, 10.0), (20, 20.0), (30, 31.0)]
    assert [e.step for e in found.Images("samples")] == [10, 20]
    assert said == []


@installed
def test_a_file_that_a_kill_cut_short_is_gone_on_from(tmp_path: Path) -> None:
    first, _ = tracker(tmp_path)
    for images in (10, 20, 30):
        first.log(images, {"loss_d": images})
    first.close(completed=False)
    (file,) = (tmp_path / "tensorboard").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    second, said = tracker(tmp_path, images=10)
    second.log(20, {"loss_d": 21.0})
    second.close(completed=True)
    assert [(e.step, e.value) for e in events(tmp_path).Scalars("loss_d")] == [(10, 10.0), (20, 21.0)]
    assert said == []


@installed
def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "tensorboard").write_text("in the way")
    board, said = tracker(tmp_path)
    board.log(10, {"loss_d": 0.5})
    board.samples(10, PICTURE)
    board.close(completed=True)
    assert len(said) == 1
    assert "TensorBoard" in said[0]


def test_without_tensorboard_the_run_is_refused_and_a_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"log\.tensorboard = true: .*\n.*pip install 'ganscale\[tensorboard\]'"):
        check_files(load(overrides=["log.tensorboard=true"]))
    check_files(load())
    for name in [name for name in sys.modules if name.split(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    board, said = tracker(tmp_path)
    board.log(10, {"loss_d": 0.5})
    assert len(said) == 1
    assert "TensorBoard" in said[0]


@installed
def test_late_scores_stand_at_their_own_step(tmp_path: Path) -> None:
    board, said = tracker(tmp_path)
    for images in (10, 20, 30):
        board.log(images, {"loss_d": 0.5})
    board.late({10: {"frechet": 3.0}, 20: {"frechet": 2.0}}, at=40)
    board.log(40, {"loss_d": 0.25, "frechet": 1.0})
    board.close(completed=True)
    found = events(tmp_path)
    assert [(e.step, e.value) for e in found.Scalars("frechet")] == [(10, 3.0), (20, 2.0), (40, 1.0)]
    assert [e.step for e in found.Scalars("loss_d")] == [10, 20, 30, 40]
    assert said == []
