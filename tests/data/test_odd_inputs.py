"""Each input of `odd_inputs` is read right, or refused before training by a message that names the file."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from ganscale.config import ConfigError, load
from ganscale.config.checks import check_files
from ganscale.data.source import Finite
from ganscale.training.build import build_source
from tests.data.odd_inputs import SIDE, Case
from tests.data.odd_table import TABLE, markdown

CASES = [case for cases in TABLE.values() for case in cases]


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text)
def test_an_odd_input_is_read_right_or_refused(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    (tmp_path / "data").mkdir()
    for name in case.without:
        for module in ("files", "pictures"):
            monkeypatch.setattr(f"ganscale.data.{module}.{name}", lambda: False)
    monkeypatch.setenv("GANSCALE_CACHE", str(tmp_path / "cache"))
    path = case.build(tmp_path / "data") or tmp_path / "data"
    data = ["data.name=folder", f"data.path={path}", f"data.resolution={SIDE}"]
    many = [] if "few" in case.outcome else ["augment.transforms=[flip]"]
    config = load(overrides=[*data, *many, *case.settings])
    if case.outcome.startswith("refused"):
        with pytest.raises(ConfigError) as caught:
            check_files(config)
        assert case.names in str(caught.value)
        assert caught.value.key.startswith(("data.", "model."))
        assert caught.value.remedy
        return
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_files(config)
    if "with a warning" in case.outcome:
        assert any(record.levelname == "WARNING" for record in caplog.records)
    source = build_source(config, torch.device("cpu"))
    assert isinstance(source, Finite)
    images, labels = source.gather(torch.arange(source.num_images))
    if case.first is not None:
        found = ((images[0] + 1.0) * 127.5).numpy()
        expected = np.asarray(case.first, dtype=np.float64)
        expected = np.broadcast_to(expected.reshape(-1, 1, 1) if expected.ndim == 1 else expected, found.shape)
        np.testing.assert_allclose(found, expected, rtol=0, atol=case.tolerance + 1e-4)
    classes = len(set(case.labels or ())) if case.num_classes is None else case.num_classes
    assert source.num_classes == classes
    assert labels.tolist() == list(case.labels or [0] * len(images))


def test_there_are_many_and_no_two_are_alike() -> None:
    assert len({case.text for case in CASES}) == len(CASES) >= 60


def test_the_page_has_them_all() -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    assert markdown() in page.read_text(encoding="utf-8"), "put the output of python -m tests.data.odd_table there"
