"""Evaluation during a run, and of a checkpoint, on any number of replicas. Knows nothing of Ray."""

import math
from pathlib import Path

import torch

from ganscale.config import Config, ConfigError
from ganscale.config.checks import extractor_name
from ganscale.data import Source
from ganscale.evaluation.evaluator import Evaluator, missing_extractor
from ganscale.evaluation.metrics.cache import cache_folder
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.parallel.collectives import Replica
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointError
from ganscale.tracking.console import Console
from ganscale.training.build import Experiment, build_networks, build_source
from ganscale.training.ema import MovingAverage
from ganscale.training.loop import Tick
from ganscale.training.step import weight_norm


def can_sample(experiment: Experiment) -> bool:
    """Whether the average's weights are finite, so that samples of it can be judged; the same on all replicas.

    Args:
        experiment: the run.
    """
    return math.isfinite(float(weight_norm(list(experiment.state.ema.module.parameters()))))


def evaluate_checkpoints(config: Config, folders: list[Path], *, device: torch.device) -> list[Evaluation]:
    """Judge the generator's moving average of some checkpoints of one run; all replicas call together.

    Args:
        config: the run's, with the protocol in its section `eval`.
        folders: of the checkpoints.
        device: where this replica computes.

    Raises:
        ConfigError: data, extractor or a checkpoint are not there, or damaged.
    """
    torch.set_num_threads(config.cluster.cpus_per_worker)
    source = build_source(config, device)
    generator, _ = build_networks(config, source.shape, device, num_classes=source.num_classes)
    ema = MovingAverage(generator, 0.0)
    evaluator = make_evaluator(config, source, device=device)
    found = []
    for folder in folders:
        try:
            manifest, state = checkpoint.load(folder)
            ema.module.load_state_dict(state["ema"])
        except (CheckpointError, KeyError, RuntimeError) as error:
            remedy = "name another with --checkpoint"
            raise ConfigError(str(error), key="checkpoint", value=str(folder), remedy=remedy) from None
        found.append(evaluator.evaluate(ema.module, manifest.images))
    return found


def make_evaluator(config: Config, source: Source, *, device: torch.device) -> Evaluator:
    """The evaluator of the config's protocol, among torch.distributed's replicas.

    Args: config: of the run; source: its training data; device: where to compute.

    Raises:
        ConfigError: the extractor or the test set is not there, or damaged.
    """
    problem = missing_extractor(config)
    if problem:
        reason, _, remedy = problem.partition("; ")
        raise ConfigError(reason, key="eval.extractor", value=extractor_name(config), remedy=remedy)
    try:
        return Evaluator(config, source, device=device, replica=Replica.current(), cache=cache_folder())
    except ConfigError:
        raise
    except (ImportError, FileNotFoundError, ValueError) as error:
        remedy = "repair or replace the file"
        raise ConfigError(str(error), key="eval.weights", value=config.eval.weights, remedy=remedy) from None


class EvaluationCallback:
    """Evaluates the generator's moving average when it is due, on all replicas together.

    Due are the ends of the interval `eval.every`, and the end of a run that is at least so long.
    """

    def __init__(self, experiment: Experiment, console: Console | None) -> None:
        self._experiment = experiment
        self._evaluator: Evaluator | None = None
        config = experiment.config
        self._on = 0 < config.eval.every <= config.train.images
        missing = missing_extractor(config) if self._on and config.eval.extractor == "auto" else None
        if missing:
            self._on = False
            if console:
                console.info(f"samples are not evaluated: {missing}")

    def __call__(self, tick: Tick) -> Evaluation | None:
        """The scores if they are due and there is anything to score: a generator of NaN makes no samples."""
        if not self._on or not tick.due & {"eval", "end"}:
            return None
        experiment = self._experiment
        if not can_sample(experiment):
            return None
        if self._evaluator is None:
            self._evaluator = make_evaluator(experiment.config, experiment.sampler.source, device=experiment.device)
        return self._evaluator.evaluate(experiment.state.ema.module, tick.images)
