"""Truncation against precision and recall."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.inference.load import load_generator
from ganscale.inference.truncation import Truncated, parse_truncations, save_truncations
from ganscale.sample import main
from tests.runs import MLP, RING, TRANSFORMER, saved

SMALL = ("data.name=stacked_mnist", "data.num_images=60")


def test_scores_are_those_of_the_truncated_generator(tmp_path: Path) -> None:
    saved(tmp_path / "run", *MLP, *SMALL)
    generator = load_generator(tmp_path / "run")
    z = generator.latents([3, 4])
    torch.testing.assert_close(Truncated(generator, 0.25)(z), generator(0.25 * z))
    files, scores = save_truncations(generator, tmp_path, [0, 1, 2], [0.0, 0.5, 1.0], num_samples=40)
    with Image.open(files[0]) as picture:
        rows = np.asarray(picture)
        assert rows.shape[0] == rows.shape[1], "three psi of three seeds"
    assert files[1].stat().st_size > 5_000
    stored = json.loads(files[2].read_text())["scores"]
    assert [row["truncation"] for row in stored] == [0.0, 0.5, 1.0]
    assert [row["scores"]["recall"]["value"] for row in stored] == [each.scores["recall"].value for each in scores]
    distances = [each.scores["frechet"].value for each in scores]
    assert len(set(distances)) == 3, "each psi is judged by itself"
    assert scores[0].scores["recall"].value == 0.0, "copies of one image cover nothing"


def test_what_is_refused(tmp_path: Path) -> None:
    for text in ("", "a", "0.5,1.5", "-0.1", "nan"):
        with pytest.raises(ConfigError) as caught:
            parse_truncations(text)
        assert (caught.value.key, caught.value.value) == ("--truncations", text)
    saved(tmp_path / "ring", *RING)
    with pytest.raises(ConfigError, match="points"):
        save_truncations(load_generator(tmp_path / "ring"), tmp_path, [0], [1.0])
    saved(tmp_path / "run", *MLP, *SMALL)
    generator = load_generator(tmp_path / "run")
    with pytest.raises(ConfigError) as caught:
        save_truncations(generator, tmp_path, range(4096), [0.5, 1.0])
    assert caught.value.key == "--seeds"
    generator.config = None
    with pytest.raises(ConfigError) as caught:
        save_truncations(generator, tmp_path, [0], [1.0])
    assert caught.value.key == "--truncations"


def test_a_transformer_cannot_be_truncated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path, *TRANSFORMER)
    for words in (["--truncation", "0.5"], ["--truncations", "0.5,1"]):
        assert main([str(tmp_path), *words]) == 2
        assert f"{words[0]} = {words[1]}: " in capsys.readouterr().err
    assert main([str(tmp_path), "--seeds", "0-3"]) == 0


def test_the_runs_own_extractor_may_lack_the_scores(tmp_path: Path) -> None:
    saved(tmp_path / "run", *MLP, *SMALL, "eval.extractor=patches", "eval.metrics=[swd]")
    with pytest.raises(ConfigError) as caught:
        save_truncations(load_generator(tmp_path / "run"), tmp_path, [0], [1.0], num_samples=40)
    assert caught.value.key.startswith("eval.")
