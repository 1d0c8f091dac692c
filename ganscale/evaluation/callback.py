"""Evaluation during a run, and of a checkpoint, on any number of replicas. Knows nothing of Ray."""

import time
from collections.abc import Callable, Sequence

import torch

from ganscale.config import DATASETS, EXTRACTORS, METRICS, Config, ConfigError
from ganscale.config.checks import extractor_name, metric_names
from ganscale.data import Source
from ganscale.evaluation.evaluator import Evaluator, missing_extractor
from ganscale.evaluation.metrics.cache import cache_folder
from ganscale.evaluation.metrics.result import Evaluation
from ganscale.parallel.collectives import Replica, sum_over_replicas
from ganscale.storage import checkpoint
from ganscale.storage.checkpoint import CheckpointError
from ganscale.storage.store import Place
from ganscale.training.build import Experiment, build_networks, build_source
from ganscale.training.ema import MovingAverage
from ganscale.training.loop import Tick
from ganscale.training.statistics import has_finite_weights


def evaluate_checkpoints(config: Config, folders: Sequence[Place], *, device: torch.device) -> list[Evaluation]:
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

    Args:
        config: the run.
        source: its training examples.
        device: where to compute.

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
        name = extractor_name(config)
        key, value, remedy = "eval.weights", config.eval.weights, "repair or replace the file"
        if not EXTRACTORS[name].reads_weights:
            key, value, remedy = "eval.extractor", name, "use another one, see docs/metrics.md"
        raise ConfigError(str(error), key=key, value=value, remedy=remedy) from None


def without_extractor(config: Config, missing: str) -> tuple[str, Config | None]:
    """What a run does whose extractor cannot be used: a line for the log, and the config of its evaluation, if any.

    Args:
        config: the run.
        missing: why, as "reason; remedy".
    """
    seen = EXTRACTORS["patches"].seen(DATASETS[config.data.name])
    others = [name for name in config.eval.metrics if METRICS[name].needs not in seen]
    if others or config.eval.extractor != "auto" or "patches" not in DATASETS[config.data.name].extractors:
        return f"warning: samples are not evaluated: {missing}", None
    config = config.model_copy(update={"eval": config.eval.model_copy(update={"extractor": "patches"})})
    names, best = metric_names(config), config.checkpoint.best_metric
    line = f"samples are evaluated by {', '.join(names)} (docs/metrics.md): {missing}"
    if best and best not in names:
        line += f"; no checkpoint is kept as the best, as checkpoint.best_metric = {best} is not computed"
    return line, config


class EvaluationCallback:
    """Evaluates the generator's moving average when it is due, on all replicas together.

    It is due at the ends of the interval `eval.every`, and at the end of a run that is at least so long.

    Args:
        experiment: the run's objects.
        info: takes a line for the log.

    Attributes:
        config: the run, with the protocol that this machine can follow.
    """

    def __init__(self, experiment: Experiment, info: Callable[[str], None]) -> None:
        self._experiment, self._info = experiment, info
        self._seconds = 0.0
        self._evaluator: Evaluator | None = None
        config = experiment.config
        self._on = 0 < config.eval.every <= config.train.images
        missing = self._agreed(lambda: missing_extractor(config)) if self._on else ""
        line, followed = without_extractor(config, missing) if missing else ("", config)
        if line:
            info(line)
        self._on, config = self._on and followed is not None, followed or config
        self.config = config

    def is_due(self, tick: Tick) -> bool:
        """Whether the generator is to be evaluated and its weights are finite.

        Args:
            tick: the newest.
        """
        return self._on and tick.is_due("eval", "end") and has_finite_weights(self._experiment.state.ema.module)

    def __call__(self, tick: Tick) -> Evaluation | None:
        """The scores if they are due and the generator's weights are finite.

        Args:
            tick: the newest.
        """
        experiment = self._experiment
        if not self.is_due(tick):
            return None
        expected = f"about {self._seconds:.0f} s" if self._seconds else "the time left does not include this"
        self._info(f"evaluating at {tick.images:,} images: {experiment.config.eval.num_samples:,} samples, {expected}")
        started = time.perf_counter()
        if self._evaluator is None and (problem := self._agreed(self._make)):
            self._on = False
            self._info(f"warning: samples are not evaluated: {problem}")
        if self._evaluator is None:
            return None
        evaluation = self._evaluator.evaluate(experiment.state.ema.module, tick.images)
        self._seconds = time.perf_counter() - started
        return evaluation

    def _make(self) -> None:
        experiment = self._experiment
        self._evaluator = make_evaluator(self.config, experiment.sampler.source, device=experiment.device)

    def _agreed(self, attempt: Callable[[], str | None]) -> str:
        """What is wrong for any replica, as all must evaluate or none; empty if nothing is."""
        try:
            problem = attempt() or ""
        except ConfigError as error:
            problem = str(error).replace("\n  remedy: ", "; ")
        except Exception as error:  # the others wait for this worker's answer
            problem = f"{type(error).__name__}: {error}"
        (count,) = sum_over_replicas([torch.tensor(float(bool(problem)), device=self._experiment.device)])
        if count:
            self._evaluator = None
        return problem or ("another worker cannot, see eval.weights and docs/metrics.md" if count else "")
