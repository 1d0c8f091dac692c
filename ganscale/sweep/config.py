"""The YAML schema of a sweep: base run, search space, search algorithm and budget."""

from collections.abc import Mapping, Sequence
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator

from ganscale.config.errors import ConfigError, did_you_mean
from ganscale.config.evaluation import MetricName
from ganscale.config.load import apply_override, locate, read, read_sweep_file
from ganscale.config.section import Count, Section, listed, whole


def _number_or_auto(value: object) -> object:
    value = whole(value)
    if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError("a whole number from 1, or auto")
    return value


class SweepSettings(Section):
    """Search algorithm, objective and budget of a sweep."""

    name: str = Field(
        default="sweep",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$",
        description="Name of the sweep and of its folder. The same name again resumes the sweep.",
    )
    dir: str = Field(
        default="runs/sweeps",
        min_length=1,
        description="Parent of the sweeps' folders, or of their places in a bucket (s3://, gs://, az://).",
    )
    seed: Count = Field(default=0, ge=0, lt=2**63, description="Seed from which configurations are drawn.")
    search: Literal["random", "grid", "optuna"] = Field(
        default="random",
        description="random: independent draws; grid: all combinations; optuna: TPE, from the results of ended trials.",
    )
    num_configs: Count = Field(
        default=16,
        ge=1,
        le=100_000,
        description="Draws of what is not a grid, each combined with the whole grid.",
    )
    seeds: Count = Field(default=3, ge=3, le=1000, description="Runs per configuration: seeds run.seed, +1, ...")
    confirm_seeds: Count = Field(
        default=5,
        ge=0,
        le=1000,
        description="Runs of the winner on fresh seeds, for its reported quality; 0: none.",
    )
    metrics: Annotated[tuple[MetricName, ...], BeforeValidator(listed)] = Field(
        default=(),
        description="Metrics to optimize; the first decides, and the results show the Pareto front of all. Unless "
        "eval.metrics is given, runs compute only these. Empty: the first metric that the base run evaluates.",
    )
    score: Literal["lower_bound", "success_rate"] = Field(
        default="lower_bound",
        description="lower_bound: pessimistic end of the confidence interval of the first metric's mean over seeds; "
        "success_rate: share of seeds that reach sweep.threshold (lower end of Wilson's interval).",
    )
    threshold: float | None = Field(default=None, description="First metric's value from which a seed is a success.")
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0, description="Confidence level of all intervals.")
    scheduler: Literal["none", "asha", "median", "pbt"] = Field(
        default="none",
        description="none: every trial completes; asha: successive halving; median: stops trials below the median "
        "of the others; pbt: poor trials continue from a copy of a good one with perturbed settings.",
    )
    grace: Count = Field(default=0, ge=0, description="First rung of asha or median, in images; 0: first evaluation.")
    reduction: float = Field(default=3.0, gt=1.0, le=16.0, description="asha promotes one in so many trials.")
    brackets: Count = Field(
        default=1,
        ge=1,
        le=16,
        description="1: plain asha; more: Hyperband, which hedges against rungs that are too early: each further "
        "bracket of trials starts to stop them at the second, third, ... rung.",
    )
    perturb_every: Count = Field(default=0, ge=0, description="Images per exploit step of pbt; 0: every evaluation.")
    quantile: float = Field(default=0.25, gt=0.0, le=0.5, description="Fraction of the trials that pbt replaces.")
    resample: float = Field(default=0.25, ge=0.0, le=1.0, description="Share of settings that pbt resamples.")
    stop_failing: bool = Field(default=True, description="Stop seeds that diverge or collapse; they count as failed.")
    audit_share: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="Share of the seeds, drawn at random, that stop_failing does not stop: they count as failed all "
        "the same, and show how many seeds are stopped wrongly.",
    )
    workers: Count = Field(default=1, ge=1, le=65_536, description="Data-parallel workers of each trial.")
    cpus_per_worker: Count = Field(default=1, ge=1, description="CPUs, and threads, of each worker.")
    gpus_per_worker: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="GPUs of each worker, where there are GPUs; a fraction only with 1 worker.",
    )
    max_concurrent: Annotated[int | Literal["auto"], BeforeValidator(_number_or_auto)] = Field(
        default="auto",
        description="Concurrent trials, at most what the cluster holds, with cluster.node_wait as many as given. "
        "auto: as many as fit at the start.",
    )
    budget_hours: float = Field(default=0.0, ge=0.0, description="Hours after which no trial starts; 0: no limit.")

    @model_validator(mode="after")
    def _rate_needs_threshold(self) -> "SweepSettings":
        if self.score == "success_rate" and self.threshold is None:
            raise ValueError("given together with sweep.threshold where sweep.score is success_rate")
        if self.gpus_per_worker < 1.0 and self.workers > 1:
            raise ValueError("of whole GPUs where sweep.workers is above 1")
        if self.budget_hours and self.scheduler == "pbt":
            raise ValueError("without sweep.budget_hours where sweep.scheduler is pbt: its members all start together")
        return self


Pair = Annotated[tuple[float, float], BeforeValidator(listed), Field(strict=False)]
Whole = Annotated[tuple[Count, Count], BeforeValidator(listed)]


class Draw(Section):
    """The distribution of one setting, exactly one of five kinds, and the condition under which it applies."""

    choice: list[Any] | dict[str, dict[str, Any]] | None = Field(
        default=None, description="One of these values; a mapping names bundles of several settings."
    )
    grid: list[Any] | dict[str, dict[str, Any]] | None = Field(
        default=None, description="Each of these values, combined with every draw of the rest."
    )
    uniform: Pair | None = Field(default=None, description="A number between two.")
    loguniform: Pair | None = Field(default=None, description="A positive number between two, its logarithm uniform.")
    randint: Whole | None = Field(default=None, description="A whole number between two, both included.")
    when: dict[str, Any] = Field(default={}, description="Condition: another setting has this value, or one of a list.")

    @model_validator(mode="after")
    def _one_kind(self) -> "Draw":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(f"exactly one of {', '.join(KINDS)}")
        bounds = self.uniform or self.loguniform or self.randint
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"two numbers, the smaller first ({given[0]})")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError("two numbers above 0 (loguniform)")
        if not bounds and not (self.choice or self.grid):
            raise ValueError(f"at least one value ({given[0]})")
        return self


KINDS = ("choice", "grid", "uniform", "loguniform", "randint")


class Sweep(Section):
    """A sweep file."""

    sweep: SweepSettings = Field(default=SweepSettings(), description=SweepSettings.__doc__)
    base: str = Field(default="", description="YAML file of the base run; empty: the default run.")
    set: dict[str, Any] = Field(default={}, description="Settings of all trials: section.key to value.")
    space: dict[str, Draw] = Field(
        min_length=1,
        description="section.key (several with commas between them, or a name for bundles) to its draw.",
    )


def load_sweep(path: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> tuple[Sweep, dict[str, Any]]:
    """Read a sweep's YAML file and its base run, and apply overrides.

    Args:
        path: YAML file, or its content as plain mappings.
        overrides: `sweep.key=value` for the sweep, `section.key=value` for the runs of all trials.

    Returns:
        The sweep, and the base run as unvalidated plain mappings.

    Raises:
        ConfigError: A file is missing or is not YAML, or a key of the sweep is unknown or has a wrong value.
    """
    raw = read_sweep_file(path)
    for override in overrides:
        if override.startswith("sweep."):
            apply_override(raw, override)
        else:
            run: dict[str, Any] = {}
            apply_override(run, override)
            key = override.partition("=")[0]
            raw["set"] = {**(raw.get("set") or {}), key: reduce(getitem, key.split("."), run)}
    try:
        sweep = Sweep.model_validate(raw)
    except ValidationError as error:
        raise _translate(error) from None
    beside = (locate(Path(path)).parent if isinstance(path, str | Path) else Path()) / sweep.base
    base = read(beside if beside.exists() else Path(sweep.base)) if sweep.base else {}
    return sweep, _with_metrics(sweep, base)


def _with_metrics(sweep: Sweep, base: dict[str, Any]) -> dict[str, Any]:
    """Limit the base run to the metrics that the sweep needs, unless a file sets `eval.metrics`."""
    evaluation, checkpoint = base.get("eval") or {}, base.get("checkpoint") or {}
    if not isinstance(evaluation, Mapping) or not isinstance(checkpoint, Mapping):
        return base  # refused when the run is validated
    if not sweep.sweep.metrics or "eval.metrics" in sweep.set:
        return base
    best = sweep.set.get("checkpoint.best_metric", checkpoint.get("best_metric"))
    needed = [*sweep.sweep.metrics, *([best] if best and best not in sweep.sweep.metrics else [])]
    return {**base, "eval": {"metrics": needed, **evaluation}}


def _translate(error: ValidationError) -> ConfigError:
    """Turn pydantic's first error into a `ConfigError`."""
    details = error.errors(include_url=False)
    first = next((d for d in details if d["type"] == "extra_forbidden"), details[0])
    parts = [str(part) for part in first["loc"]]
    key, value = ".".join(parts), first.get("input")
    if first["type"] == "extra_forbidden":
        section = {"sweep": SweepSettings, "space": Draw}.get(parts[0], Sweep) if len(parts) > 1 else Sweep
        remedy = did_you_mean(parts[-1], section.model_fields)
        return ConfigError("unknown key", key=key, value=value, remedy=remedy)
    if first["type"] in ("missing", "too_short") and parts == ["space"]:
        return ConfigError("nothing to search", key=key, value=None, remedy="add settings below space:")
    message = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    shown = None if isinstance(value, Mapping) and len(str(value)) > 80 else value
    return ConfigError(f"should be {message}", key=key, value=shown, remedy="see docs/sweeps.md")
