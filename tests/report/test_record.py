"""What is read from a run's folder, and what is refused."""

from pathlib import Path

import pytest

from ganscale.config import ConfigError
from ganscale.report.record import read_run, with_distinct_names
from tests.report import folders


def test_everything_in_a_folder_is_read_by_images(tmp_path: Path) -> None:
    path = folders.run(
        tmp_path / "try1",
        "optim.lr_g=1e-3",
        rows=[{"images": 20, "loss_d": 0.5}, {"images": 10, "loss_d": 1.0}],
        evaluations=[folders.evaluation(20, 5.0), folders.evaluation(10, 9.0)],
        pictures=[30, 0],
        events=[{"images": 20, "kind": "collapse"}],
    )
    (path / "samples" / "notes.png").write_bytes(b"")
    run = read_run(path)
    assert (run.name, run.images) == ("try1", 30)
    assert [row["images"] for row in run.rows] == [10, 20]
    assert [e.images for e in run.evaluations] == [10, 20]
    assert [(images, file.name) for images, file in run.pictures] == [(0, "00000000.png"), (30, "00000030.png")]
    assert run.events == [{"images": 20, "kind": "collapse"}]
    assert run.config["optim"]["lr_g"] == 1e-3


def test_damaged_parts_are_left_out(tmp_path: Path) -> None:
    path = folders.run(tmp_path / "try1", events=[{"images": 20}])
    (path / "config.yaml").write_text("a: [")
    for name in ("metrics.jsonl", "health.jsonl"):
        with (path / name).open("a") as file:
            file.write('[1]\n{"images": 3')
    run = read_run(path)
    assert run.config == {}
    assert len(run.rows) == 2
    assert run.events == [{"images": 20}]


def test_an_old_config_is_filled_and_a_strange_one_taken_as_it_is(tmp_path: Path) -> None:
    path = folders.run(tmp_path / "try1")
    (path / "config.yaml").write_text("train: {images: 5000}")
    assert read_run(path).config["optim"]["lr_g"] == 2e-4
    (path / "config.yaml").write_text("train: {images: 5000}\nnews: {x: 1}")
    assert read_run(path).config == {"train": {"images": 5000}, "news": {"x": 1}}


@pytest.mark.parametrize(("name", "remedy"), [("try2", "try1"), ("file", "try1"), ("empty", "runs/"), ("", "try1")])
def test_what_is_no_run_is_refused_with_a_remedy(tmp_path: Path, name: str, remedy: str) -> None:
    folders.run(tmp_path / "try1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        read_run(tmp_path / name)
    assert caught.value.key == "path"
    assert remedy in str(caught.value)


def test_runs_of_one_name_are_told_apart_and_one_given_twice_is_one(tmp_path: Path) -> None:
    paths = [folders.run(tmp_path / place) for place in ("a/x/try", "b/x/try", "b/x/other")]
    runs = with_distinct_names([read_run(path) for path in (*paths, paths[0])])
    assert [run.name for run in runs] == ["a/x/try", "b/x/try", "other"]
    assert [run.path for run in runs] == paths
