"""The memory forecast: what is counted, the step to a worker's own rows, the advice, and the error when it runs out."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ganscale.config import load
from ganscale.parallel.replica import Replica
from ganscale.run import session
from ganscale.train import main
from ganscale.training import memory
from ganscale.training.build import build_source, build_step, initial_state
from ganscale.training.memory import MemoryCounter, MemoryForecast, advice, forecast, is_out_of_memory, report
from tests.fleet import Fleet
from tests.processes import ROOT
from tests.runs import BATCH_NORM, DCGAN, MLP, QUIET, R3GAN, RESNET

CPU = torch.device("cpu")
PAIRED = ("loss.name=relativistic_pairing", "loss.label_smoothing=0", "penalty.r1=1", "penalty.r2=1")
CONFIGS = {
    "mlp": MLP,
    "dcgan-bn": (*DCGAN, *BATCH_NORM),
    "dcgan-wgan-gp": (*DCGAN, "loss.name=wasserstein", "loss.label_smoothing=0", "penalty.gp=10", "optim.d_steps=5"),
    "dcgan-bfloat16": (*DCGAN, "train.precision=bfloat16"),
    "resnet-accumulation": (*RESNET, "train.accumulation=2", "train.reuse_fakes=false"),
    "resnet-labels": (*RESNET, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection"),
    "r3gan": (*R3GAN, *PAIRED),
    "r3gan-packed": (*R3GAN, *PAIRED, "model.packing=2"),
    "augment": (*DCGAN, "augment.transforms=[flip, translation]", "augment.p=0.5", "augment.noise=0.1"),
}


def test_tensors_count_as_long_as_they_live() -> None:
    with MemoryCounter() as counter:
        a = torch.zeros(100)
        view = a[3:].view(-1)
        b = a + 1.0
        assert counter.live == 800
        del a
        assert counter.live == 800, "the view holds it"
        del view, b
        assert counter.live == 0
        b = torch.zeros(2, dtype=torch.float64)
        counter.count(b)
        assert counter.live == 16
    assert max(counter.trace) == 800


@pytest.mark.parametrize("overrides", CONFIGS.values(), ids=CONFIGS)
def test_few_rows_tell_what_many_need(overrides: tuple[str, ...]) -> None:
    """The step from a few rows to a worker's own, against an iteration with these."""
    config = load(overrides=("train.batch_size=48", *overrides))
    source = build_source(config, CPU)
    found = forecast(config, source.shape, source.num_classes)
    state = initial_state(config, source.shape, CPU, num_classes=source.num_classes)
    step = build_step(config, state, device=CPU, replica=Replica())
    memory._trace(config, step, source.shape, found.rows, CPU)
    counted = max(memory._trace(config, step, source.shape, found.rows, CPU))
    gradients = sum(p.numel() * p.element_size() for p in (*step.g.parameters, *step.d.parameters))
    assert found.rows == 48 // config.train.accumulation
    assert found.activations == pytest.approx(counted - gradients, rel=0.02)


@pytest.mark.parametrize("more", [(), ("train.init_from=elsewhere", "model.freeze_d=1")], ids=["all", "frozen"])
def test_the_state_is_all_that_a_run_keeps(more: tuple[str, ...]) -> None:
    config = load(overrides=(*DCGAN, *BATCH_NORM, *more))
    source = build_source(config, CPU)
    state = initial_state(config, source.shape, CPU)
    step = build_step(config, state, device=CPU, replica=Replica())
    memory._trace(config, step, source.shape, 4, CPU)

    def tensors(value: object) -> Iterator[Tensor]:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, dict):
            for each in value.values():
                yield from tensors(each)

    kept = [*tensors(state.state_dict()), *(p.grad for p in (*step.g.parameters, *step.d.parameters))]
    steps = 2 * 4 * len((*step.g.parameters, *step.d.parameters))  # Adam's counters
    size = sum(tensor.numel() * tensor.element_size() for tensor in kept if tensor is not None)
    assert forecast(config, source.shape).state == pytest.approx(size, abs=steps)


def test_a_worker_of_several_has_fewer_rows() -> None:
    config = load(overrides=(*DCGAN, "train.batch_size=48"))
    alone, share = (forecast(config, (1, 16, 16), replica=replica) for replica in (None, Replica(0, 3)))
    assert (alone.rows, share.rows) == (48, 16)
    assert share.activations < 0.4 * alone.activations
    assert share.state == alone.state


TOGETHER = (*DCGAN, *BATCH_NORM, "model.discriminator.minibatch_stddev=true", "loss.feature_matching=1")


def _on_rank_zero(overrides: tuple[str, ...]) -> int | None:
    """Only rank 0 forecasts; all of them meet again afterwards."""
    found = None
    if torch.distributed.get_rank() == 0:
        found = forecast(load(overrides=overrides), (1, 16, 16), replica=Replica(0, 3)).activations
    torch.distributed.barrier()
    return found


@pytest.mark.multiprocess
def test_a_replica_forecasts_without_the_others(fleet: Fleet) -> None:
    """Whatever would sum over replicas."""
    found, *others = fleet.run(_on_rank_zero, 3, TOGETHER, timeout=60.0)
    assert found == forecast(load(overrides=TOGETHER), (1, 16, 16), replica=Replica(0, 3)).activations
    assert others == [None, None]


def test_a_forecast_that_fails_does_not_stop_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> MemoryForecast:
        raise IndexError("at least five rows")

    monkeypatch.setattr(memory, "forecast", fails)
    config = load(overrides=MLP)
    (line,) = report(config, build_source(config, CPU), CPU, Replica())
    assert line == "memory per worker: not known: IndexError: at least five rows"


@pytest.mark.parametrize("setting", ["penalty.r1", "penalty.gp", "penalty.path_length"])
@pytest.mark.parametrize("ends", ["start: 0, end: 2", "start: 2, end: 0, begin: 24"])
def test_a_scheduled_penalty_counts_as_one_that_acts(setting: str, ends: str) -> None:
    without, constant, scheduled = (
        forecast(load(overrides=[*MLP, "train.batch_size=12", *more]), (1, 8, 8)).activations
        for more in ((), (f"{setting}=2",), (f"{setting}={{{ends}, over: 24}}",))
    )
    assert without < constant == scheduled


def test_recomputed_activations_take_less() -> None:
    overrides = (*RESNET, *("model.generator.width=8", "model.discriminator.width=8"), "train.batch_size=64")
    kept, recomputed = (
        forecast(load(overrides=(*overrides, f"train.checkpoint_activations={value}")), (1, 16, 16))
        for value in ("false", "true")
    )
    assert recomputed.activations < 0.75 * kept.activations


def test_what_does_not_fit_is_said_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(overrides=MLP)
    source = build_source(config, CPU)
    assert len(report(config, source, CPU, Replica())) == 3
    monkeypatch.setattr(memory, "_host_memory", lambda: 2**20)
    *_, line = report(config, source, CPU, Replica())
    assert line.startswith("this does not fit: ")
    assert "train.accumulation=2" in line
    least = load(overrides=("train.checkpoint_activations=true", "train.precision=bfloat16", "train.batch_size=1"))
    assert advice(least, 1) == "use more workers, or smaller networks"


def test_errors_of_full_memory_are_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_a_run_without_memory_ends_in_one_message_and_keeps_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*MLP, *QUIET, f"run.dir={tmp_path}", "run.name=x", "train.images=640", "checkpoint.every=64", "eval.every=0")
    assert main(["--launcher", "local", *run, "train.images=64"]) == 0
    saved = sorted(path.name for path in (tmp_path / "x" / "checkpoints").iterdir())

    def full(*_: object, **__: object) -> Iterator[None]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nand more")
        yield

    monkeypatch.setattr(session, "train", full)
    capsys.readouterr()
    assert main(["--launcher", "local", *run]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("ganscale: training failed: out of memory on cpu with 64 images at a time: CUDA out of")
    assert "  remedy: use more workers, train.accumulation=2 (" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in (tmp_path / "x" / "checkpoints").iterdir()) == saved


def test_a_dry_run_tells_the_memory(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*MLP, "--dry-run", "cluster.num_workers=4", "train.device=cpu"]) == 0
    *_, first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("# memory per worker: ")
    assert "activations of 16 images" in first
    assert second.startswith("# expected peak: ")
    assert third.startswith("# checkpoints: ")


def test_a_dry_run_needs_no_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["configs/folder_64.yaml", "--dry-run", f"data.path={tmp_path / 'nowhere'}"]) == 0
    assert "# memory per worker: not known here" in capsys.readouterr().out


LARGE = {
    "mnist_mlp": ("train.images=6400",),
    "mnist_dcgan": ("train.batch_size=512", "train.images=2048"),
    "mnist_r3gan": ("train.images=256",),
    "mnist_wgan_gp": ("train.batch_size=512", "train.images=5120"),
    "stacked_mnist_dcgan": ("train.batch_size=512", "train.images=2048"),
    "gaussians": ("train.images=12800", "train.batch_size=2048"),
    "mnist_sngan": ("train.batch_size=256", "train.images=1024"),
    "mnist_wgan": ("train.batch_size=1024", "train.images=10240"),
    "stacked_mnist_rpgan": ("train.batch_size=32", "train.images=64"),
    "mnist_mlp_minimax": ("train.batch_size=8192", "train.images=16384"),
}


CIFAR_LIKE = ("data.name=stacked_mnist", "data.resolution=32", "train.batch_size=64", "train.images=256")
HELD_OUT = {
    "cifar10_sngan": CIFAR_LIKE,
    "cifar10_wgan_gp": CIFAR_LIKE,
    "cifar10_dcgan": CIFAR_LIKE,
    "mnist_r3gan": ("train.batch_size=128", "train.images=256", "train.checkpoint_activations=true"),
    "mnist_sngan": ("train.batch_size=512", "train.images=1024", "train.accumulation=4"),
}
"""The overhead of the host's allocator was not fitted to these."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "overrides"), [*LARGE.items(), *HELD_OUT.items()])
def test_the_expected_peak_is_the_processs(name: str, overrides: tuple[str, ...], tmp_path: Path) -> None:
    """Within 15 % of what the system says about a whole run, evaluation and saving included."""
    code = (
        "import resource, sys\nfrom ganscale.train import main\n"
        "assert main(sys.argv[1:]) == 0\nprint('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    words = ["--launcher", "local", f"configs/{name}.yaml", *overrides, "train.device=cpu", "wandb.mode=disabled"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, f"run.dir={tmp_path}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=600,
        check=True,
    )
    measured = int(done.stdout.rpartition("PEAK ")[2]) * (1 if sys.platform == "darwin" else 1024)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("expected peak: ")]
    number, unit = line.split()[2:4]
    expected = float(number) * {"MiB": 2**20, "GiB": 2**30}[unit]
    print(f"{name}: expected {expected / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert expected == pytest.approx(measured, rel=0.15)


def test_the_peak_is_the_sum() -> None:
    assert MemoryForecast(1, 2, 30, 4, 5).peak == 34
    assert memory.resident() <= 1.1 * 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
