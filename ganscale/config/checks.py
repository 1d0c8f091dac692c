"""Settings that contradict each other, found before anything starts."""

from importlib.util import find_spec
from pathlib import Path

from ganscale.config.check_model import POINT_DATA, check_model
from ganscale.config.errors import ConfigError
from ganscale.config.evaluation import EVALUATED, EXTRACTORS, LEAST_SAMPLES, METRICS, gives
from ganscale.config.registry import LOSSES
from ganscale.config.schema import Config
from ganscale.config.section import is_conditional


def check(config: Config) -> None:
    """Check settings against each other.

    Raises:
        ConfigError: for the first contradiction; it names key, value and remedy.
    """
    _check_batch(config)
    _check_data(config)
    check_model(config)
    _check_objective(config)
    _check_arithmetic(config)
    _check_evaluation(config)
    if config.wandb.mode == "online" and not config.wandb.project.strip():
        raise ConfigError("W&B needs a project", key="wandb.project", value=config.wandb.project, remedy="name one")


def check_files(config: Config) -> None:
    """Refuse what this machine lacks: data, TensorBoard. Apart from `check`: a config is valid without them."""
    data = config.data
    if data.name in ("cifar10", "folder"):
        what = "the folder with cifar-10-batches-py/" if data.name == "cifar10" else "a folder or zip of pictures"
        if not Path(data.path).expanduser().exists():
            raise ConfigError("no such file or folder", key="data.path", value=data.path, remedy=f"name {what}")
    if config.log.tensorboard and find_spec("tensorboard") is None:
        remedy = "pip install 'ganscale[tensorboard]', or set it to false"
        raise ConfigError("TensorBoard is not installed", key="log.tensorboard", value=True, remedy=remedy)


def _check_data(config: Config) -> None:
    data = config.data
    if data.name in ("cifar10", "folder") and not data.path:
        raise ConfigError(
            f"data.name = {data.name} needs files",
            key="data.path",
            value="",
            remedy="name the folder with cifar-10-batches-py/, or a folder or zip of pictures",
        )
    if data.name == "cifar10" and data.resolution != 32:
        raise ConfigError("cifar10 has 32 pixels", key="data.resolution", value=data.resolution, remedy="use 32")
    if data.mirror and data.name not in ("cifar10", "folder"):
        raise ConfigError(
            f"data.name = {data.name} is not to be mirrored", key="data.mirror", value=True, remedy="use false"
        )


def _check_evaluation(config: Config) -> None:
    settings, data = config.eval, config.data.name
    names = settings.metrics or EVALUATED[data]
    extractor = EXTRACTORS[data][0] if settings.extractor == "auto" else settings.extractor
    if extractor not in EXTRACTORS[data]:
        raise ConfigError(
            f"does not fit data.name = {data}",
            key="eval.extractor",
            value=extractor,
            remedy=f"use {' or '.join(EXTRACTORS[data])}",
        )
    for name in settings.metrics:
        given = gives(data, extractor)
        if METRICS[name].needs not in given or (name == "high_quality" and data not in POINT_DATA):
            fitting = [n for n, facts in METRICS.items() if facts.needs in given and n != "high_quality"]
            raise ConfigError(
                f"data.name = {data} seen through eval.extractor = {extractor} does not give {name}",
                key="eval.metrics",
                value=list(settings.metrics),
                remedy=f"use some of {', '.join(fitting)}",
            )
    least = LEAST_SAMPLES if {"precision", "recall", "density", "coverage"} & set(names) else 2
    if settings.num_samples < least:
        raise ConfigError(
            "too few samples for precision, recall, density and coverage",
            key="eval.num_samples",
            value=settings.num_samples,
            remedy=f"use at least {least}",
        )
    best = config.checkpoint.best_metric
    if best and (best not in names or settings.every == 0):
        raise ConfigError(
            f"is not among the metrics that this run computes ({', '.join(names) if settings.every else 'none'})",
            key="checkpoint.best_metric",
            value=best,
            remedy=f"add it to eval.metrics, or use {names[0]}" if settings.every else "set eval.every, or use ''",
        )


def _check_batch(config: Config) -> None:
    train, packing = config.train, config.model.packing
    if train.batch_size % packing:
        raise ConfigError(
            f"not a multiple of model.packing = {packing}",
            key="train.batch_size",
            value=train.batch_size,
            remedy=f"use {train.batch_size // packing * packing or packing}",
        )
    if train.accumulation > train.batch_size // packing:
        what = f"images in the global batch (train.batch_size = {train.batch_size})"
        raise ConfigError(
            f"more micro-batches than {what}" if packing == 1 else f"more micro-batches than packs of {packing} {what}",
            key="train.accumulation",
            value=train.accumulation,
            remedy=f"use at most {train.batch_size // packing}",
        )
    workers = config.cluster.num_workers
    if workers != "auto":
        check_workers(config, max(workers) if isinstance(workers, tuple) else workers)


def _check_objective(config: Config) -> None:
    loss, smoothing = config.loss, ("label_smoothing", "fake_label_smoothing")
    for name in smoothing:
        if getattr(loss, name) and not LOSSES[loss.name].has_labels:
            raise ConfigError(
                f"loss.name = {loss.name} has no labels to smooth",
                key=f"loss.{name}",
                value=getattr(loss, name),
                remedy=f"use 0, or loss.name = {' or '.join(name for name in LOSSES if LOSSES[name].has_labels)}",
            )
    if config.augment.transforms and config.data.name in POINT_DATA:
        raise ConfigError(
            f"data.name = {config.data.name} has no images to transform",
            key="augment.transforms",
            value=list(config.augment.transforms),
            remedy="use [] (augment.noise works for points)",
        )
    if config.augment.adaptive and not config.augment.transforms:
        raise ConfigError(
            "there is no transform whose probability could adapt",
            key="augment.adaptive",
            value=True,
            remedy="name some in augment.transforms",
        )
    if config.augment.adaptive and not LOSSES[loss.name].has_boundary:
        raise ConfigError(
            f"loss.name = {loss.name} has no logit above which D says real, by which ADA sees overfitting",
            key="augment.adaptive",
            value=True,
            remedy=f"use false, or loss.name = {' or '.join(name for name in LOSSES if LOSSES[name].has_boundary)}",
        )
    packing = config.model.packing
    if packing > 1 and is_conditional(config.model.discriminator):
        raise ConfigError(
            "examples judged together have no common class",
            key="model.packing",
            value=packing,
            remedy="use 1, or model.discriminator.conditioning = none",
        )


def _check_arithmetic(config: Config) -> None:
    twice = [name for name in ("gp", "r1", "r2", "dragan") if getattr(config.penalty, name) != 0.0]
    if config.train.compile and twice:
        raise ConfigError(
            f"torch.compile cannot differentiate twice, which penalty.{twice[0]} needs",
            key="train.compile",
            value=True,
            remedy=f"use false, or penalty.{twice[0]} = 0",
        )


def check_workers(config: Config, num_workers: int) -> None:
    """Refuse a number of workers for which a worker would have no image in a micro-batch."""
    train = config.train
    packing = config.model.packing
    if train.batch_size // packing // train.accumulation < num_workers:
        least = num_workers * train.accumulation * packing
        raise ConfigError(
            f"the global batch gives each of {num_workers} workers less than one image per micro-batch "
            f"(train.accumulation = {train.accumulation}, model.packing = {packing})",
            key="train.batch_size",
            value=train.batch_size,
            remedy=f"use train.batch_size >= {least} or fewer workers (cluster.num_workers)",
        )
