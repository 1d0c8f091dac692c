"""CUDA graphs, with a record that repeats a function on fixed tensors: what is not read from them stays as it was."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ganscale.config import ConfigError, load
from ganscale.run.health_monitor import TIMES
from ganscale.training import cuda_graph
from ganscale.training.build import Experiment, build
from ganscale.training.cuda_graph import WARM_UP, GraphedStep
from ganscale.training.loop import train
from ganscale.training.statistics import Statistics
from tests.runs import BATCH_NORM, DCGAN, MLP, R3GAN, RESNET, RING, tiny

PAIRED = ("loss.name=relativistic_pairing", "loss.label_smoothing=0", "penalty.r1=1", "penalty.r2=1")
ESTIMATED = ("penalty.r1_mode=finite_difference", "penalty.r2_mode=finite_difference")
AUGMENTED = ("augment.transforms=[flip, rotate90, brightness, translation, cutout]",)
CLASSES = (
    *("model.generator.norm=batch", "model.generator.conditioning=norm"),
    "model.discriminator.conditioning=projection",
)
RUNS = {
    "mlp": MLP,
    "dcgan-batch_norm": (*DCGAN, *BATCH_NORM),
    "d2-a2-fresh_fakes": (*DCGAN, "optim.d_steps=2", "train.accumulation=2", "train.reuse_fakes=false"),
    "wgan_gp": (*DCGAN, "loss.name=wasserstein", "loss.label_smoothing=0", "penalty.gp=10", "penalty.drift=0.001"),
    "dragan-noise": (*RING, "penalty.dragan=1", "augment.noise={start: 0, end: 0.3, over: 100, begin: 120}"),
    "lazy": (*MLP, "penalty.r1=1", "penalty.r1_every=3", "optim.d_steps=2"),
    "r3gan-finite_difference": (*R3GAN, *PAIRED, *ESTIMATED),
    "classes": (
        *RESNET,
        "model.generator.norm=batch",
        "model.generator.conditioning=norm",
        "model.discriminator.conditioning=projection",
    ),
    "ada": (*DCGAN, *AUGMENTED, "augment.adaptive=true", "augment.p=0.1", "augment.speed=600", "augment.every=4"),
    "whole_ada": (*DCGAN, "augment.transforms=[bgcfnc]", "augment.p={start: 0, end: 0.6, over: 100, begin: 120}"),
    "lecam": (*DCGAN, "penalty.lecam=0.3", "penalty.centering=0.01"),
    "augment-always": (*DCGAN, *AUGMENTED, "augment.p=1"),
    "spectral": (*DCGAN, "model.discriminator.spectral_norm=true", "loss.name=hinge", "loss.label_smoothing=0"),
    "schedules": (
        *MLP,
        "optim.lr_g={start: 1e-3, end: 1e-4, over: 400}",
        "penalty.r1={start: 2, end: 0.2, over: 400}",
        "augment.noise={start: 0.3, end: 0, over: 150}",
        "ema.half_life={start: 0, end: 100, over: 200}",
    ),
    "packing": (*RING, "model.packing=2", "penalty.gp=1"),
    "clip": (*MLP, "optim.clip_grad_norm_d=0.1", "optim.clip_grad_norm_g=0.1"),
}


class Records:
    """Stands in for CUDA's capture: a recorded function is called again, with the tensors that it was recorded with."""

    def __init__(self) -> None:
        self.made = self.replays = 0

    def __call__(self, run: Callable[[], Statistics]) -> tuple[Callable[[], None], Statistics]:
        self.made += 1
        loss_d_then, loss_g_then = fixed = [torch.zeros((), dtype=torch.float64) for _ in range(2)]
        penalties: dict[str, Tensor] = {}
        sums: dict[str, Tensor] = {}

        def replay() -> None:
            self.replays += 1
            loss_d, loss_g, found, found_sums, _ = run()
            for target, source in zip(fixed, (loss_d, loss_g), strict=True):
                target.copy_(source)
            for fixed_values, values in ((penalties, found), (sums, found_sums)):
                for name, value in values.items():
                    fixed_values.setdefault(name, torch.zeros_like(value)).copy_(value)

        return replay, Statistics(loss_d_then, loss_g_then, penalties, sums, {})


def graphed(experiment: Experiment) -> tuple[Experiment, Records]:
    records = Records()
    return replace(experiment, iterate=GraphedStep(experiment.step, torch.device("cpu"), records)), records


def run(experiment: Experiment, iterations: int = 24) -> list[dict[str, float]]:
    every = experiment.sampler.images_per_iteration
    ticks = train(experiment, intervals={"log": 6 * every}, until=iterations * every)
    return [tick.metrics for tick in ticks]


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_replayed_iterations_are_the_eager_ones(overrides: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    # On the CPU rates need not be rounded: both runs have the same.
    monkeypatch.setattr(cuda_graph, "_float32", lambda rate: rate)
    monkeypatch.setattr(cuda_graph, "_rate", lambda value: value)
    eager = build(tiny(*overrides))
    expected = run(eager)
    replayed, records = graphed(build(tiny(*overrides)))
    found = run(replayed)
    assert records.replays > 0
    for name, wanted in eager.state.generator.state_dict().items():
        assert torch.equal(replayed.state.generator.state_dict()[name], wanted), name
    for name, wanted in eager.state.discriminator.state_dict().items():
        assert torch.equal(replayed.state.discriminator.state_dict()[name], wanted), name
    for row, wanted in zip(found, expected, strict=True):
        assert {k: v for k, v in row.items() if k not in TIMES} == pytest.approx(
            {k: v for k, v in wanted.items() if k not in TIMES}, rel=1e-6
        )


def test_there_is_one_graph_for_each_kind_of_iteration() -> None:
    experiment, records = graphed(build(tiny(*MLP, "penalty.r1=1", "penalty.r1_every=4")))
    every = experiment.sampler.images_per_iteration
    for _ in train(experiment, intervals={}, until=40 * every):
        pass
    assert records.made == 2
    assert records.replays == 39 - 2 * WARM_UP, "all but the warm-up and the last, which returns details"


def test_a_loaded_state_gets_graphs_of_its_own() -> None:
    """As after a rollback: Adam's moments are other tensors then."""
    config = tiny(*MLP, "optim.lr_g=0.0009765625", "optim.lr_d=0.0009765625")  # in float32, too
    experiment, records = graphed(build(config))
    every = experiment.sampler.images_per_iteration
    for _ in train(experiment, intervals={}, until=12 * every):
        pass
    assert records.made == 1
    saved = copy.deepcopy(experiment.state.state_dict())
    assert saved["optimizer_g"]["param_groups"][0]["capturable"] is False
    experiment.state.load_state_dict(saved)
    for _ in train(experiment, intervals={}, until=24 * every):
        pass
    assert records.made == 2
    straight = build(config)
    for _ in train(straight, intervals={}, until=12 * every):
        pass
    for _ in train(straight, intervals={}, until=24 * every):
        pass
    pairs = zip(experiment.state.generator.parameters(), straight.state.generator.parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_rates_are_those_of_adams_kernel() -> None:
    config = tiny(*MLP, "optim.lr_g=1e-3", "optim.lr_d=1e-3")
    experiment, _ = graphed(build(config))
    run(experiment, 6)
    (group,) = experiment.state.optimizer_g.param_groups
    assert float(group["lr"]) == float(torch.tensor(1e-3))


def test_a_failed_record_is_said_once_and_iterations_run_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    calls: Counter[str] = Counter()

    def fails(run: Callable[[], Statistics]) -> tuple[Callable[[], None], Statistics]:
        calls["record"] += 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(experiment.step, "objective_g", broken)
            run()
        raise AssertionError("not reached")

    def broken(*_: object) -> Tensor:
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    experiment = build(tiny(*MLP))
    experiment = replace(experiment, iterate=GraphedStep(experiment.step, torch.device("cpu"), fails))
    run(experiment)
    assert calls["record"] == 1
    assert all(parameter.requires_grad for parameter in experiment.step.d.parameters)
    (record,) = [each for each in caplog.records if "cuda_graphs" in each.getMessage()]
    assert record.getMessage().endswith("operation not permitted when stream is capturing")


def test_graphs_are_refused_where_they_do_not_work() -> None:
    with pytest.raises(ConfigError) as caught:
        build(load(overrides=(*MLP, "train.cuda_graphs=true")), device="cpu")
    assert caught.value.key == "train.cuda_graphs"
    with pytest.raises(ConfigError) as caught:
        load(overrides=("train.cuda_graphs=true", "optim.beta2={start: 0.9, end: 0.99, over: 500}"))
    assert caught.value.key == "train.cuda_graphs"
