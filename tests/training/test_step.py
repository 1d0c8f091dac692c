"""The update: what crosses the wire, what each side may touch, and that shortcuts change nothing."""

import math
from collections import Counter
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from ganscale.config.datasets import height_width
from ganscale.health.diversity import NUM_SUMS
from ganscale.losses import LOSSES, Targets
from ganscale.losses.adversarial import HARD
from ganscale.training.build import Experiment, build, build_networks
from ganscale.training.loop import train
from ganscale.training.objective import Batch, DiscriminatorObjective, Draws, View
from ganscale.training.schedules import PenaltyWeights
from ganscale.training.statistics import LOGIT_EDGES, LOGIT_RANGE, NUM_BINS, logit_bins, weight_norm
from tests.fleet import Fleet, over_gloo
from tests.runs import BATCH_NORM, DCGAN, MLP, STYLEGAN2, tiny

VARIANTS = {
    "plain": (),
    "d2": ("optim.d_steps=2",),
    "a2": ("train.accumulation=2",),
    "d2-a3-fresh": ("optim.d_steps=2", "train.accumulation=3", "train.reuse_fakes=false"),
}
SMALL = 32 + 2 * NUM_BINS + 2 * NUM_SUMS
"""Numbers in the one message of a tick: sums, two histograms, and two spreads."""
NETWORKS = {"mlp": MLP, "dcgan": DCGAN}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _iterate(experiment: Experiment, iterations: int, every: int) -> int:
    """Train on for some iterations, ticking every so many; the number of ticks."""
    step = experiment.sampler.images_per_iteration
    until = experiment.state.images + iterations * step
    ticks = train(experiment, intervals={"row": every * step}, until=until)
    return sum(1 for _ in ticks)


def count_traffic(overrides: tuple[str, ...]) -> dict[str, object]:
    """All collectives of 4 iterations with 2 ticks, by kind and size, and the bytes that DDP's hooks reduce."""
    with over_gloo(), mock.patch.object(DistributedDataParallel, "register_comm_hook"):  # there can be one only
        experiment = build(tiny(*overrides))
    step = experiment.step
    reduced: Counter[str] = Counter()

    def hook(name: str, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
        reduced[name] += bucket.buffer().numel() * bucket.buffer().element_size()
        work = dist.all_reduce(bucket.buffer().div_(step.world_size), async_op=True)
        assert work is not None
        return work.get_future().then(lambda future: future.value()[0])

    for name, module in (("generator", step.g.parallel), ("discriminator", step.d.parallel)):
        assert isinstance(module, DistributedDataParallel)
        module.register_comm_hook(name, hook)
    _iterate(experiment, 2, every=2)  # DDP lays out its buckets in the first iteration
    reduced.clear()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recording:
        ticks = _iterate(experiment, 4, every=2)
    collectives = Counter(
        (event.name, *event.input_shapes[0]) for event in recording.events() or () if event.name.startswith("gloo:")
    )
    return {
        "collectives": collectives,
        "reduced": dict(reduced),
        "ticks": ticks,
        "sizes": (_size(experiment.state.generator), _size(experiment.state.discriminator)),
    }


@pytest.mark.multiprocess
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_each_gradient_crosses_the_wire_once_and_nothing_else_does(fleet: Fleet, network, variant) -> None:
    config = tiny(*network, *variant)
    for traffic in fleet.run(count_traffic, 2, (*network, *variant)):
        generator, discriminator = traffic["sizes"]
        d_steps = config.optim.d_steps
        assert traffic["ticks"] == 2
        assert traffic["reduced"] == {"discriminator": 4 * d_steps * discriminator * 8, "generator": 4 * generator * 8}
        (statistics,) = [size for _, size in traffic["collectives"] if size not in (generator, discriminator)]
        assert statistics <= SMALL
        assert traffic["collectives"] == {
            ("gloo:all_reduce", discriminator): 4 * d_steps,
            ("gloo:all_reduce", generator): 4,
            ("gloo:all_reduce", statistics): 2,
        }


FREEZE = ("train.init_from=elsewhere", "model.freeze_d=1")


@pytest.mark.multiprocess
def test_gradients_of_frozen_blocks_cross_nothing(fleet: Fleet) -> None:
    """D's gradients are those of its trained parameters."""
    whole = _size(build(tiny(*DCGAN)).state.discriminator)
    for traffic in fleet.run(count_traffic, 2, (*DCGAN, *FREEZE, "penalty.r1=1")):
        generator, discriminator = traffic["sizes"]
        assert discriminator == whole - (3 * 4 * 4 + 3)
        assert traffic["reduced"] == {"discriminator": 4 * discriminator * 8, "generator": 4 * generator * 8}


FROZEN = {
    "batch_norm": (*DCGAN, *BATCH_NORM, "train.init_from=elsewhere", "model.freeze_d=2"),
    "spectral_norm": (*MLP, *FREEZE, "model.discriminator.spectral_norm=true", "loss.clip_weights=0.01"),
    "recomputed": (*DCGAN, *BATCH_NORM, *FREEZE, "train.checkpoint_activations=true", "penalty.gp=1"),
}


@pytest.mark.parametrize("overrides", FROZEN.values(), ids=FROZEN)
def test_frozen_blocks_stay_as_they_are(overrides: tuple[str, ...]) -> None:
    """Weights, running statistics and power iterations; they have no gradients and no moments."""
    experiment = build(tiny(*overrides))
    discriminator, optimizer = experiment.state.discriminator, experiment.state.optimizer_d
    parameters = dict(discriminator.named_parameters())
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    layers = {".".join(name.split(".")[:2]) for name in parameters.keys() - trained}
    before = _snapshot(discriminator)
    _iterate(experiment, 3, every=3)
    frozen = {name for name in before if ".".join(name.split(".")[:2]) in layers}
    assert frozen
    changed = _changed(before, discriminator)
    assert not changed & frozen
    assert changed >= trained
    assert len(optimizer.state) == len(trained)
    assert all(each.grad is None for each in discriminator.parameters() if not each.requires_grad)


FAMILY = {
    "rpgan-r1-r2": ("loss.name=relativistic_pairing", "penalty.r1=1", "penalty.r2=1"),
    "wgan_gp-d3": ("loss.name=wasserstein", "penalty.gp=10", "optim.d_steps=3"),
    "lazy-drift-dragan": (
        "penalty.r1=1",
        "penalty.r1_every=2",
        "penalty.dragan=1",
        "penalty.drift=1",
        "optim.d_steps=2",
    ),
    "clipping-noise-packing": (
        "optim.clip_grad_norm_d=1",
        "loss.clip_weights=0.1",
        "augment.noise=1",
        "model.packing=2",
    ),
    "diffaugment": ("augment.transforms=[flip, cutout]", "loss.name=hinge"),
    "lecam-centering": ("penalty.lecam=1", "penalty.centering=1", "train.accumulation=2", "optim.d_steps=2"),
    "new-reals": ("loss.name=relativistic_pairing", "train.reuse_fakes=false", "train.reuse_reals=false"),
    "spectral_norm": ("model.discriminator.spectral_norm=true", "model.generator.spectral_norm=true"),
    "conditional": ("model.generator.conditioning=concat", "model.discriminator.conditioning=acgan", "penalty.gp=1"),
    "accumulated": ("penalty.gp=1", "penalty.r1=1", "train.accumulation=3", "train.reuse_fakes=false"),
}


@pytest.mark.multiprocess
@pytest.mark.parametrize("overrides", FAMILY.values(), ids=FAMILY)
def test_no_member_of_the_family_says_more(fleet: Fleet, overrides: tuple[str, ...]) -> None:
    overrides = (*MLP, *overrides)
    d_steps = tiny(*overrides).optim.d_steps
    (traffic, _) = fleet.run(count_traffic, 2, overrides)
    generator, discriminator = traffic["sizes"]
    assert traffic["reduced"] == {"discriminator": 4 * d_steps * discriminator * 8, "generator": 4 * generator * 8}
    calls = {size: count for (_, size), count in traffic["collectives"].items() if size > SMALL}
    assert calls == {discriminator: 4 * d_steps, generator: 4}
    three = 4 * d_steps * any("dragan" in override or "lecam" in override for override in overrides)
    assert traffic["collectives"].get(("gloo:all_reduce", 3), 0) == three, "spread of the batch, or means of logits"
    assert sum(traffic["collectives"].values()) == three + 4 * d_steps + 4 + 2, "and the numbers of each tick"


SEPARATE = ("penalty.r1=1", "penalty.r1_every=2", "penalty.r1_separate=true")
LENGTHS = ("penalty.path_length=2", "penalty.path_length_every=4")
STEPS = {
    "mlp": (*MLP, *SEPARATE, *LENGTHS),
    "stylegan2-a2": (*STYLEGAN2, *SEPARATE, *LENGTHS, "train.accumulation=2", "model.discriminator.stddev_group=0"),
}


@pytest.mark.multiprocess
@pytest.mark.parametrize("overrides", STEPS.values(), ids=STEPS)
def test_a_step_of_its_own_sends_its_gradients_once(fleet: Fleet, overrides: tuple[str, ...]) -> None:
    """Iterations 2 to 5: R1 is due in 2 and 4, path lengths in 4; each network's gradients cross once per step."""
    (traffic, _) = fleet.run(count_traffic, 2, overrides)
    generator, discriminator = traffic["sizes"]
    assert traffic["reduced"] == {"discriminator": (4 + 2) * discriminator * 8, "generator": (4 + 1) * generator * 8}
    small = Counter({size: count for (_, size), count in traffic["collectives"].items() if size <= SMALL})
    assert small.pop(1) == 1, "the mean length"
    styles = small.pop(9, 0)
    assert styles == (4 if overrides[: len(STYLEGAN2)] == STYLEGAN2 else 0), "the average of w, 8 numbers and a count"
    assert sum(small.values()) == 2, "the numbers of each tick"


@pytest.mark.multiprocess
def test_ada_adds_two_numbers_every_few_iterations(fleet: Fleet) -> None:
    ada = ("augment.transforms=[flip, cutout]", "augment.adaptive=true", "augment.every=2")
    (traffic, _) = fleet.run(count_traffic, 2, (*MLP, *ada))
    generator, discriminator = traffic["sizes"]
    small = {size: count for (_, size), count in traffic["collectives"].items() if size <= SMALL}
    assert small.pop(2) == 2, "4 iterations; at a tick between two changes they cross once more"
    assert list(small.values()) == [2], "the numbers of each tick"
    assert traffic["reduced"] == {"discriminator": 4 * discriminator * 8, "generator": 4 * generator * 8}


def _snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _changed(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def watch_updates(overrides: tuple[str, ...]) -> list[tuple[set[str], set[str], int]]:
    """What changed in G and in D in each optimizer step of one iteration, and how often D's gradients were touched."""
    experiment = build(tiny(*overrides))
    state, step = experiment.state, experiment.step
    step(experiment.sampler.batches(0), experiment.schedule.controls(0))
    seen = []
    before = [_snapshot(state.generator), _snapshot(state.discriminator)]
    gradients = [0]

    def record(*_: object) -> None:
        seen.append((_changed(before[0], state.generator), _changed(before[1], state.discriminator), gradients[0]))
        before[:] = [_snapshot(state.generator), _snapshot(state.discriminator)]
        gradients[0] = 0

    def count(*_: object) -> None:
        gradients[0] += 1

    for parameter in state.discriminator.parameters():
        parameter.register_post_accumulate_grad_hook(count)
    state.optimizer_d.register_step_post_hook(record)
    state.optimizer_g.register_step_post_hook(record)
    images = experiment.sampler.images_per_iteration
    step(experiment.sampler.batches(images), experiment.schedule.controls(images))
    return seen


@pytest.mark.multiprocess
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@pytest.mark.parametrize("network", [(*MLP, *BATCH_NORM), (*DCGAN, *BATCH_NORM)], ids=NETWORKS)
def test_an_update_touches_its_own_network_only(fleet: Fleet, network, variant, world_size: int) -> None:
    """Parameters and buffers; but the G forward that the G update shares may come before the D update."""
    config = tiny(*network, *variant)
    *updates_d, update_g = fleet.run(watch_updates, world_size, (*network, *variant))[0]
    state = build(config).state
    statistics_g = {name for name in state.generator.state_dict() if "running" in name}
    shared = config.train.reuse_fakes and config.train.accumulation == 1
    everything_g = set(state.generator.state_dict())
    parameters_d = {name for name, _ in state.discriminator.named_parameters()}

    assert len(updates_d) == config.optim.d_steps
    for index, (changed_g, changed_d, gradients_d) in enumerate(updates_d):
        assert changed_g == (statistics_g if shared and index == 0 else set())
        assert changed_d == set(state.discriminator.state_dict())
        assert gradients_d == len(parameters_d) * config.train.accumulation
    changed_g, changed_d, gradients_d = update_g
    assert changed_d == set()
    assert gradients_d == 0, "D's weight gradients are not even computed"
    assert changed_g == (everything_g - statistics_g if shared else everything_g)
    assert statistics_g


def objective_of(discriminator: torch.nn.Module, targets: Targets = HARD) -> DiscriminatorObjective:
    view = View(Draws(0, "cpu"))
    return DiscriminatorObjective(
        discriminator, LOSSES["non_saturating"], view, targets=targets, class_weight=1.0, gp_target=1.0
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_one_pass_over_reals_and_fakes_equals_two(network: tuple[str, ...], smoothing: float) -> None:
    config = tiny(*network)
    shape = (1, *height_width(config.data.resolution))
    _, discriminator = build_networks(config, shape, torch.device("cpu"))
    objective = objective_of(discriminator, Targets(1.0 - smoothing))
    assert objective.fused
    generator = torch.Generator().manual_seed(1)
    reals, fakes = (torch.randn(5, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    results = []
    for fused in (True, False):
        objective.fused = fused
        discriminator.zero_grad()
        batch = Batch(reals, torch.empty(0))
        value, real_logits, fake_logits, _ = objective(batch, fakes, PenaltyWeights(), 0.25, 0.0, 0.0)
        value.backward()
        results.append([value.detach(), real_logits, fake_logits, *(p.grad for p in discriminator.parameters())])
    torch.testing.assert_close(results[0], results[1], rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("norm", ["batch", "local_batch"])
def test_reals_and_fakes_are_normalized_apart(norm: str) -> None:
    config = tiny(*DCGAN, f"model.discriminator.norm={norm}", "cluster.num_workers=1")
    _, discriminator = build_networks(config, (1, 16, 16), torch.device("cpu"))
    assert not objective_of(discriminator).fused


def test_the_loss_is_the_mean_over_the_batch() -> None:
    """The first iteration by hand: losses, and Adam's first step along the sign of the mean gradient."""
    config = tiny(*MLP, "loss.name=minimax", "loss.label_smoothing=0.2")
    one, other = build(config), build(config)
    batches = one.sampler.batches(0)
    assert batches.generator is None
    ((batch,),) = batches.discriminator
    statistics = one.step(batches, one.schedule.controls(0, details=True))

    generator, discriminator = other.state.generator, other.state.discriminator
    fakes = generator(batch.z)
    real, fake = discriminator(batch.reals).sigmoid(), discriminator(fakes.detach()).sigmoid()
    loss_d = -(0.8 * real.log() + 0.2 * (1 - real).log() + (1 - fake).log()).mean()
    other.state.optimizer_d.zero_grad()
    loss_d.backward()
    gradients_d = torch.cat([p.grad.flatten() for p in discriminator.parameters() if p.grad is not None])
    other.state.optimizer_d.step()
    loss_g = (1 - discriminator(fakes).sigmoid()).log().mean()
    loss_g.backward()
    other.state.optimizer_g.step()

    torch.testing.assert_close((statistics.loss_d, statistics.loss_g), (loss_d.detach(), loss_g.detach()))
    torch.testing.assert_close(statistics.grad_norms["grad_norm_d"], gradients_d.norm())
    assert statistics.sums["rows"] == 12
    assert statistics.sums["real_right"] == (real > 0.5).sum()
    assert statistics.sums["fake_right"] == (fake < 0.5).sum()
    for mine, theirs in ((one.state.generator, generator), (one.state.discriminator, discriminator)):
        torch.testing.assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-12)


def test_logits_are_counted_in_bins_that_all_runs_share() -> None:
    logits = torch.tensor([-3e9, -2.5, -1e-3, 1e-3, 2.5, 2.5, 5e4, math.inf, math.nan])
    bins = logit_bins(logits)
    expected = torch.histogram(torch.tensor([-2.5, -1e-3, 1e-3, 2.5, 2.5]), torch.tensor(LOGIT_EDGES))[0]
    expected[0] += 1
    expected[-1] += 1
    torch.testing.assert_close(bins, expected)
    assert (len(LOGIT_EDGES), LOGIT_EDGES[0], LOGIT_EDGES[64]) == (NUM_BINS + 1, pytest.approx(-LOGIT_RANGE), 0.0)


def test_the_weight_norm_is_that_of_all_weights() -> None:
    parameters = [torch.tensor([3.0]), torch.tensor([[4.0, 0.0], [0.0, 12.0]])]
    torch.testing.assert_close(weight_norm(parameters), torch.tensor(13.0))
