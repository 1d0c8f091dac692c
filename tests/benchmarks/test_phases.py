"""Phases of an iteration: which time counts where, and that instrumentation changes no result."""

import itertools
import json

import pytest
import torch

from benchmarks.speed.__main__ import main
from benchmarks.speed.phases import PHASES, phases
from benchmarks.speed.timeline import Timeline, instrumented, replaced
from benchmarks.speed.utilization import peak_flops, peak_of
from ganscale.training.build import build
from ganscale.training.loop import train
from tests.runs import DCGAN, MLP, tiny

CPU = torch.device("cpu")


def ticking() -> Timeline:
    """A timeline whose clock advances by one second per reading."""
    moments = itertools.count()
    return Timeline(CPU, clock=lambda: float(next(moments)))


def test_an_inner_phase_is_not_the_outer_ones() -> None:
    timeline = ticking()
    with timeline.phase("outer"):
        with timeline.phase("inner"):
            pass
        timeline.rename("late")
    assert timeline.seconds == {"outer": 2.0, "inner": 1.0, "late": 1.0}


def test_laps_hold_what_came_before_them() -> None:
    timeline = ticking()
    with timeline.phase("a"):
        timeline.lap()
        timeline.lap()
    assert timeline.laps == [{"a": 1.0}, {"a": 1.0}]
    assert timeline.seconds == {"a": 1.0}


def run(overrides: tuple[str, ...], timeline: Timeline | None) -> list[torch.Tensor]:
    experiment = build(tiny(*overrides, "train.device=cpu"))
    until = 3 * experiment.sampler.images_per_iteration
    loop = train(experiment, intervals={}, until=until)
    if timeline is None:
        list(loop)
    else:
        with instrumented(experiment, timeline), timeline.phase("other"):
            list(loop)
        assert "apply" not in vars(experiment.step.d), "the methods are restored"
    return list(experiment.state.generator.parameters())


@pytest.mark.parametrize(
    "settings",
    [(), ("penalty.r1=1",), ("train.reuse_fakes=false", "train.accumulation=2", "optim.d_steps=2")],
    ids=["plain", "r1", "fresh-a2-d2"],
)
@pytest.mark.parametrize("network", [MLP, DCGAN], ids=["mlp", "dcgan"])
def test_instrumentation_changes_no_result_and_times_every_phase(network, settings) -> None:
    timeline = ticking()
    instrumented_parameters = run((*network, *settings), timeline)
    torch.testing.assert_close(instrumented_parameters, run((*network, *settings), None), rtol=0.0, atol=0.0)
    assert len(timeline.laps) == 3
    for lap in timeline.laps[1:]:
        assert set(lap) == {"data", "discriminator", "generator", "optimizer", "ema", "other"}


def test_the_generators_backward_is_its_own() -> None:
    """The G update counts for D until the gradient reaches the fakes, then for G."""
    experiment = build(tiny(*MLP, "train.device=cpu"))
    timeline, names = ticking(), []
    rename = timeline.rename
    batches = experiment.sampler.batches(0)
    with (
        instrumented(experiment, timeline),
        replaced(timeline, "rename", lambda name: (names.append(name), rename(name))),
    ):
        experiment.step(batches, experiment.schedule.controls(0))
    assert names == ["generator"]


def test_shares_are_of_the_whole() -> None:
    found = phases(tiny(*MLP, "penalty.gp=1", "train.device=cpu"), iterations=2, rounds=1, device=CPU)
    assert set(found.shares) == set(PHASES)
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.utilization is None
    assert found.gigaflops > 0


def test_command(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    arguments = ["phases", "--presets", "mlp", "--rounds", "1", "--iterations", "2", "--json", str(file), *MLP]
    assert main([*arguments, "train.device=cpu"]) == 0
    assert "images/s" in capsys.readouterr().out
    assert set(json.loads(file.read_text())["phases"]["mlp"]["shares"]) == set(PHASES)


def test_peaks_by_name() -> None:
    assert peak_of("NVIDIA H100 80GB HBM3", "bfloat16") == pytest.approx(989.4e12)
    assert peak_of("NVIDIA H100 PCIe", "bfloat16") == pytest.approx(756e12)
    assert peak_of("NVIDIA H200 NVL", "bfloat16") == pytest.approx(835.5e12)
    assert peak_of("NVIDIA H200", "bfloat16") == pytest.approx(989.4e12)
    assert peak_of("NVIDIA A100-SXM4-40GB", "float32") == pytest.approx(19.5e12)
    assert peak_of("Tesla T4", "bfloat16") is None
    assert peak_of("Abacus 9000", "float32") is None
    assert peak_flops(CPU, "float32") is None
