"""What is checked before a run on pictures starts, beside the inputs of test_odd_inputs.py."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganscale.config import Config, ConfigError, load
from ganscale.config.checks import check_files
from ganscale.data import check


def pictures(folder: Path, count: int = 20) -> Config:
    for index in range(count):
        Image.new("RGB", (8, 8), (index, 0, 0)).save(folder / f"{index:03d}.png")
    return load(overrides=["data.name=folder", f"data.path={folder}", "data.resolution=8"])


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def test_a_sample_of_many_pictures_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pictures(tmp_path)
    decoded = []
    monkeypatch.setattr(check, "decode", lambda content, *_: decoded.append(content) or np.zeros(1))
    check_files(config)
    assert len(decoded) == 20
    decoded.clear()
    monkeypatch.setattr(check, "MAX_DECODED", 5)
    check_files(config)
    assert sorted(decoded) == sorted((tmp_path / f"{index:03d}.png").read_bytes() for index in (0, 4, 8, 12, 16))
    decoded.clear()
    monkeypatch.setattr(check, "MAX_DECODED_PIXELS", 3 * 64)
    check_files(config)
    assert len(decoded) == 3


def test_all_damaged_pictures_are_counted_and_the_first_named(tmp_path: Path) -> None:
    config = pictures(tmp_path)
    for index in range(3, 13):
        truncate(tmp_path / f"{index:03d}.png")
    with pytest.raises(ConfigError) as caught:
        check_files(config)
    text = str(caught.value)
    assert [f"{index:03d}.png" in text for index in (2, 3, 7, 8)] == [False, True, True, False]
    assert "and 5 more" in text


def test_one_process_of_a_machine_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = pictures(tmp_path)
    truncate(tmp_path / "005.png")
    monkeypatch.setenv("LOCAL_RANK", "1")
    check_files(config)
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError):
        check_files(config)


def test_dark_pictures_of_16_bits_are_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = pictures(tmp_path, 0)
    for index in range(3):
        Image.fromarray(np.full((8, 8), 1000 + index, np.uint16)).save(tmp_path / f"{index}.png")
    check_files(config)
    assert any("data.range" in record.getMessage() for record in caplog.records)
    caplog.clear()
    check_files(load(config.model_dump(mode="json"), ["data.range=[0, 4095]"]))
    assert not any("data.range" in record.getMessage() for record in caplog.records)
