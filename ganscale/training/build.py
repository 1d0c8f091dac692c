"""From a `Config` to objects: the place where names become networks, losses, optimizers and data."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ganscale.config import DATASETS, DISCRIMINATORS, GENERATORS, LOSSES, Config, ConfigError
from ganscale.config.checks import check_workers
from ganscale.config.optimizers import OPTIMIZERS
from ganscale.config.schedules import value
from ganscale.config.section import is_conditional
from ganscale.config.table import find, resolve
from ganscale.data import Source, open_source
from ganscale.health.diversity import spread_sums
from ganscale.losses import DataToData, Targets
from ganscale.models import Geometry
from ganscale.models.base import Discriminator
from ganscale.models.layers import Chain, filter_weights
from ganscale.models.structure import freeze
from ganscale.parallel.collectives import sum_over_replicas
from ganscale.parallel.eager import eager_optimizer
from ganscale.parallel.random import derive_seed
from ganscale.parallel.replica import Replica
from ganscale.parallel.shards import ShardGroup
from ganscale.training.augment import Augmentation
from ganscale.training.auto import least_gamma
from ganscale.training.batches import BatchSampler
from ganscale.training.cuda_graph import GraphedStep, StepFunction
from ganscale.training.ema import LogitAverages, MovingAverage, PowerAverages
from ganscale.training.objective import DiscriminatorObjective, Draws, GeneratorObjective, View
from ganscale.training.probe import Probe
from ganscale.training.schedules import Schedule
from ganscale.training.sharded import ShardedProbe, ShardedStep
from ganscale.training.state import TrainState
from ganscale.training.statistics import Total
from ganscale.training.step import Optimization, Step, decayed

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.float32}
"""Of weights, latents and real examples; bfloat16 is an autocast around float32."""
NUM_REFERENCE = 256
"""Examples that stand for the data set in `Experiment.reference`; pictures are decoded at the start of a run."""
READ_AT_ONCE = 32
"""Of these."""


def set_tf32(allowed: bool) -> None:
    """Let GPUs round the inputs of float32 products and convolutions to 10 bits, or not; holds for the whole process.

    Args:
        allowed: `train.tf32` of a run.
    """
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed


@dataclass(frozen=True)
class Experiment:
    """A run's objects on one replica.

    `iterate` runs `step`, or replays its CUDA graphs, or runs it as shards, of which `step` is the first; `probe` shows
    D held-out examples; `reference` are `spread_sums` of the data set, with which batches are compared; `total` sums
    what `iterate` and `probe` return over all replicas.
    """

    config: Config
    state: TrainState
    step: Step
    iterate: StepFunction
    sampler: BatchSampler
    schedule: Schedule
    device: torch.device
    reference: tuple[float, ...]
    probe: Probe | ShardedProbe
    total: Total = sum_over_replicas


def build_source(config: Config, device: torch.device) -> Source:
    """The run's real examples.

    Args:
        config: the run.
        device: where batches go.

    Raises:
        ConfigError: the data set is unknown, or `data.path` does not hold what it should.
    """
    try:
        return open_source(config, device, DTYPES[config.train.precision])
    except ConfigError:
        raise
    except (FileNotFoundError, ValueError) as error:
        remedy = "name a folder or zip that holds the data; every node must see it"
        raise ConfigError(str(error), key="data.path", value=config.data.path, remedy=remedy) from None


def build_networks(
    config: Config, shape: tuple[int, ...], device: torch.device, *, num_classes: int = 0
) -> tuple[nn.Module, nn.Module]:
    """Generator and discriminator with the initial weights of the run's seed: the same on every device and replica.

    Args:
        config: the run.
        shape: of one example.
        device: where they live.
        num_classes: of the data's labels.
    """
    seen = (config.model.packing * shape[0], *shape[1:])
    dtype = DTYPES[config.train.precision]
    layout = torch.channels_last if config.train.channels_last else torch.preserve_format
    networks = []
    for side, table, fits in (("generator", GENERATORS, shape), ("discriminator", DISCRIMINATORS, seen)):
        geometry = Geometry(fits, config.model.latent_dim, num_classes)
        settings = getattr(config.model, side)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(config.run.seed, f"init/{side}"))
            network = find(table, settings.name, key=f"model.{side}.name").make(settings, geometry)
        _check_network(network, f"model.{side}.name", settings.name)
        if config.train.checkpoint_activations:
            _recompute(network, settings.name)
        networks.append(network.to(device=device, dtype=dtype).to(memory_format=layout))  # pyright: ignore[reportCallIssue]
    generator, discriminator = networks
    only_differences = find(LOSSES, config.loss.name, key="loss.name").boundary is None and not config.penalty.levels
    if only_differences and isinstance(discriminator, Discriminator):
        discriminator.drop_logit_bias()
    if config.model.freeze_d:
        try:
            freeze(discriminator, config.model.freeze_d, seen)
        except ValueError as error:
            remedy = "use fewer"
            raise ConfigError(str(error), key="model.freeze_d", value=config.model.freeze_d, remedy=remedy) from None
    return generator, discriminator


def _recompute(network: nn.Module, name: str) -> None:
    """Let the backward pass compute activations again.

    Raises:
        ConfigError: the network has no blocks.
    """
    chains = [module for module in network.children() if isinstance(module, Chain)]
    if not chains:
        remedy = f"use false, or let {name} hold its layers in a ganscale.models.layers.Chain"
        raise ConfigError(f"{name} has no blocks", key="train.checkpoint_activations", value=True, remedy=remedy)
    for chain in chains:
        chain.recomputes = True


_INEXACT = {
    nn.modules.batchnorm._BatchNorm: "ganscale.models.layers.BatchNorm, whose statistics run over all workers",
    nn.modules.dropout._DropoutNd: "z for random numbers: they are functions of the seed and the image",
}


def _check_network(network: nn.Module, key: str, name: str) -> None:
    """Refuse modules of a user's network whose results would depend on the number of workers."""
    for module in network.modules():
        for kind, instead in _INEXACT.items():
            if isinstance(module, kind):
                problem = f"its {type(module).__name__} makes the result depend on the number of workers"
                raise ConfigError(problem, key=key, value=name, remedy=f"use {instead}")


def build(
    config: Config,
    *,
    device: torch.device | str = "cpu",
    replica: Replica | None = None,
    source: Source | None = None,
) -> Experiment:
    """All objects of a run on this replica, at image 0; sets torch's TF32 flags as the run has them.

    Args:
        config: the run.
        device: where it trains.
        replica: this process among the replicas; None for torch.distributed's.
        source: the real examples, where they are open already.
    """
    device = torch.device(device)
    replica = replica or Replica.current()
    set_tf32(config.train.tf32)
    source = build_source(config, device) if source is None else source
    state = initial_state(config, source.shape, device, num_classes=source.num_classes)
    state.scale = getattr(source, "scale", ())
    if config.train.compile:
        state.generator.compile()
        state.discriminator.compile()
    shards = _shard_group(config, device, replica)
    if shards:
        iterate = ShardedStep(shards, state, partial(build_step, config, device=device))
        steps = iterate.steps
    else:
        steps = [build_step(config, state, device=device, replica=replica)]
        iterate = GraphedStep(steps[0], device) if config.train.cuda_graphs else steps[0]
    if config.train.cuda_graphs:
        _check_graphs(device, replica)
    reference = _reference(source)
    schedule = Schedule(config, least_gamma(reference, math.prod(source.shape)))
    if schedule.gamma_rule is not None:
        state.gamma = schedule.gamma_rule.least
    sampler = BatchSampler(
        source,
        config,
        replica=replica,
        device=device,
        dtype=DTYPES[config.train.precision],
        shards=[Replica(shard, shards.num_replicas) for shard in shards.own] if shards else (),
    )
    probes = _probes(config, steps, sampler, num_classes=source.num_classes)
    return Experiment(
        config,
        state,
        steps[0],
        iterate,
        sampler,
        schedule,
        device,
        reference,
        ShardedProbe(shards, probes) if shards else probes[0],
        shards.total if shards else sum_over_replicas,
    )


def _probes(config: Config, steps: Sequence[Step], sampler: BatchSampler, *, num_classes: int) -> list[Probe]:
    """What shows D held-out examples: one for each step of this process."""
    held_out = find(DATASETS, config.data.name, key="data.name").held_out
    read = lru_cache(maxsize=1)(partial(resolve(held_out), config, seed=config.run.seed)) if held_out else None
    count = len(steps)
    return [
        Probe(
            step.d.network,
            step.objective_g.view,
            read,
            batch_size=config.train.batch_size,
            rows=sampler.rows[position::count],
            places=sampler.places[position::count],
            num_classes=num_classes if is_conditional(config.model.discriminator) else 0,
            autocast=step.autocast,
            compiled=config.train.compile,
        )
        for position, step in enumerate(steps)
    ]


def _shard_group(config: Config, device: torch.device, replica: Replica) -> ShardGroup | None:
    """The shards of `train.shards` on this replica; each computes with one thread, for the whole process."""
    shards = config.train.shards
    if not shards:
        return None
    if device.type != "cpu":
        problem = f"bits are the same for every number of workers on CPUs only, not on {device.type}"
        raise ConfigError(problem, key="train.shards", value=shards, remedy="use 0, or train.device=cpu")
    check_workers(config, replica.world_size)
    torch.set_num_threads(1)
    return ShardGroup(shards, replica, at_once=config.cluster.cpus_per_worker)


def _reference(source: Source) -> tuple[float, ...]:
    """`spread_sums` of the first examples, of which few are in memory at a time: large pictures take megabytes each."""
    starts = range(0, NUM_REFERENCE, READ_AT_ONCE)
    parts = [spread_sums(source.read(start, start + READ_AT_ONCE)[0]) for start in starts]
    return tuple(torch.stack(parts).sum(0).tolist())


def _check_graphs(device: torch.device, replica: Replica) -> None:
    """Refuse CUDA graphs where there are none."""
    problem = "needs a GPU" if device.type != "cuda" else "works with one worker" if replica.world_size > 1 else ""
    if problem:
        raise ConfigError(problem, key="train.cuda_graphs", value=True, remedy="use false")


def initial_state(config: Config, shape: tuple[int, ...], device: torch.device, *, num_classes: int = 0) -> TrainState:
    """The state of a run at image 0.

    Args:
        config: the run.
        shape: of one example.
        device: where it is kept.
        num_classes: of the data's labels.
    """
    generator, discriminator = build_networks(config, shape, device, num_classes=num_classes)
    optimizer_g, optimizer_d = _build_optimizers(config, generator, discriminator)
    ema = MovingAverage(generator, 0.0)
    return TrainState(
        generator,
        discriminator,
        ema,
        optimizer_g,
        optimizer_d,
        augment_p=value(config.augment.p, 0),
        logit_averages=LogitAverages(config.penalty.lecam_decay, device),
        averages=PowerAverages(generator, config.ema.profiles),
        path_length=torch.zeros((), dtype=DTYPES[config.train.precision], device=device),
    )


def _build_optimizers(config: Config, generator: nn.Module, discriminator: nn.Module) -> list[Optimizer]:
    """Optimizers of what is trained; rates and betas are set again before every update, by the run's schedule."""
    trained_d = [each for each in discriminator.parameters() if each.requires_grad]
    schedule = Schedule(config)
    start, settings, optimizers = schedule.controls(0), config.optim, []
    sides = zip("gd", (generator.parameters(), trained_d), schedule.shares, strict=True)
    for side, parameters, share in sides:
        entry = find(OPTIMIZERS, getattr(settings, f"name_{side}"), key=f"optim.name_{side}")
        arguments: dict[str, Any] = dict(entry.arguments) | {"lr": getattr(start, f"lr_{side}"), "eps": settings.eps}
        if "betas" in entry.settings:
            arguments["betas"] = getattr(start, f"betas_{side}")
        if "alpha" in entry.settings:
            arguments["alpha"] = getattr(settings, f"alpha_{side}") ** share
        optimizers.append(eager_optimizer(resolve(entry.build))(parameters, **arguments))
    return optimizers


def build_step(
    config: Config,
    state: TrainState,
    *,
    device: torch.device,
    replica: Replica,
    kind: Callable[..., Step] = Step,
) -> Step:
    """The update with its objectives.

    Args:
        config: the run.
        state: networks and optimizers.
        device: where random numbers are made.
        replica: this process among the replicas.
        kind: the class of the update.
    """
    loss, augment, optim, packing = config.loss, config.augment, config.optim, config.model.packing
    view = View(
        Draws(config.run.seed, device),
        channels_last=config.train.channels_last,
        augmentation=Augmentation(augment.names, augment.factors) if augment.transforms else None,
        packing=packing,
    )
    data_to_data = None
    if getattr(config.model.discriminator, "conditioning", "") == "reacgan":
        data_to_data = DataToData(*loss.class_margins, loss.class_temperature, config.train.batch_size)
    objective_d = DiscriminatorObjective(
        state.discriminator,
        LOSSES[loss.name],
        view,
        targets=Targets(1.0 - loss.label_smoothing, loss.fake_label_smoothing),
        class_weight=loss.class_weight,
        gp_target=config.penalty.gp_target,
        estimated=config.penalty.estimated,
        averages=state.logit_averages if config.penalty.lecam != 0.0 else None,
        sigma=config.penalty.sigma or (0.01 if DATASETS[config.data.name].is_points else 0.1),
        data_to_data=data_to_data,
    )
    objective_g = GeneratorObjective(
        state.discriminator,
        LOSSES[loss.name],
        view,
        class_weight=loss.class_weight,
        feature_matching=loss.feature_matching,
        batch_rows=config.train.batch_size // packing,
        data_to_data=data_to_data,
    )
    _check_effects(config, state)
    return kind(
        state.generator,
        objective_d,
        objective_g,
        Optimization(state.optimizer_g, optim.clip_grad_norm_g, weight_decay=optim.weight_decay_g),
        Optimization(state.optimizer_d, optim.clip_grad_norm_d, loss.clip_weights, optim.weight_decay_d),
        batch_size=config.train.batch_size,
        orthogonal=config.penalty.orthogonal,
        r1_separate=config.penalty.r1_separate,
        path_length=state.path_length,
        # The cache of casts is one for all threads: what is found in it would depend on their timing.
        autocast=partial(torch.autocast, device.type, torch.bfloat16, cache_enabled=not config.train.shards)
        if config.train.precision == "bfloat16"
        else nullcontext,
        replica=replica,
    )


def _check_effects(config: Config, state: TrainState) -> None:
    """Refuse settings that find no weight of these networks to act on."""
    remedy = "use 0, or an architecture of linear layers and convolutions"
    for side, network in (("g", state.generator), ("d", state.discriminator)):
        strength = getattr(config.optim, f"weight_decay_{side}")
        if strength and not decayed(network):
            problem = "no weight of this network decays: its layers scale their weights by themselves"
            raise ConfigError(problem, key=f"optim.weight_decay_{side}", value=strength, remedy=remedy)
    if config.penalty.orthogonal and not filter_weights(state.generator):
        problem = "the generator has no weights that could be orthogonal"
        raise ConfigError(problem, key="penalty.orthogonal", value=config.penalty.orthogonal, remedy=remedy)
