"""Training on a GPU: like the CPU in float64, without host syncs, as CUDA graphs, and on two processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ganscale.config import LOSSES, Config, load
from ganscale.training.build import Experiment, build, build_source
from ganscale.training.cuda_graph import WARM_UP, GraphedStep
from ganscale.training.loop import train
from ganscale.training.memory import forecast
from tests.fleet import Fleet
from tests.runs import BATCH_NORM, DCGAN, MLP, R3GAN, RESNET, tiny
from tests.training.test_cuda_graph import RUNS
from tests.trajectories import assert_agree

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
NETWORKS = {"mlp": MLP, "dcgan": (*DCGAN, *BATCH_NORM), "resnet": RESNET, "r3gan": R3GAN}
HARD = "loss.label_smoothing=0"
CUDA = torch.device("cuda", 0)


@contextmanager
def deterministic() -> Iterator[None]:
    """Deterministic kernels alone; CUBLAS_WORKSPACE_CONFIG must be set before the first product."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def weights(experiment: Experiment) -> dict[str, Tensor]:
    state = experiment.state
    networks = {"generator": state.generator, "discriminator": state.discriminator, "ema": state.ema.module}
    return {
        f"{name}.{key}": value.detach().cpu().flatten()[None]
        for name, net in networks.items()
        for key, value in net.state_dict().items()
    }


def trained(config: Config, device: torch.device | str, iterations: int = 10, **parts: object) -> Experiment:
    experiment = replace(build(config, device=device), **parts)
    for _ in train(experiment, intervals={}, until=iterations * experiment.sampler.images_per_iteration):
        pass
    return experiment


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_float64_follows_the_cpu(network: tuple[str, ...], loss: str) -> None:
    config = tiny(*network, f"loss.name={loss}", HARD)
    assert_agree(weights(trained(config, CUDA)), weights(trained(config, "cpu")))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_other_precisions_train(network: tuple[str, ...], precision: str) -> None:
    config = load(
        overrides=(*network, f"train.precision={precision}", "train.batch_size=12", "train.channels_last=true")
    )
    found = weights(trained(config, CUDA, 20))
    assert all(bool(value.isfinite().all()) for value in found.values())


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_nothing_waits_for_the_gpu(overrides: tuple[str, ...]) -> None:
    """No host sync in an iteration that returns no details."""
    experiment = build(tiny(*overrides), device=CUDA)
    every = experiment.sampler.images_per_iteration
    for number in range(8):
        batches = experiment.sampler.batches(number * every)
        controls = experiment.schedule.controls(number * every, augment_p=0.5)
        torch.cuda.set_sync_debug_mode("error" if number > 3 else "default")
        try:
            experiment.iterate(batches, controls)
            experiment.state.ema.update(every, 100.0)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("overrides", RUNS.values(), ids=RUNS)
def test_graphs_do_the_same_bits(overrides: tuple[str, ...]) -> None:
    config = load(overrides=(*overrides, "train.batch_size=12", "optim.lr_g=0.0009765625", "optim.lr_d=0.0009765625"))
    with deterministic():
        eager = trained(config, CUDA, 30)
        replayed = build(config, device=CUDA)
        graphs = GraphedStep(replayed.step, CUDA)
        replayed = replace(replayed, iterate=graphs)
        for _ in train(replayed, intervals={}, until=30 * replayed.sampler.images_per_iteration):
            pass
    assert graphs._works
    assert graphs._graphs, f"recorded after {WARM_UP} iterations"
    one, other = weights(eager), weights(replayed)
    assert all(torch.equal(one[name], other[name]) for name in one)


def on_one_gpu(overrides: tuple[str, ...]) -> dict[str, Tensor]:
    return weights(trained(tiny(*overrides), CUDA))


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_two_processes_on_one_gpu_follow_one(network: tuple[str, ...]) -> None:
    fleet = Fleet()
    try:
        one, two = (fleet.run(on_one_gpu, world, network) for world in (1, 2))
    finally:
        fleet.close()
    assert_agree(two[0], one[0])
    assert all(torch.equal(two[0][name], two[1][name]) for name in two[0])


def test_a_group_of_one_over_nccl(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = weights(trained(tiny(*DCGAN), CUDA))
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}.items():
        monkeypatch.setenv(name, value)
    torch.distributed.init_process_group("nccl", device_id=CUDA)
    try:
        assert_agree(weights(trained(tiny(*DCGAN), CUDA)), expected)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_forecast_is_what_the_allocator_says(network: tuple[str, ...]) -> None:
    config = load(overrides=(*network, "train.batch_size=256", "data.resolution=32"))
    source = build_source(config, CUDA)
    expected = forecast(config, source.shape, source.num_classes, device=CUDA).peak
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    experiment = build(config, device=CUDA, source=source)
    for _ in train(experiment, intervals={}, until=6 * 256):
        pass
    assert torch.cuda.max_memory_allocated() - before == pytest.approx(expected, rel=0.15)
