"""Settings that contradict each other, found before anything starts."""

import math
from importlib.util import find_spec
from pathlib import Path

from ganscale.config.datasets import DATASETS, MADE_BY, is_pattern
from ganscale.config.errors import ConfigError, shown
from ganscale.config.evaluation import EXTRACTORS, METRICS
from ganscale.config.losses import LOSSES
from ganscale.config.networks import DISCRIMINATORS, GENERATORS, feature_maps
from ganscale.config.objective import GROUPS, Scheduled
from ganscale.config.optimizers import OPTIMIZERS
from ganscale.config.schema import Config
from ganscale.config.section import is_conditional
from ganscale.config.table import find, resolve

MAX_PIXELS = 4096
"""Most numbers of an image that are taken as features as they are: their covariance has the square of it."""


def check(config: Config) -> None:
    """Check settings against each other.

    Args:
        config: the run.

    Raises:
        ConfigError: for the first contradiction; it names key, value and remedy.
    """
    _check_batch(config)
    _check_data(config)
    _check_model(config)
    _check_start(config)
    _check_objective(config)
    _check_auto(config)
    _check_averages(config)
    _check_optimizers(config)
    _check_arithmetic(config)
    _check_shards(config)
    _check_live(config)
    _check_evaluation(config)
    _check_table(config)
    if config.wandb.mode == "online" and not config.wandb.project.strip():
        raise ConfigError("W&B needs a project", key="wandb.project", value=config.wandb.project, remedy="name one")


def _check_table(config: Config) -> None:
    """The table of samples is one of images, and of those in the grid."""
    count, key = config.log.table_samples, "log.table_samples"
    data = DATASETS[config.data.name]
    if count and (data.is_points or data.is_latent):
        problem = f"a table of samples is one of images, and data.name = {config.data.name} has none"
        raise ConfigError(problem, key=key, value=count, remedy="use 0")
    if count > config.log.num_samples:
        problem = f"a table has rows of the sample grid, which has {config.log.num_samples} images"
        remedy = f"use at most {config.log.num_samples}, or raise log.num_samples"
        raise ConfigError(problem, key=key, value=count, remedy=remedy)


def check_files(config: Config, *, scores: bool = False) -> None:
    """Refuse what this machine lacks: data, weights, TensorBoard. Apart from `check`: a config is valid without them.

    Args:
        config: the run.
        scores: whether there must be scores. A run does without if `eval.extractor` is auto and finds no weights.

    Raises:
        ConfigError: for the first thing that is missing.
    """
    data = config.data
    entry = find(DATASETS, data.name, key="data.name")
    what, path = entry.path, Path(data.path).expanduser()
    may_match = entry.has_pictures and is_pattern(path.name)
    if what and "://" not in data.path and not may_match and not path.exists():
        made_by = MADE_BY.get(path.name)
        remedy = f"run `{made_by}`, or name {what}" if made_by else f"name {what}"
        raise ConfigError("no such file or folder", key="data.path", value=data.path, remedy=remedy)
    if entry.check is not None:
        resolve(entry.check)(config, **({"scores": scores} if entry.is_latent else {}))
    evaluated = 0 < config.eval.every <= config.train.images and config.eval.extractor != "auto"
    extractor = extractor_name(config)
    if extractor == "pixels" and (scores or evaluated) and not entry.is_latent:  # `entry.check` knows their channels
        fewest = 1 if data.channels == "auto" else data.channels
        check_pixels(entry.shape(data.resolution, fewest if entry.has_pictures else None))
    missing = EXTRACTORS[extractor].missing if scores or evaluated else None
    if missing and (problem := resolve(missing)(config.eval.weights)):
        reason, _, remedy = problem.partition("; ")
        raise ConfigError(reason, key="eval.extractor", value=extractor, remedy=remedy)
    if config.log.tensorboard and find_spec("tensorboard") is None:
        remedy = "pip install 'ganscale[tensorboard]', or set it to false"
        raise ConfigError("TensorBoard is not installed", key="log.tensorboard", value=True, remedy=remedy)


def check_pixels(shape: tuple[int, ...]) -> None:
    """Refuse examples that are too large to be their own features.

    Args:
        shape: of one example.

    Raises:
        ConfigError: it has more than `MAX_PIXELS` numbers.
    """
    size = math.prod(shape)
    if size > MAX_PIXELS:
        problem = f"images of {size} numbers are too large to be their own features (at most {MAX_PIXELS})"
        remedy = "use patches, or a smaller data.resolution"
        raise ConfigError(problem, key="eval.extractor", value="pixels", remedy=remedy)


def _check_data(config: Config) -> None:
    data, entry = config.data, DATASETS[config.data.name]
    if entry.path and not data.path:
        raise ConfigError(
            f"data.name = {data.name} needs files", key="data.path", value="", remedy=f"name {entry.path}"
        )
    if isinstance(data.resolution, tuple) and not (entry.has_pictures or entry.is_latent):
        problem = f"data.name = {data.name} has square images"
        raise ConfigError(problem, key="data.resolution", value=list(data.resolution), remedy="name one side")
    if entry.resolution not in (None, data.resolution):
        raise ConfigError(
            f"{data.name} has {entry.resolution} pixels",
            key="data.resolution",
            value=data.resolution,
            remedy=f"use {entry.resolution}",
        )
    if data.mirror and not entry.can_mirror:
        raise ConfigError(
            f"data.name = {data.name} is not to be mirrored", key="data.mirror", value=True, remedy="use false"
        )
    for name in ("labels", "channels", "fit", "background", "range", "balance", "shuffle_block"):
        value, default = getattr(data, name), type(data).model_fields[name].default
        if value != default and not entry.has_pictures:
            problem = f"data.name = {data.name} does not read it"
            raise ConfigError(problem, key=f"data.{name}", value=value, remedy=f"leave it at {shown(default)}")
    if data.class_weights and data.balance == "none":
        remedy = "set data.balance=classes, or leave it out"
        problem = "data.balance = none ignores it"
        raise ConfigError(problem, key="data.class_weights", value=data.class_weights, remedy=remedy)
    if data.balance != "none" and data.shuffle_block:
        problem = "data.balance = classes has an order of its own"
        raise ConfigError(problem, key="data.shuffle_block", value=data.shuffle_block, remedy="use 0")
    if data.range is not None and data.range[0] >= data.range[1]:
        remedy = "write [BLACK, WHITE], e.g. [0, 1]"
        raise ConfigError("the first is not the smaller", key="data.range", value=data.range, remedy=remedy)


def _check_model(config: Config) -> None:
    for side, table in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS)):
        settings, key = getattr(config.model, side), f"model.{side}"
        if table[settings.name].needs_images and DATASETS[config.data.name].is_points:
            raise ConfigError(
                f"convolutions cannot make the 2-D points of data.name = {config.data.name}",
                key=f"{key}.name",
                value=settings.name,
                remedy=f"use {' or '.join(name for name, entry in table.items() if not entry.needs_images)}",
            )
        tanh = table[settings.name].is_bounded or getattr(settings, "output", "") == "tanh"
        if tanh and side == "generator" and DATASETS[config.data.name].is_latent:
            problem, remedy = "its images lie in [-1, 1], which latents exceed", "use transformer, stylegan2 or r3gan"
            raise ConfigError(problem, key=f"{key}.name", value=settings.name, remedy=remedy)
        for check_settings in table[settings.name].checks:
            check_settings(config, settings, key)
    model = config.model
    conditional = {side: is_conditional(getattr(model, side)) for side in ("generator", "discriminator")}
    if len(set(conditional.values())) == 1:
        return
    lacks, other = ("generator", "discriminator") if conditional["discriminator"] else ("discriminator", "generator")
    choice = {"generator": "concat", "discriminator": "projection"}[lacks]
    if lacks == "discriminator" and model.discriminator.name == "r3gan":
        choice = "bilinear"
    raise ConfigError(
        f"the {lacks} ignores the classes that the {other} is given",
        key=f"model.{lacks}.conditioning",
        value="none",
        remedy=f"set it to {choice}, or model.{other}.conditioning to none",
    )


def _check_start(config: Config) -> None:
    """Refuse settings of a warm start that contradict each other."""
    train, frozen = config.train, config.model.freeze_d
    parts = train.init_parts
    if not parts or len(set(parts)) < len(parts):
        remedy = "use some of generator, discriminator, ema, optimizers, each once"
        raise ConfigError("names nothing, or a part twice", key="train.init_parts", value=list(parts), remedy=remedy)
    if "ema" in parts and "generator" not in parts:
        remedy = "add generator, or leave ema out"
        problem = "an average of weights that the generator does not start from"
        raise ConfigError(problem, key="train.init_parts", value=list(parts), remedy=remedy)
    if parts == ("optimizers",):
        remedy = "add generator or discriminator"
        problem = "moments of weights that are not taken"
        raise ConfigError(problem, key="train.init_parts", value=list(parts), remedy=remedy)
    if not frozen:
        return
    if not train.init_from or "discriminator" not in parts:
        raise ConfigError(
            "D would keep random weights",
            key="model.freeze_d",
            value=frozen,
            remedy="use 0, or set train.init_from, with discriminator in train.init_parts",
        )
    settings = config.model.discriminator
    if settings.name not in ("mlp", "dcgan", "resnet", "biggan", "r3gan"):
        return  # its blocks are counted when it is built
    most = settings.depth if settings.name == "mlp" else len(feature_maps(settings, config.data.resolution))
    if frozen > most:
        remedy = f"use at most {most}"
        raise ConfigError(f"D has {most} of them", key="model.freeze_d", value=frozen, remedy=remedy)


def extractor_name(config: Config) -> str:
    """The feature extractor that the config asks for, `auto` resolved.

    Args:
        config: the run.
    """
    asked = config.eval.extractor
    return DATASETS[config.data.name].extractors[0] if asked == "auto" else asked


def metric_names(config: Config) -> tuple[str, ...]:
    """The metrics that the config asks for.

    Args:
        config: the run.
    """
    usual = EXTRACTORS[extractor_name(config)].metrics or DATASETS[config.data.name].metrics
    return config.eval.metrics or usual


def _check_evaluation(config: Config) -> None:
    settings, data = config.eval, DATASETS[config.data.name]
    names, extractor = metric_names(config), extractor_name(config)
    if extractor not in data.extractors:
        raise ConfigError(
            f"does not fit data.name = {config.data.name}",
            key="eval.extractor",
            value=extractor,
            remedy=f"use {' or '.join(data.extractors)}",
        )
    seen = EXTRACTORS[extractor].seen(data)
    for name in settings.metrics:
        if METRICS[name].needs not in seen:
            raise ConfigError(
                f"data.name = {config.data.name} seen through eval.extractor = {extractor} does not give {name}",
                key="eval.metrics",
                value=list(settings.metrics),
                remedy=f"use some of {', '.join(n for n, metric in METRICS.items() if metric.needs in seen)}",
            )
    least, name = max((METRICS[name].min_samples, name) for name in names)
    if settings.num_samples < least:
        raise ConfigError(
            f"too few samples for {name}",
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
    if best and not METRICS[best].is_goal:
        problem = "its best value is not that of the best generator"
        others = [name for name in names if METRICS[name].is_goal]
        remedy = f"use {' or '.join(others) or repr('')}"
        raise ConfigError(problem, key="checkpoint.best_metric", value=best, remedy=remedy)


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
    if not train.reuse_reals:
        _check_new_reals(config)
    workers = config.cluster.num_workers
    if workers != "auto":
        check_workers(config, max(workers) if isinstance(workers, tuple) else workers)


def _check_new_reals(config: Config) -> None:
    """Refuse new reals for the generator update where they do not fit its z or nothing looks at them."""
    problem, remedy = "", "use true"
    if config.train.reuse_fakes:
        problem, remedy = "the fakes of the discriminator update belong to its reals", "set train.reuse_fakes=false too"
    sides = (config.model.generator, config.model.discriminator)
    if not (LOSSES[config.loss.name].compares or config.loss.feature_matching or any(map(is_conditional, sides))):
        problem = f"the generator of loss.name = {config.loss.name} sees neither real images nor classes"
    if problem:
        raise ConfigError(problem, key="train.reuse_reals", value=False, remedy=remedy)


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
    data = DATASETS[config.data.name]
    if config.augment.transforms and (data.is_points or data.is_latent):
        raise ConfigError(
            f"data.name = {config.data.name} has no images to transform",
            key="augment.transforms",
            value=list(config.augment.transforms),
            remedy="use [] (augment.noise works for all)",
        )
    if "rotate90" in config.augment.transforms and isinstance(config.data.resolution, tuple):
        raise ConfigError(
            f"images of {list(config.data.resolution)} pixels cannot be turned by 90 degrees",
            key="augment.transforms",
            value=list(config.augment.transforms),
            remedy="leave rotate90 out, or use square images (data.resolution)",
        )
    for name in config.augment.strength:
        if not set(GROUPS.get(name, (name,))) <= set(config.augment.names):
            raise ConfigError(
                f"{name} is not applied, so its strength has no effect",
                key="augment.strength",
                value=config.augment.strength,
                remedy=f"add {name} to augment.transforms, or leave it out",
            )
    if config.augment.adaptive and not config.augment.transforms:
        raise ConfigError(
            "there is no transform whose probability could adapt",
            key="augment.adaptive",
            value=True,
            remedy="name some in augment.transforms",
        )
    if config.augment.adaptive and isinstance(config.augment.p, Scheduled):
        raise ConfigError(
            "ADA moves p by itself",
            key="augment.p",
            value=config.augment.model_dump()["p"],
            remedy="use a number, with which it begins, or augment.adaptive=false",
        )
    if config.augment.adaptive and LOSSES[loss.name].boundary is None:
        raise ConfigError(
            f"loss.name = {loss.name} has no logit above which D says real, from which ADA measures overfitting",
            key="augment.adaptive",
            value=True,
            remedy="use false, or loss.name = "
            + " or ".join(n for n, each in LOSSES.items() if each.boundary is not None),
        )
    packing = config.model.packing
    if packing > 1 and is_conditional(config.model.discriminator):
        raise ConfigError(
            "examples judged together have no common class",
            key="model.packing",
            value=packing,
            remedy="use 1, or model.discriminator.conditioning = none",
        )


def _check_auto(config: Config) -> None:
    """Refuse settings that a run is to find by itself and is given all the same."""
    sections = ("optim", ("lr_g", "lr_d")), ("penalty", ("r1", "r2", "gp", "dragan"))
    for section, names in sections:
        settings = getattr(config, section)
        default = type(settings)()
        for name in names if settings.auto else ():
            if getattr(settings, name) != getattr(default, name):
                raise ConfigError(
                    f"{section}.auto = true chooses {'the rates' if section == 'optim' else 'the penalties'}",
                    key=f"{section}.{name}",
                    value=settings.model_dump()[name],
                    remedy=f"leave it out, or use {section}.auto = false",
                )
    if config.penalty.auto and LOSSES[config.loss.name].guessing_loss is None:
        scaled = [name for name, loss in LOSSES.items() if loss.guessing_loss is not None]
        raise ConfigError(
            f"loss.name = {config.loss.name} has no scale by which D's lead could be measured",
            key="penalty.auto",
            value=True,
            remedy=f"use false, or loss.name = {' or '.join(scaled)}",
        )


def _check_optimizers(config: Config) -> None:
    """Refuse settings that the chosen optimizers do not have."""
    optim, default = config.optim, type(config.optim)()
    every = dict.fromkeys(name for entry in OPTIMIZERS.values() for name in entry.settings)
    for side, name in (("g", optim.name_g), ("d", optim.name_d)):
        for setting in (each for each in every if each not in OPTIMIZERS[name].settings):
            key = f"{setting}_{side}"
            if getattr(optim, key) != getattr(default, key):
                having = " or ".join(each for each, entry in OPTIMIZERS.items() if setting in entry.settings)
                raise ConfigError(
                    f"optim.name_{side} = {name} does not have it",
                    key=f"optim.{key}",
                    value=optim.model_dump()[key],
                    remedy=f"leave it out, or use optim.name_{side} = {having}",
                )
        if config.train.cuda_graphs and not OPTIMIZERS[name].has_graphs:
            remedy = f"use false, or optim.name_{side} = adam"
            problem = f"a CUDA graph cannot hold the step of optim.name_{side} = {name}"
            raise ConfigError(problem, key="train.cuda_graphs", value=True, remedy=remedy)
        network = {"g": "generator", "d": "discriminator"}[side]
        if optim.base_width and not hasattr(getattr(config.model, network), "width"):
            problem, remedy = f"model.{network} has no setting width", "use 0"
            raise ConfigError(problem, key="optim.base_width", value=optim.base_width, remedy=remedy)
    if optim.beta2 is not None and not any("betas" in OPTIMIZERS[n].settings for n in (optim.name_g, optim.name_d)):
        remedy = "leave it out, or use adam or adamw"
        raise ConfigError(
            "neither optimizer has betas", key="optim.beta2", value=optim.model_dump()["beta2"], remedy=remedy
        )
    if optim.auto and optim.base_width:
        problem, remedy = "optim.auto = true finds the rate for the networks as they are", "use 0"
        raise ConfigError(problem, key="optim.base_width", value=optim.base_width, remedy=remedy)


def _check_averages(config: Config) -> None:
    widths = config.ema.profiles
    if len({f"{width:g}" for width in widths}) < len(widths):
        raise ConfigError("names a width twice", key="ema.profiles", value=list(widths), remedy="name each once")


def _check_arithmetic(config: Config) -> None:
    penalty = config.penalty
    names = [name for name in ("gp", "r1", "r2", "dragan", "path_length") if name not in penalty.estimated]
    twice = [name for name in names if getattr(penalty, name) != 0.0 or (penalty.auto and name in ("r1", "r2"))]
    if penalty.r1_separate and penalty.r1 == 0.0 and not penalty.auto:
        problem = "there is no r1 that could have a step of its own (penalty.r1 = 0)"
        raise ConfigError(problem, key="penalty.r1_separate", value=True, remedy="use false, or set penalty.r1")
    if penalty.r1_separate and (penalty.r1_every == 1 or "r1" in penalty.estimated):
        lazy = penalty.r1_every > 1
        raise ConfigError(
            "a finite difference of r1 needs no step of its own" if lazy else "r1 is due in every update of D",
            key="penalty.r1_separate",
            value=True,
            remedy=f"use false, or {'penalty.r1_mode = exact' if lazy else 'penalty.r1_every = 16'}",
        )
    if config.train.compile and twice:
        raise ConfigError(
            f"torch.compile cannot differentiate twice, which penalty.{twice[0]} needs",
            key="train.compile",
            value=True,
            remedy=f"use false, or penalty.{twice[0]}_mode = finite_difference"
            if twice[0] in ("r1", "r2")
            else f"use false, or penalty.{twice[0]} = 0",
        )

    if config.train.cuda_graphs and penalty.path_length != 0.0:
        raise ConfigError(
            "a CUDA graph cannot choose the images of penalty.path_length",
            key="train.cuda_graphs",
            value=True,
            remedy="use false, or penalty.path_length = 0",
        )
    if config.train.cuda_graphs and isinstance(config.optim.beta2, Scheduled):
        raise ConfigError(
            "a CUDA graph keeps Adam's betas, which optim.beta2 changes",
            key="train.cuda_graphs",
            value=True,
            remedy="use false, or a number for optim.beta2",
        )


def _check_shards(config: Config) -> None:
    """Refuse shards without an image, and settings whose bits would depend on the number of workers all the same."""
    train, shards = config.train, config.train.shards
    if not shards:
        return
    most = train.batch_size // config.model.packing // train.accumulation
    if shards > most:
        problem = (
            f"more shards than a micro-batch has {'images' if config.model.packing == 1 else 'packs'} "
            f"(train.batch_size = {train.batch_size}, train.accumulation = {train.accumulation}, "
            f"model.packing = {config.model.packing})"
        )
        raise ConfigError(problem, key="train.shards", value=shards, remedy=f"use at most {most}")
    refused = {
        "train.device": (train.device != "cpu", train.device, "cpu"),
        "train.compile": (train.compile, True, "false"),
        "train.cuda_graphs": (train.cuda_graphs, True, "false"),
        "optim.auto": (config.optim.auto, True, "false"),
    }
    for side in ("generator", "discriminator"):
        local = getattr(getattr(config.model, side), "norm", "") == "local_batch"
        refused[f"model.{side}.norm"] = (local, "local_batch", "batch")
    for key, (is_set, value, remedy) in refused.items():
        if is_set:
            problem = f"not with train.shards = {shards}, which is to give the same bits for every number of workers"
            raise ConfigError(problem, key=key, value=value, remedy=f"use {remedy}, or train.shards = 0")


def _check_live(config: Config) -> None:
    """Refuse settings that live recovery does not support."""
    if config.cluster.recovery != "live":
        return
    train = config.train
    refused = {
        "train.device": (train.device == "cuda", "cuda", "cpu"),
        "train.shards": (train.shards > 0, train.shards, "0"),
        "train.compile": (train.compile, True, "false"),
        "train.cuda_graphs": (train.cuda_graphs, True, "false"),
        "eval.mode": (config.eval.mode == "async", "async", "inline"),
    }
    for key, (is_set, value, remedy) in refused.items():
        if is_set:
            problem = "not with cluster.recovery = live"
            raise ConfigError(problem, key=key, value=value, remedy=f"use {remedy}, or cluster.recovery = restart")


def check_workers(config: Config, num_workers: int) -> None:
    """Refuse a number of workers for which a worker would have no image in a micro-batch, or no shard.

    Args:
        config: the run.
        num_workers: at least 1.

    Raises:
        ConfigError: there are too many.
    """
    train = config.train
    packing = config.model.packing
    if 0 < train.shards < num_workers:
        problem = f"each of {num_workers} workers (cluster.num_workers) computes at least one shard"
        remedy = f"use at least {num_workers} from the beginning of the run on, or at most {train.shards} workers"
        raise ConfigError(problem, key="train.shards", value=train.shards, remedy=remedy)
    parts = max(num_workers, train.shards)
    if config.penalty.path_length != 0.0 and train.batch_size // train.accumulation < 2 * parts:
        raise ConfigError(
            f"penalty.path_length takes every second image, and some of {parts} workers or shards has only one per "
            f"micro-batch (train.accumulation = {train.accumulation})",
            key="train.batch_size",
            value=train.batch_size,
            remedy=f"use train.batch_size >= {2 * parts * train.accumulation}, or penalty.path_length = 0",
        )
    if train.batch_size // packing // train.accumulation < num_workers:
        least = num_workers * train.accumulation * packing
        raise ConfigError(
            f"the global batch gives each of {num_workers} workers less than one image per micro-batch "
            f"(train.accumulation = {train.accumulation}, model.packing = {packing})",
            key="train.batch_size",
            value=train.batch_size,
            remedy=f"use train.batch_size >= {least} or fewer workers (cluster.num_workers)",
        )
