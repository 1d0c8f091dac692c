"""Averages of any width: profiles and fit by themselves, and against averages computed during a real run."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ganscale.config import ConfigError
from ganscale.config.schedules import exponent
from ganscale.inference import averages
from ganscale.inference.load import load_generator
from ganscale.run.callback import Callback
from ganscale.sample import main
from ganscale.storage.averages import read
from tests.run.test_session import run
from tests.runs import MLP

KEPT = (0.05, 0.1)
RUN = (*MLP, "train.images=7200", "checkpoint.every=2400", "ema.profiles=[0.05, 0.1]", "ema.snapshot_every=360")
"""600 updates, 20 snapshots, the last of them in the checkpoint alone."""


class Direct(Callback):
    """Sums the generator's weights over all updates, as the wanted averages weigh them at the run's last update."""

    def __init__(self, widths: tuple[float, ...], updates: int) -> None:
        self._weights = averages.profiles(widths, [updates] * len(widths), 1, updates + 1)
        self.sums: list[dict[str, torch.Tensor]] = [{} for _ in widths]

    def on_start(self, session) -> None:
        self._state = session.experiment.state
        update = self._state.averages.update

        def watched(iteration: int) -> None:
            update(iteration)
            for sums, weights in zip(self.sums, self._weights, strict=True):
                for name, each in self._state.generator.named_parameters():
                    part = float(weights[iteration - 1]) * each.detach().double()
                    sums[name] = sums[name] + part if name in sums else part

        self._state.averages.update = watched


WIDTHS = (0.04, 0.07, 0.15, 0.1)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Direct]:
    folder, direct = tmp_path_factory.mktemp("averages"), Direct(WIDTHS, 600)
    run(folder, *RUN, callbacks=(direct,))
    return folder / "run", direct


@pytest.mark.parametrize("index", range(len(WIDTHS)), ids=map(str, WIDTHS))
def test_a_reconstructed_average_is_the_one_computed_during_training(index: int, trained: tuple[Path, Direct]) -> None:
    folder, direct = trained
    loaded = load_generator(folder, ema=WIDTHS[index])
    average = loaded.average
    assert average is not None
    assert (average.width, average.num_snapshots, average.kept) == (WIDTHS[index], 20, ("0.05", "0.1"))
    assert average.fit <= averages.MAX_FIT
    found = torch.cat([each.flatten() for each in loaded.network.parameters()])
    true = torch.cat([direct.sums[index][name].flatten() for name, _ in loaded.network.named_parameters()])
    assert (found - true).norm() / true.norm() < (1e-12 if WIDTHS[index] in KEPT else 1e-3)
    own = load_generator(folder)
    assert own.average is None
    apart = torch.cat([each.flatten() for each in own.network.parameters()])
    assert (apart - true).norm() / true.norm() > 5e-3, "all averages are alike: nothing is tested"


def test_at_an_earlier_checkpoint_later_snapshots_do_not_count(trained: tuple[Path, Direct]) -> None:
    average = load_generator(trained[0], checkpoint=2400, ema=0.07).average
    assert average is not None
    assert average.num_snapshots == 7


def test_sample_shows_the_fit_and_keeps_it_in_the_picture(
    trained: tuple[Path, Direct], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(trained[0]), "--ema", "0.07", "--seeds", "0-3", "--out", str(tmp_path)]) == 0
    line = "average of width 0.07 from 20 snapshots of 0.05, 0.1: fit"
    assert line in capsys.readouterr().out
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.info["average"].startswith(line)
    assert main([str(trained[0]), "--ema", "0.28", "--out", str(tmp_path)]) == 2


def test_other_averages_are_other_generators(trained: tuple[Path, Direct]) -> None:
    """By the hash that tells apart whose samples a folder holds."""
    hashes = {load_generator(trained[0], ema=ema).description.sha256 for ema in (None, 0.05, 0.07)}
    assert len(hashes) == 3


@pytest.mark.parametrize("width", [0.28, 0.01, -1.0, math.nan, 5.0])
def test_widths_out_of_reach_are_refused(width: float, trained: tuple[Path, Direct]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_generator(trained[0], ema=width)
    assert caught.value.key == "--ema"
    lowest, highest = (float(word) for word in caught.value.remedy.partition("use ")[2].split(";")[0].split(" to "))
    assert 0.01 < lowest < 0.05
    assert 0.1 < highest < 0.28


def test_runs_exports_and_damaged_snapshots_are_refused(trained: tuple[Path, Direct], tmp_path: Path) -> None:
    run(tmp_path, "train.images=240")
    assert main([str(trained[0]), "--export", str(tmp_path / "export"), "--formats", "safetensors"]) == 0
    shutil.copytree(trained[0], tmp_path / "damaged")
    snapshot = tmp_path / "damaged" / "averages" / f"{1800:012d}.safetensors"
    content = bytearray(snapshot.read_bytes())
    content[-3] ^= 1
    snapshot.write_bytes(content)
    for path, text in (("run", "kept no averages"), ("export", "one average"), ("damaged", "001800.safetensors")):
        with pytest.raises(ConfigError, match=text) as caught:
            load_generator(tmp_path / path, ema=0.07)
        assert caught.value.key == "--ema"


def test_profiles_are_those_of_the_running_averages() -> None:
    """Weights by a recursion over the updates, as training computes the averages; chunks do not matter."""
    for width, end in ((0.05, 40), (0.2, 7)):
        wanted = np.zeros(40)
        for k in range(1, end + 1):
            share = 1.0 - (1.0 - 1.0 / k) ** (exponent(width) + 1.0)
            wanted *= 1.0 - share
            wanted[k - 1] = share
        parts = [averages.profiles([width], [end], *ends)[0] for ends in ((1, 13), (13, 41))]
        np.testing.assert_allclose(np.concatenate(parts), wanted, rtol=1e-10, atol=1e-300)
        assert abs(wanted.sum() - 1.0) < 1e-12


@pytest.mark.parametrize("width", [0.005, 0.05, 0.1, 0.2, 0.28])
def test_the_width_is_the_profiles_relative_deviation(width: float) -> None:
    steps = (np.arange(400_000) + 0.5) / 400_000
    weights = steps ** exponent(width)
    weights /= weights.sum()
    mean = (weights * steps).sum()
    np.testing.assert_allclose(np.sqrt((weights * (steps - mean) ** 2).sum()), width, rtol=1e-4)


def test_coefficients_are_the_least_squares_and_add_up_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    widths, ends = [0.05, 0.1] * 5, [n for n in (20, 40, 60, 80, 100) for _ in range(2)]
    found, fits = averages.solve(widths, ends, [0.07, 0.1], 100)
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-9)
    np.testing.assert_allclose(found[1], np.eye(10)[9], atol=1e-6)
    rows = averages.profiles(widths, ends, 1, 101)
    target = averages.profiles([0.07], [100], 1, 101)[0]

    def distance(coefficients: np.ndarray) -> float:
        return float(np.linalg.norm(coefficients @ rows - target) / np.linalg.norm(target))

    np.testing.assert_allclose(distance(found[0]), fits[0], rtol=1e-5)
    for step in np.random.default_rng(0).normal(size=(50, 10)):
        assert distance(found[0] + 1e-3 * (step - step.mean())) > fits[0]
    monkeypatch.setattr(averages, "_CHUNK", 17)
    np.testing.assert_allclose(averages.solve(widths, ends, [0.07, 0.1], 100)[0], found, atol=1e-6)


def test_a_snapshot_is_what_the_checkpoint_holds(trained: tuple[Path, Direct]) -> None:
    from ganscale.storage.checkpoint import load

    _, state = load(trained[0] / "checkpoints" / f"{4800:012d}")
    assert 4800 % 360
    assert not (trained[0] / "averages" / f"{4800:012d}.safetensors").exists()
    _, state = load(trained[0] / "checkpoints" / f"{7200:012d}")
    snapshot = read(trained[0] / "averages", 7200)
    assert snapshot.iteration == state["iteration"] == 600
    for width, weights in state["averages"].items():
        for name, each in weights.items():
            assert torch.equal(snapshot.averages[width][name], each)
