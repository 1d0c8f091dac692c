"""The throughput benchmark: arithmetic, updates of the baselines, and the command, at tiny sizes."""

import copy
import itertools
import json
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

from benchmarks.speed import measure
from benchmarks.speed.__main__ import main
from benchmarks.speed.baselines import BASELINES, Minimal, Textbook, check
from benchmarks.speed.command import PRESETS
from benchmarks.speed.measure import Contender, Ganscale, Spread, summarize
from benchmarks.speed.parts import Pictures, networks
from benchmarks.speed.tracking import Stopwatch, cost_of, cost_table
from benchmarks.speed.with_lightning import Lightning
from ganscale.config import Config, ConfigError, load
from ganscale.models.layers import BatchNorm
from ganscale.training.build import build

SMALL = ["data.resolution=16", "train.batch_size=8", "model.latent_dim=5", "train.device=cpu"]
MLP = [*SMALL, "model.generator.width=4", "model.discriminator.width=4"]
DCGAN = [
    *SMALL,
    *(f"model.{side}.{setting}" for side in ("generator", "discriminator") for setting in ("name=dcgan", "width=2")),
]
STACKED = [*DCGAN, "data.name=stacked_mnist", "data.num_images=40"]


def small(overrides: list[str]) -> Config:
    return load(None, overrides)


def parameters(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def test_spread_of_known_values() -> None:
    assert Spread.of([5.0, 1.0, 2.0, 4.0, 3.0]) == Spread(median=3.0, p10=1.4, p90=4.6, min=1.0, max=5.0)
    assert Spread.of([7.0]) == Spread(7.0, 7.0, 7.0, 7.0, 7.0)


def test_ratios_are_paired_within_a_round() -> None:
    """The second round is ten times slower; the ratio of each round is still 2."""
    first, second = summarize({"ganscale": [0.5, 5.0], "other": [1.0, 10.0]}, {"ganscale": 10, "other": 10})
    assert first.ratio is None
    assert second.ratio == Spread(2.0, 2.0, 2.0, 2.0, 2.0)
    assert first.images_per_second == pytest.approx((20.0 + 2.0) / 2)
    assert second.milliseconds.max == pytest.approx(10_000.0)


def test_ratio_counts_images_not_iterations() -> None:
    _, other = summarize({"ganscale": [1.0], "other": [1.0]}, {"ganscale": 30, "other": 10})
    assert other.ratio is not None
    assert other.ratio.median == pytest.approx(3.0)


def test_blocks_alternate_and_the_first_round_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, int]] = []

    class Fake(Contender):
        def __init__(self, name: str) -> None:
            self.name, self.batch_size, self.device = name, 1, torch.device("cpu")

        def run(self, iterations: int) -> None:
            calls.append((self.name, iterations))

    lengths = [50.0, 50.0, 1.0, 1.0, 1.0, 1.0]
    readings = itertools.chain.from_iterable((0.0, length) for length in lengths)
    monkeypatch.setitem(measure.CLOCKS, "wall", lambda: next(readings))
    results = measure.measure([Fake("a"), Fake("b")], iterations=4, rounds=2)
    assert calls == [("b", 4), ("a", 4), ("a", 4), ("b", 4), ("b", 4), ("a", 4)]
    assert [result.milliseconds.max for result in results] == [250.0, 250.0]


@pytest.mark.parametrize("overrides", [MLP, DCGAN, STACKED], ids=["mlp", "dcgan", "stacked"])
@pytest.mark.parametrize("name", BASELINES)
def test_baselines_train_both_networks_and_leave_the_run_alone(name: str, overrides: list[str]) -> None:
    experiment = build(small(overrides))
    ours = parameters(experiment.state.generator)
    loop = BASELINES[name](experiment, False)
    before = parameters(loop.generator), parameters(loop.discriminator)
    loop.run(2)
    for old, network in zip(before, (loop.generator, loop.discriminator), strict=True):
        assert all(not torch.equal(a, b) for a, b in zip(old, network.parameters(), strict=True))
    torch.testing.assert_close(parameters(experiment.state.generator), ours, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("overrides", [MLP, DCGAN], ids=["mlp", "dcgan"])
def test_minimal_computes_our_update(monkeypatch: pytest.MonkeyPatch, overrides: list[str]) -> None:
    """With the same images and z, one iteration gives the same weights, so the same work is timed."""
    config = load(None, [*overrides, "train.precision=float64"])
    experiment = build(config)
    minimal = Minimal(experiment)
    ((batch,),), _ = experiment.sampler.batches(0)
    minimal.images, minimal.order = batch.reals, iter([torch.arange(8)])
    monkeypatch.setattr(torch, "randn", lambda *_, **__: batch.z)
    minimal.run(1)
    Ganscale(experiment).run(1)
    for theirs, ours in (
        (minimal.generator, experiment.state.generator),
        (minimal.discriminator, experiment.state.discriminator),
    ):
        torch.testing.assert_close(parameters(theirs), parameters(ours), rtol=1e-9, atol=1e-12)


def test_textbook_reports_the_losses() -> None:
    experiment = build(small(MLP))
    loop, twin = Textbook(experiment), Textbook(experiment)
    generator, discriminator = copy.deepcopy(loop.generator), copy.deepcopy(loop.discriminator)
    torch.manual_seed(3)
    loop.run(1)
    torch.manual_seed(3)
    reals = next(iter(twin.loader))[0]
    fakes = generator(torch.randn(8, 5))
    real_logits = discriminator(reals)
    expected = softplus(-real_logits).mean() + 0.1 * real_logits.mean() + softplus(discriminator(fakes)).mean()
    assert loop.losses_d == [pytest.approx(expected.item(), rel=1e-5)]
    assert len(loop.losses_g) == 1


@pytest.mark.parametrize("overrides", [MLP, STACKED], ids=["mnist", "stacked"])
def test_pictures_are_the_runs_images(overrides: list[str]) -> None:
    source = build(small(overrides)).sampler.source
    pictures = Pictures(source)  # pyright: ignore[reportArgumentType]
    rows = torch.tensor([0, 7, 39])
    expected, _ = source.gather(rows)  # pyright: ignore[reportAttributeAccessIssue]
    torch.testing.assert_close(torch.stack([pictures[int(row)][0] for row in rows]), expected)


def test_baselines_have_torch_layers_unless_asked() -> None:
    experiment = build(small(DCGAN))

    def ours(same_layers: bool) -> int:
        return sum(isinstance(m, BatchNorm) for n in networks(experiment, same_layers) for m in n.modules())

    assert ours(same_layers=False) == 0
    assert ours(same_layers=True) > 0


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_the_baselines(name: str) -> None:
    check(load(None, PRESETS[name]))


@pytest.mark.parametrize(
    "override",
    [
        "optim.d_steps=2",
        "train.accumulation=2",
        "train.reuse_fakes=false",
        "data.name=ring",
        "loss.fake_label_smoothing=0.1",
    ],
)
def test_settings_that_the_baselines_do_not_implement_are_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.partition("=")[0]):
        check(load(None, [override]))


def test_command_prints_a_table_and_writes_json(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    chosen = ["--presets", "mlp", "--baselines", "minimal,textbook", "--iterations", "1", "--rounds", "1"]
    arguments = [*chosen, "--clock", "cpu", "--json", str(file), *MLP]
    threads = torch.get_num_threads()
    try:
        assert main(arguments) == 0
    finally:
        torch.set_num_threads(threads)
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("ganscale", "minimal", "textbook", "images/s"))
    report = json.loads(file.read_text())
    assert report["machine"]["threads"] == 1
    assert [row["name"] for row in report["results"]["mlp"]] == ["ganscale", "minimal", "textbook"]
    assert report["results"]["mlp"][1]["ratio"]["min"] <= report["results"]["mlp"][1]["ratio"]["max"]


def test_a_config_of_ones_own_without_baselines(tmp_path, capsys) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {d_steps: 2}\n")
    arguments = ["--config", str(file), "--baselines", "none", "--iterations", "1", "--rounds", "1", *MLP]
    assert main(arguments) == 0
    assert "mine: batch 8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--presets", "resnet"], "resnet"),
        (["--baselines", "keras"], "keras"),
        (["optim.d_steps=2"], "optim.d_steps"),
        (["optim.speed=2"], "optim.speed"),
    ],
)
def test_mistakes_are_named(arguments: list[str], named: str, capsys) -> None:
    assert main(arguments) == 2
    assert named in capsys.readouterr().err


def test_time_outside_of_training_is_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows every 10 images, pictures every 20: 1 s of training per row, 0.1 s for the row, 0.5 s for a picture."""
    now = [100.0]
    monkeypatch.setattr("benchmarks.speed.tracking.time.perf_counter", lambda: now[0])
    watch = Stopwatch(images_per_iteration=5)
    for images in range(10, 101, 10):
        now[0] += 1.0 + 0.1
        watch.log(images, {"seconds_per_iteration": 0.5})
        now[0] += 0.5 * (images % 20 == 0)
    cost = cost_of("x", watch.rows, 20)
    assert cost.seconds == pytest.approx(2.0)
    assert cost.share.min == pytest.approx(cost.share.max) == pytest.approx((2 * 0.1 + 0.5) / 2.0)
    assert cost.milliseconds.median == pytest.approx(700.0)
    assert "| x | 2.00 s | 700.0 (700.0, 700.0) | 35.00 % [35.00..35.00] |" in cost_table([cost])


def test_tracking_is_measured_in_a_real_run(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    short = ["log.every=16", "log.samples_every=32", "log.num_samples=4", "wandb.mode=disabled"]
    arguments = ["--tracking", "--presets", "mlp", "--rounds", "2", "--json", str(file), *MLP, *short]
    assert main(arguments) == 0
    assert "| mlp |" in capsys.readouterr().out
    (cost,) = json.loads(file.read_text())["tracking"]
    assert 0 < cost["share"]["min"] <= cost["share"]["max"]
    assert cost["seconds"] > 0


def test_a_missing_lightning_is_an_error_with_a_remedy(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    assert main(["--presets", "mlp", "--baselines", "lightning", "--rounds", "1", "--iterations", "1", *MLP]) == 2
    assert "ganscale[bench]" in capsys.readouterr().err


@pytest.mark.parametrize("overrides", [MLP, DCGAN], ids=["mlp", "dcgan"])
def test_lightning_trains_both_networks_in_blocks(overrides: list[str]) -> None:
    pytest.importorskip("lightning", reason="extra bench")
    loop = Lightning(build(small(overrides)))
    updates: list[int] = []
    loop.generator.register_forward_hook(lambda *_: updates.append(1))
    before = parameters(loop.generator), parameters(loop.discriminator)
    for expected in (2, 5):
        loop.run(3)
        assert len(updates) == 2 * expected, "two passes of G per iteration, one batch is prefetched"
    for old, network in zip(before, (loop.generator, loop.discriminator), strict=True):
        assert all(not torch.equal(a, b) for a, b in zip(old, network.parameters(), strict=True))
