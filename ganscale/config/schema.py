"""Every setting of a run, with its unit, range and default. One YAML file is one `Config`.

The defaults are the textbook run, configs/mnist_mlp.yaml: an MLP GAN on MNIST, cross-entropy, Adam at 2e-4.
All schedules and intervals count *images* (real examples shown to the discriminator, over all workers).
"""

from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model

from ganscale.config.architectures import MLPDiscriminator, MLPGenerator
from ganscale.config.datasets import Data
from ganscale.config.evaluation import Evaluation
from ganscale.config.health import Health
from ganscale.config.losses import Loss
from ganscale.config.networks import DISCRIMINATORS, GENERATORS, Architecture, settings_classes, union
from ganscale.config.objective import Augment, Images, Penalty, Rate, Share
from ganscale.config.optimizers import OPTIMIZERS
from ganscale.config.section import Count, Section, as_tuple, listed, whole
from ganscale.config.table import Choice


def _workers(value: object) -> object:
    """A whole number from 1, a range of two, or auto."""
    if isinstance(value, list | tuple):
        pair = tuple(whole(each) for each in value)
        if len(pair) != 2 or not all(_counts(each) for each in pair) or not pair[0] <= pair[1]:  # pyright: ignore
            raise ValueError("[least, most] as two whole numbers from 1 to 65536, the smaller first")
        return pair
    value = whole(value)
    if value != "auto" and not _counts(value):
        raise ValueError("a whole number from 1 to 65536, [least, most], or auto")
    return value


def _counts(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 65_536


def _interval(value: object) -> object:
    """A whole number of images from 1, or auto."""
    value = whole(value)
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("a whole number of images from 1, or auto")
    return value


def _checkpoint(value: object) -> object:
    """newest, best, or a number of images."""
    value = whole(value)
    if value not in ("newest", "best") and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise ValueError("newest, best, or a number of images")
    return value


InitPart = Literal["generator", "discriminator", "ema", "optimizers"]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Betas = Annotated[tuple[Beta, Beta], BeforeValidator(as_tuple)]
Width = Annotated[float, Field(ge=0.005, le=0.28)]


class Run(Section):
    """Name of the run, its folder and the seed of its random numbers."""

    name: str = Field(
        default="mnist_mlp",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the run and of its folder. The same name again resumes the run.",
    )
    dir: str = Field(
        default="runs",
        min_length=1,
        description="Folder that holds the run folders, the same for every node; or a bucket: `s3://`, `gs://`, `az://`.",
    )
    seed: Count = Field(
        default=0, ge=0, lt=2**63, description="Seed of every random number: weights, order, latents, noise."
    )


def _light(table: dict[str, Architecture]) -> tuple[type[Section], ...]:
    """The settings that are given as classes: no code is imported for them."""
    return settings_classes({name: entry for name, entry in table.items() if not isinstance(entry.settings, str)})


_CLASSES = (_light(GENERATORS), _light(DISCRIMINATORS))
_GENERATOR, _DISCRIMINATOR = map(union, _CLASSES)


class Model(Section):
    """The two networks and the latent space."""

    latent_dim: Count = Field(default=100, ge=1, le=65_536, description="Length of the latent vector z.")
    packing: Count = Field(
        default=1, ge=1, le=16, description="Examples that D judges together (PacGAN, Lin et al. 2018: 2 to 4)."
    )
    latent: Literal["normal", "uniform"] = Field(
        default="normal", description="Distribution of z: standard normal, or uniform on [-1, 1]."
    )
    generator: _GENERATOR = Field(  # pyright: ignore[reportInvalidTypeForm]
        default=MLPGenerator(), description="The generator's architecture and its settings."
    )
    discriminator: _DISCRIMINATOR = Field(  # pyright: ignore[reportInvalidTypeForm]
        default=MLPDiscriminator(), description="The discriminator's architecture and its settings."
    )
    freeze_d: Count = Field(
        default=0,
        ge=0,
        le=1024,
        description="Resolutions of D nearest the image (of an mlp, hidden layers) that keep the weights of "
        "train.init_from (FreezeD, Mo et al. 2020).",
    )


_DECAY = "AdamW's decay of the weights of linear layers and convolutions, and of nothing else, of"
OptimizerName = Annotated[str, Choice(OPTIMIZERS)]


class Optim(Section):
    """The optimizer of each network, each with its own rate (TTUR)."""

    name_g: OptimizerName = Field(default="adam", description="Optimizer of the generator.")
    name_d: OptimizerName = Field(default="adam", description="Optimizer of the discriminator.")
    auto: bool = Field(
        default=False,
        description="Find one rate for both networks by a short test before the first image; lr_g and lr_d are then "
        "not to be given (docs/auto.md).",
    )
    lr_g: Rate = Field(default=2e-4, description="Learning rate of the generator.")
    lr_d: Rate = Field(default=2e-4, description="Learning rate of the discriminator.")
    betas_g: Betas = Field(default=(0.5, 0.999), description="Adam's two betas for the generator.")
    betas_d: Betas = Field(default=(0.5, 0.999), description="Adam's two betas for the discriminator.")
    weight_decay_g: float = Field(default=0.0, ge=0.0, le=10.0, description=f"{_DECAY} the generator, times its rate.")
    weight_decay_d: float = Field(default=0.0, ge=0.0, le=10.0, description=f"{_DECAY} the discriminator, as for G.")
    alpha_g: Beta = Field(default=0.99, description="RMSprop's smoothing of squared gradients for the generator.")
    alpha_d: Beta = Field(default=0.99, description="RMSprop's smoothing of squared gradients for the discriminator.")
    base_width: Count = Field(
        default=0,
        ge=0,
        le=65_536,
        description="Width that lr_g and lr_d are meant for: a network's rate is times base_width / width (GAT: 768); "
        "0: the rates as they are.",
    )
    beta2: Share | None = Field(
        default=None, description="Adam's second beta for both networks, above betas_g and betas_d; null: theirs."
    )
    eps: float = Field(default=1e-8, gt=0, description="Epsilon of the optimizers, both networks.")
    clip_grad_norm_g: float = Field(default=0.0, ge=0, description="Largest gradient norm of the generator; 0: any.")
    clip_grad_norm_d: float = Field(
        default=0.0, ge=0, description="Largest gradient norm of the discriminator; 0: any."
    )
    d_steps: Count = Field(
        default=1, ge=1, le=1000, description="Discriminator updates per generator update (n_critic)."
    )


class EMA(Section):
    """Exponential moving average of the generator's weights; samples come from it."""

    half_life: Images = Field(
        default=30_000.0, description="Images after which an old weight counts half; 0 turns the average off."
    )
    rampup: float = Field(
        default=0.05,
        ge=0,
        description="Half-life is at most this times the run's images so far, so that short runs forget their first "
        "weights (as in StyleGAN2's code); 0: no limit.",
    )
    profiles: Annotated[tuple[Width, ...], BeforeValidator(as_tuple)] = Field(
        default=(),
        description="Widths of further averages, power functions (Karras et al. 2024: [0.05, 0.1]), of which `ganscale "
        "sample --ema` makes any other (docs/sampling.md).",
    )
    snapshot_every: Count = Field(
        default=12_800, ge=1, description="Images between two snapshots of the averages in ema.profiles."
    )
    snapshots: Count = Field(
        default=64,
        ge=8,
        le=4096,
        description="Most snapshots that are kept; beyond, every other one is deleted and half as many are made.",
    )


class Training(Section):
    """How long, in which batches and in which arithmetic, and from which weights."""

    images: Count = Field(default=640_000, ge=1, description="Length of the run in images over all workers.")
    batch_size: Count = Field(
        default=64, ge=1, description="Global batch: images per discriminator update over all workers."
    )
    accumulation: Count = Field(
        default=1,
        ge=1,
        description="Micro-batches that the global batch is worked off in, to save memory. Batch norm, minibatch "
        "stddev, relativistic_average and feature matching then see one micro-batch (of all workers) at a time.",
    )
    shards: Count = Field(
        default=0,
        ge=0,
        le=256,
        description="Cut each micro-batch into so many shards, each computed by itself, with all sums over them in a "
        "fixed order: the same bits for every number of workers up to this one, on CPUs (docs/determinism.md); a power "
        "of two sends the fewest bytes. 0: off.",
    )
    reuse_fakes: bool = Field(
        default=True,
        description="The generator update takes the z of the last discriminator update (and, without accumulation, "
        "its forward pass) instead of new ones.",
    )
    reuse_reals: bool = Field(
        default=True,
        description="The generator update takes the real images and classes of the last discriminator update instead "
        "of new ones (R3GAN: new ones; docs/fidelity.md). With false an iteration reads optim.d_steps + 1 global "
        "batches, and all schedules and intervals still count the optim.d_steps that the discriminator is trained on.",
    )
    precision: Literal["float32", "float64", "bfloat16"] = Field(
        default="float32",
        description="Arithmetic; bfloat16 is autocast: weights, norms, losses and penalties' sums stay float32.",
    )
    tf32: bool = Field(
        default=False, description="Let GPUs round the inputs of float32 products to 10 bits (TF32): faster."
    )
    checkpoint_activations: bool = Field(
        default=False,
        description="Compute the activations of each block again in the backward pass, to save memory; same result.",
    )
    channels_last: bool = Field(default=False, description="Keep images and convolutions in NHWC order; often faster.")
    compile: bool = Field(
        default=False, description="Run both networks through torch.compile; not with exact gradient penalties."
    )
    cuda_graphs: bool = Field(
        default=False,
        description="Record iterations as CUDA graphs and replay them: faster for small networks; one worker.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Where to train; auto takes a GPU if there is one."
    )
    deterministic: bool = Field(
        default=False, description="Only deterministic GPU kernels, so that a resume is bit-identical."
    )
    init_from: str = Field(
        default="",
        description="Weights to start from (docs/warm_start.md): a run's folder or URI, a checkpoint, an exported "
        "generator, or a pickle of R3GAN or StyleGAN2; empty: the initialization. A run that resumes does not read it.",
    )
    init_checkpoint: Annotated[int | str, BeforeValidator(_checkpoint)] = Field(
        default="newest", description="Which checkpoint of a run in train.init_from: newest, best or its images."
    )
    init_parts: Annotated[tuple[InitPart, ...], BeforeValidator(listed)] = Field(
        default=("generator", "discriminator", "ema"),
        description="What is taken from train.init_from: some of generator, discriminator, ema, optimizers.",
    )
    init_classes: Literal["names", "index"] = Field(
        default="names",
        description="Which classes of train.init_from are the same as here: those of one name, or of one number.",
    )


class Log(Section):
    """Numbers and sample grids, in the run folder and in Weights & Biases."""

    every: Count = Field(default=12_800, ge=1, description="Images between two rows of metrics.")
    samples_every: Count = Field(default=128_000, ge=1, description="Images between two sample grids.")
    num_samples: Count = Field(
        default=64, ge=1, le=4096, description="Images in a sample grid (2-D data: 2500 points always)."
    )
    table_samples: Count = Field(
        default=0,
        ge=0,
        le=64,
        description="Images of each sample grid, the first ones, that also stand in a table: class, D's logit, nearest "
        "real image and distance; in samples/ and in W&B. Not for 2-D data.",
    )
    table_reals: Count = Field(
        default=10_000,
        ge=0,
        description="Real images among which a table's nearest ones are searched, drawn once by the seed: rank 0 reads "
        "them once and compares them, with at most 64 pixels a side, for each table. At most 2 GiB of pixels are read "
        "(682 images of 1024 x 1024) and 256 MiB compared (21,845 of 64 x 64). 0: no search.",
    )
    details: bool = Field(
        default=True,
        description="In W&B and TensorBoard also real examples, interpolations, samples by class and D's logits.",
    )
    tensorboard: bool = Field(
        default=False, description="Also write TensorBoard's files, to tensorboard/ in the run folder."
    )


class Checkpoint(Section):
    """What survives a crash."""

    every: Annotated[int | Literal["auto"], BeforeValidator(_interval)] = Field(
        default=128_000,
        description="Images between two checkpoints; the end is always saved. auto: what costs least by "
        "checkpoint.hours_between_faults, the measured speed and the time that saving takes (Daly 2006).",
    )
    hours_between_faults: float = Field(
        default=24.0, gt=0.0, description="Mean hours between two faults of the whole group, for every = auto."
    )
    mode: Literal["async", "inline"] = Field(
        default="async",
        description="async: training pauses only while the state is copied into host memory, and a thread writes the "
        "copy; inline: it pauses until the checkpoint is stored. The last checkpoint is always waited for. "
        "Sweeps are inline.",
    )
    keep: Count = Field(default=3, ge=1, description="Number of newest checkpoints that are kept.")
    on_failure: Literal["continue", "stop"] = Field(
        default="continue",
        description="When a checkpoint cannot be saved, as storage is full or lost: continue, or stop the run. "
        "The ones before stay good either way.",
    )
    best_metric: str = Field(
        default="", description="Metric of eval.metrics whose best checkpoint is kept and marked; empty: none."
    )


class Wandb(Section):
    """Weights & Biases."""

    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="auto: online when an API key is set up, offline otherwise."
    )
    project: str = Field(default="ganscale", min_length=1, description="W&B project.")
    entity: str = Field(default="", description="W&B team or user; empty: the account's default.")
    group: str = Field(default="", description="W&B group of the run.")
    tags: tuple[str, ...] = Field(default=(), description="W&B tags of the run.", strict=False)
    artifacts: Literal["none", "best", "all"] = Field(
        default="none",
        description="Checkpoints to upload: none; the best by checkpoint.best_metric (without one, the last); or all.",
    )
    artifact_mib: Count = Field(default=1024, ge=1, description="Checkpoints above this size in MiB are not uploaded.")
    timeout: float = Field(
        default=60.0,
        gt=0,
        description="Seconds that the start and the end of a run wait for the server, at most; training never does.",
    )


class Cluster(Section):
    """Who does the work. Nothing here changes the result."""

    num_workers: Annotated[int | tuple[int, int] | Literal["auto"], BeforeValidator(_workers)] = Field(
        default="auto",
        description="Data-parallel workers; auto: one per GPU, or without GPUs two, or one per node if there are more. "
        "[least, most]: as many as there is room for, more or fewer when nodes come and go. A resume with auto returns "
        "to the number that the run had, or starts with fewer and grows back to it.",
    )
    cpus_per_worker: Count = Field(
        default=1, ge=1, description="CPUs reserved for each worker; also its number of threads."
    )
    address: str = Field(
        default="auto",
        min_length=1,
        description="Ray cluster: auto joins RAY_ADDRESS or a running cluster or else starts one here; "
        "local always starts one here; or HOST:PORT.",
    )
    node_wait: float = Field(
        default=0.0,
        ge=0.0,
        description="Seconds that a start waits for nodes where the workers do not fit, asking the cluster's "
        "autoscaler for them; with [least, most], and after nodes were lost, it also asks for what the run can grow "
        "by. 0: neither.",
    )
    recovery: Literal["restart", "live"] = Field(
        default="restart",
        description="What happens when a worker is lost: restart, all workers start again from the last checkpoint; or "
        "live, the others keep their processes and their state and redo a second of work, or one iteration, and "
        "workers come and go between two iterations. live is experimental, needs torchft and a lighthouse for this run "
        "alone, and is for CPUs; num_workers: auto then means 1 to train.batch_size, and max_restarts counts on Ray "
        "only.",
    )
    max_restarts: Count = Field(
        default=3,
        ge=0,
        description="Times in a row, without a new checkpoint in between, that a failed worker group is started again.",
    )
    restart_pause: float = Field(
        default=10.0,
        ge=0.0,
        le=600.0,
        description="Seconds before the second restart in a row; doubled each time, at most 600.",
    )
    timeout: float = Field(
        default=300.0, gt=0, description="Seconds that a worker waits for the others, or an iteration may last."
    )


class Config(Section):
    """A whole run."""

    run: Run = Field(default=Run(), description=Run.__doc__)
    data: Data = Field(default=Data(), description=Data.__doc__)
    model: Model = Field(default=Model(), description=Model.__doc__)
    loss: Loss = Field(default=Loss(), description=Loss.__doc__)
    penalty: Penalty = Field(default=Penalty(), description=Penalty.__doc__)
    augment: Augment = Field(default=Augment(), description=Augment.__doc__)
    optim: Optim = Field(default=Optim(), description=Optim.__doc__)
    ema: EMA = Field(default=EMA(), description=EMA.__doc__)
    train: Training = Field(default=Training(), description=Training.__doc__)
    eval: Evaluation = Field(default=Evaluation(), description=Evaluation.__doc__)
    log: Log = Field(default=Log(), description=Log.__doc__)
    checkpoint: Checkpoint = Field(default=Checkpoint(), description=Checkpoint.__doc__)
    health: Health = Field(default=Health(), description=Health.__doc__)
    wandb: Wandb = Field(default=Wandb(), description=Wandb.__doc__)
    cluster: Cluster = Field(default=Cluster(), description=Cluster.__doc__)


RESUMABLE_CHANGES = (
    "train.images",
    "data.path",
    "data.changed",
    "data.num_workers",
    "data.cache_mib",
    "data.cache_dir",
    "train.device",
    "eval",
    "log",
    "checkpoint",
    "health",
    "wandb",
    "cluster",
    "run.dir",
)
"""Keys and sections that may differ when a run is resumed: none of them changes the trajectory so far."""


def schema() -> type[Config]:
    """`Config`, or a subclass of it that also has the architectures that were registered or given as references."""
    return _schema(settings_classes(GENERATORS), settings_classes(DISCRIMINATORS))


@lru_cache(maxsize=8)
def _schema(generators: tuple[type[Section], ...], discriminators: tuple[type[Section], ...]) -> type[Config]:
    if (generators, discriminators) == _CLASSES:
        return Config
    sides: dict[str, Any] = {}
    for side, classes in (("generator", generators), ("discriminator", discriminators)):
        field = Model.model_fields[side]
        sides[side] = (union(classes), Field(default=field.default, description=field.description))
    model = create_model("Model", __base__=Model, __doc__=Model.__doc__, **sides)
    section: Any = (model, Field(default=model(), description=Model.__doc__))
    return create_model("Config", __base__=Config, model=section)
