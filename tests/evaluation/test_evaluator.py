"""The evaluator: the same numbers on any number of replicas, floors, conditional generators, the cache, JSON."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ganscale.config import Config, load
from ganscale.config.checks import extractor_name, metric_names
from ganscale.data import mnist
from ganscale.data.gaussians import RING as RING_MIXTURE
from ganscale.evaluation.evaluator import Evaluator, store_evaluation
from ganscale.evaluation.metrics.result import Evaluation, Score, from_json
from ganscale.parallel.collectives import Replica
from ganscale.training.build import build, build_source
from tests.fleet import Fleet

CPU = torch.device("cpu")
RING = ("data.name=ring", "model.latent_dim=2")
ALL = "frechet,kid,inception_score,precision,recall,density,coverage,modes,reverse_kl,excess_kl,memorization"
DIGITS = (f"eval.metrics=[{ALL}]", "eval.num_samples=300")


def few_digits() -> None:
    """Let the data set have 600 digits to train on and 300 to test with, in this process."""
    whole = lru_cache(mnist.load_mnist)

    def some(split: str, resolution: int) -> tuple[Tensor, Tensor]:
        images, labels = whole(split, resolution)  # pyright: ignore[reportArgumentType]
        return images[: 600 if split == "train" else 300], labels[: 600 if split == "train" else 300]

    mnist.digits = some  # pyright: ignore


@pytest.fixture
def _few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist, "digits", mnist.digits)
    few_digits()


def evaluator(config: Config, *, cache: Path | None = None) -> Evaluator:
    return Evaluator(config, build_source(config, CPU), device=CPU, replica=Replica.current(), cache=cache)


def judge(config: Config) -> Evaluation:
    experiment = build(config)
    return evaluator(config).evaluate(experiment.state.ema.module, 64)


def on_a_rank(overrides: tuple[str, ...], cache: Path | None) -> dict[str, Score]:
    digits = mnist.digits
    few_digits()
    try:
        config = load(overrides=overrides)
        made = evaluator(config, cache=cache)
        return made.evaluate(build(config).state.ema.module, 64).scores
    finally:
        mnist.digits = digits


@pytest.fixture(scope="module")
def one(fleet: Fleet) -> Callable[[tuple[str, ...]], dict[str, Score]]:
    """The scores that one replica finds, computed once."""
    return lru_cache(lambda overrides: fleet.run(on_a_rank, 1, overrides, None)[0])


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [3, *(pytest.param(size, marks=pytest.mark.slow) for size in (2, 4))])
@pytest.mark.parametrize("overrides", [DIGITS, (*DIGITS, "data.name=stacked_mnist", "data.num_images=600"), RING])
def test_any_number_of_replicas_finds_the_same(fleet: Fleet, one, overrides: tuple[str, ...], world_size: int) -> None:
    alone = one(overrides)
    for scores in fleet.run(on_a_rank, world_size, overrides, None):
        assert scores.keys() == alone.keys()
        for name, score in scores.items():
            wanted = alone[name]
            assert (score.value, score.floor) == pytest.approx((wanted.value, wanted.floor), rel=1e-9, abs=1e-12), name
            assert (score.error is None) == (wanted.error is None)
            assert score.error is None or score.error == pytest.approx(wanted.error, rel=1e-9)


@pytest.mark.multiprocess
def test_replicas_without_a_chunk_change_nothing(fleet: Fleet) -> None:
    overrides = (*RING, "eval.num_samples=200")
    alone = fleet.run(on_a_rank, 1, overrides, None)[0]
    assert fleet.run(on_a_rank, 3, overrides, None) == [alone] * 3


@pytest.mark.multiprocess
def test_the_cache_of_one_run_serves_the_next_on_all_replicas(fleet: Fleet, tmp_path: Path) -> None:
    first = fleet.run(on_a_rank, 2, DIGITS, tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    stamps = [file.stat().st_mtime_ns for file in files]
    assert fleet.run(on_a_rank, 3, DIGITS, tmp_path)[2] == first[0]
    assert [file.stat().st_mtime_ns for file in files] == stamps
    files[0].write_bytes(b"damaged")
    assert fleet.run(on_a_rank, 2, DIGITS, tmp_path) == first
    assert files[0].stat().st_size > 1000, "it was made anew"


class Perfect(nn.Module):
    """Draws real points of the ring from z."""

    def __init__(self, modes: int = 8, spread: float = 1.0) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.modes, self.spread = modes, spread

    def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
        centers, sigma = RING_MIXTURE
        mode = (z[:, 0].double().erf().add(1).mul(self.modes / 2).long()).clamp(0, self.modes - 1)
        noise = torch.randn(len(z), 2, generator=torch.Generator().manual_seed(int(z[0, 0] * 1e6)))
        return centers[mode] + self.spread * sigma * noise


def test_points_are_scored_by_the_protocol() -> None:
    config = load(overrides=[*RING, "eval.num_samples=20000"])
    scores = evaluator(config).evaluate(Perfect(), 0).scores
    assert tuple(scores) == ("modes", "high_quality", "reverse_kl")
    ceiling = 1 - math.exp(-4.5)
    assert scores["high_quality"].value == pytest.approx(ceiling, abs=0.003)
    assert scores["high_quality"].floor == pytest.approx(ceiling, abs=0.003)
    assert scores["modes"] == Score(8.0, 8.0)
    worse = evaluator(config).evaluate(Perfect(modes=5, spread=3.0), 0).scores
    assert worse["modes"].value == 5
    assert worse["high_quality"].value == pytest.approx(1 - math.exp(-0.5), abs=0.01)
    assert worse["reverse_kl"].value == pytest.approx(math.log(8 / 5), abs=0.05)


class Classes(nn.Module):
    """Makes an image as bright as its class."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.labels: list[Tensor] = []

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        self.labels.append(labels)
        return (labels.float() / 4.5 - 1).view(-1, 1, 1, 1).expand(-1, 1, 28, 28)


@pytest.mark.usefixtures("_few_digits")
def test_conditional_generators_get_classes_as_frequent_as_in_the_data() -> None:
    config = load(
        overrides=[
            "model.generator.conditioning=concat",
            "model.discriminator.conditioning=projection",
            "eval.num_samples=550",
            "eval.extractor=pixels",
            "eval.metrics=frechet",
        ]
    )
    network = Classes()
    evaluator(config).evaluate(network, 0)
    given = torch.cat(network.labels).bincount(minlength=10)
    present = mnist.digits("train", 28)[1].bincount(minlength=10)
    assert given.sum() == 550
    assert (present - given).min() >= 0, "550 of the 600 examples' classes"


@pytest.mark.usefixtures("_few_digits")
def test_images_are_judged_as_bytes_and_out_of_range_is_clipped() -> None:
    config = load(overrides=["eval.num_samples=300", "eval.extractor=pixels", "eval.metrics=frechet"])

    class Gray(nn.Module):
        def __init__(self, level: float) -> None:
            super().__init__()
            self.level = nn.Parameter(torch.tensor(level))

        def forward(self, z: Tensor, labels: Tensor | None) -> Tensor:
            return self.level.expand(len(z), 1, 28, 28)

    def frechet(level: float) -> float:
        return evaluator(config).evaluate(Gray(level), 0).scores["frechet"].value

    assert frechet(7.0) == frechet(1.0)
    assert frechet(1.0 - 0.1 / 127.5) == frechet(1.0)
    assert frechet(1.0 - 0.9 / 127.5) == frechet(1.0 - 1.0 / 127.5)


@pytest.mark.usefixtures("_few_digits")
def test_diverged_generators_have_no_scores_but_floors() -> None:
    config = load(overrides=["eval.num_samples=300"])
    experiment = build(config)
    for parameter in experiment.state.ema.module.parameters():
        parameter.fill_(math.nan)
    found = evaluator(config).evaluate(experiment.state.ema.module, 0)
    assert all(math.isnan(score.value) and math.isfinite(score.floor) for score in found.scores.values())
    again = from_json(json.loads(json.dumps(found.as_json())))
    assert all(math.isnan(score.value) for score in again.scores.values())


@pytest.mark.usefixtures("_few_digits")
def test_excess_is_what_is_above_the_floor() -> None:
    found = judge(load(overrides=["eval.metrics=[reverse_kl, excess_kl]", "eval.num_samples=300"])).scores
    assert found["excess_kl"].value == found["reverse_kl"].value - found["reverse_kl"].floor
    assert found["excess_kl"].floor == 0


def test_a_folder_is_floored_by_its_own_halves(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    for index in range(60):
        Image.fromarray(noise.integers(100, 110, (8, 8, 3), np.uint8)).save(tmp_path / f"{index}.png")
    config = load(
        overrides=[
            "data.name=folder",
            f"data.path={tmp_path}",
            "data.resolution=8",
            "eval.extractor=pixels",
            "eval.num_samples=40",
        ]
    )
    found = judge(config).scores
    assert tuple(found) == ("frechet", "kid")
    assert 0 < found["frechet"].floor < found["frechet"].value


def test_names_follow_the_data_set() -> None:
    assert extractor_name(load()) == "mnist"
    assert extractor_name(load(overrides=["eval.extractor=pixels"])) == "pixels"
    folder = load(overrides=["data.name=folder", "data.path=x"])
    assert extractor_name(folder) == "inception"
    assert metric_names(folder) == ("frechet", "kid")
    assert metric_names(load(overrides=["eval.metrics=recall"])) == ("recall",)


EXAMPLE = Evaluation(128, "ring", 10, 0, "pixels", "", {"modes": Score(7.0, 8.0), "kid": Score(0.5, 0.1, 0.2)}, 1.5)


def test_scores_of_one_protocol_are_kept_together(tmp_path: Path) -> None:
    path = store_evaluation(EXAMPLE, tmp_path)
    other = replace(EXAMPLE, scores={"kid": Score(0.25, 0.1, None)})
    assert store_evaluation(other, tmp_path) == path
    kept = from_json(json.loads(path.read_text()))
    assert kept.scores == {"modes": Score(7.0, 8.0), "kid": Score(0.25, 0.1, None)}
    changed = replace(EXAMPLE, extractor_sha256="ab", scores={"recall": Score(1.0, 1.0)})
    for _ in range(2):
        kept = from_json(json.loads(store_evaluation(changed, tmp_path).read_text()))
        assert tuple(kept.scores) == ("recall",), "other weights: not the same protocol"
    assert from_json(json.loads(path.read_text())).scores == {"modes": Score(7.0, 8.0), "kid": Score(0.25, 0.1, None)}
    assert changed.line().startswith("10 samples through pixels (ab): recall 1")
    assert store_evaluation(replace(EXAMPLE, num_samples=11), tmp_path) != path


def test_rows_of_the_log_have_value_floor_and_error() -> None:
    assert EXAMPLE.numbers() == {
        "modes": 7.0,
        "modes_floor": 8.0,
        "kid": 0.5,
        "kid_floor": 0.1,
        "kid_error": 0.2,
    }
    assert "modes 7 (floor 8), kid 0.5 (floor 0.1)" in EXAMPLE.line()


@pytest.mark.parametrize("raw", [{}, [], {"scores": {"kid": 3}}, {"scores": {}, "more": 1}])
def test_other_json_is_no_evaluation(raw: object) -> None:
    with pytest.raises(ValueError, match="not an evaluation"):
        from_json(raw)  # pyright: ignore[reportArgumentType]
