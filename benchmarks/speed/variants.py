"""`python -m benchmarks.speed variants`: one run in several precisions and memory layouts, eager and compiled."""

import argparse
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from scipy.stats import quantile_test

from benchmarks.speed import parsers
from benchmarks.speed.command import (
    changed,
    configs_of,
    device_of,
    markdown,
    names_of,
    write_json,
)
from benchmarks.speed.counting import FlopCounter
from benchmarks.speed.measure import Ganscale, Result, machine, measure
from benchmarks.speed.utilization import peak_flops
from ganscale.config import Config
from ganscale.training.build import Experiment, build

VARIANTS: dict[str, dict[str, Any]] = {
    name: {
        "precision": "bfloat16" if "bf16" in name else "float32",
        "channels_last": "channels_last" in name,
        "compile": name.startswith("compile"),
    }
    for name in parsers.VARIANTS
}
"""Settings of section `train` by name."""


@dataclass(frozen=True)
class Variant:
    """Speed and losses of one variant.

    Attributes:
        result: images/s and times; the ratio is the speed of the first variant over this one's.
        loss_d: of the first iteration, equal to the first variant's up to rounding.
        loss_g: of the first iteration.
        utilization: share of the GPU's peak in the variant's precision; None if unknown.
    """

    result: Result
    loss_d: float
    loss_g: float
    utilization: float | None


class VariantLoop(Ganscale):
    """The loop of a run under the name of a variant, with the losses of its first iteration.

    Args:
        name: of `VARIANTS`.
        experiment: the run.
    """

    def __init__(self, name: str, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.name = name
        statistics = experiment.step(experiment.sampler.batches(0), experiment.schedule.controls(0))
        self.loss_d, self.loss_g = float(statistics.loss_d), float(statistics.loss_g)


def main(options: argparse.Namespace) -> int:
    """Run the command.

    Args:
        options: of `parsers`.

    Returns:
        The exit code.
    """
    names = names_of(options.variants, list(VARIANTS), key="--variants")
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"variants": {}}
    for title, config in configs_of(options).items():
        report.setdefault("machine", machine(device_of(config)))
        found = compare(config, names, iterations=options.iterations, rounds=options.rounds)
        print(f"{title}: batch {config.train.batch_size}\n\n{table(found)}", flush=True)
        speedups = {each.result.name: [1 / ratio for ratio in each.result.ratios] for each in found[1:]}
        print(f"\n{recommendation(names[0], speedups)}\n", flush=True)
        report["variants"][title] = [asdict(each) for each in found]
    write_json(options.json, report)
    return 0


def compare(config: Config, names: Sequence[str], *, iterations: int, rounds: int) -> list[Variant]:
    """Measure variants of a run.

    Args:
        config: of the run.
        names: of `VARIANTS`.
        iterations: per block.
        rounds: number of rounds.

    Raises:
        ConfigError: the run does not support a variant.
    """
    device = device_of(config)
    contenders = [VariantLoop(name, build(variant(config, name), device=device)) for name in names]
    results = measure(contenders, iterations=iterations, rounds=rounds)
    flops = _flops(config, device)
    found = []
    for name, contender, result in zip(names, contenders, results, strict=True):
        peak = peak_flops(device, VARIANTS[name]["precision"])
        used = flops * 1e3 / result.milliseconds.median / peak if peak else None
        found.append(Variant(result, contender.loss_d, contender.loss_g, used))
    return found


def variant(config: Config, name: str) -> Config:
    """A copy of the config with the settings of a variant.

    Args:
        config: of the run.
        name: of `VARIANTS`.
    """
    return changed(config, train=VARIANTS[name])


def _flops(config: Config, device: torch.device) -> int:
    """Model FLOPs of an iteration, independent of the variant."""
    experiment = build(variant(config, "float32"), device=device)
    with FlopCounter() as counter:
        experiment.step(experiment.sampler.batches(0), experiment.schedule.controls(0))
    return counter.total


def table(found: Sequence[Variant]) -> str:
    """Format the variants as a Markdown table.

    Args:
        found: of `compare`.
    """
    rows = [("variant", "images/s", "ms/iteration p50", "faster by, median [min..max]", "loss_d", "loss_g", "of peak")]
    for each in found:
        ratio = each.result.ratio
        faster = "" if ratio is None else f"{1 / ratio.median:.3f} [{1 / ratio.max:.3f}..{1 / ratio.min:.3f}]"
        speed = (f"{each.result.images_per_second:,.0f}", f"{each.result.milliseconds.median:.2f}", faster)
        peak = "" if each.utilization is None else f"{100 * each.utilization:.1f} %"
        rows.append((each.result.name, *speed, f"{each.loss_d:.5f}", f"{each.loss_g:.5f}", peak))
    return markdown(rows)


def recommendation(base: str, speedups: Mapping[str, Sequence[float]]) -> str:
    """Which settings to use here: of the variants that are faster than the base for certain, the fastest.

    Certain means that the 95 % interval of the median speedup (by order statistics; at least 6 rounds) begins above 1.

    Args:
        base: name of the first variant.
        speedups: speed of each other variant over the base's, by name: one number per round.
    """
    medians = {name: statistics.median(values) for name, values in speedups.items()}
    intervals = {name: quantile_test(values, q=1, p=0.5).confidence_interval(0.95) for name, values in speedups.items()}
    certain = [name for name in speedups if intervals[name].low > 1.0]  # nan, of too few rounds, is not
    if not certain:
        return f"recommended: stay with {base}, no variant is faster for certain: {_overrides(base)}"
    best = max(certain, key=lambda name: medians[name])
    low, high = intervals[best]
    faster = f"faster than {base} by {medians[best]:.3f}, 95 % interval [{low:.3f}..{high:.3f}]"
    return f"recommended: {best}, {faster}: {_overrides(best)}"


def _overrides(name: str) -> str:
    """The settings of a variant as words of the command line."""
    return " ".join(f"train.{key}={str(value).lower()}" for key, value in VARIANTS[name].items())
