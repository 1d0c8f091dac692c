"""`python -m benchmarks.speed variants`: one run in other precisions, memory layouts and compiled, in turn."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from benchmarks.speed.command import (
    add_blocks,
    changed,
    configs_of,
    device_of,
    make_parser,
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
    "float32": {"precision": "float32", "channels_last": False, "compile": False},
    "channels_last": {"precision": "float32", "channels_last": True, "compile": False},
    "bf16": {"precision": "bfloat16", "channels_last": False, "compile": False},
    "bf16+channels_last": {"precision": "bfloat16", "channels_last": True, "compile": False},
    "compile": {"precision": "float32", "channels_last": False, "compile": True},
    "compile+bf16+channels_last": {"precision": "bfloat16", "channels_last": True, "compile": True},
}
"""By name, what they set in section `train`."""


@dataclass(frozen=True)
class Variant:
    """What one variant did.

    Attributes:
        result: images/s and times; its ratio is the speed of the first variant over this one's.
        loss_d: of the first iteration, which differs from the first variant's by the precision's rounding alone.
        loss_g: the same of G.
        utilization: share of the GPU's peak in the variant's precision; None where that is not known.
    """

    result: Result
    loss_d: float
    loss_g: float
    utilization: float | None


class Named(Ganscale):
    """ganscale's own loop under a variant's name, with the losses of its first iteration."""

    def __init__(self, name: str, experiment: Experiment) -> None:
        super().__init__(experiment)
        self.name = name
        statistics = experiment.step(experiment.sampler.batches(0), experiment.schedule.controls(0))
        self.loss_d, self.loss_g = float(statistics.loss_d), float(statistics.loss_g)


def main(arguments: Sequence[str]) -> int:
    """Run the command."""
    parser = make_parser(
        "variants",
        "Measure one run in several precisions and memory layouts, eager and compiled. All variants start from the\n"
        "same weights and images and take turns in one process; a ratio above 1 means faster than the first one.",
        presets="dcgan32",
    )
    parser.add_argument("--variants", default=",".join(VARIANTS), help="first: the base (default: %(default)s)")
    add_blocks(parser, iterations=5, rounds=10)
    options = parser.parse_intermixed_args(arguments)
    names = names_of(options.variants, list(VARIANTS), key="--variants")
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {"variants": {}}
    for title, config in configs_of(options).items():
        report.setdefault("machine", machine(device_of(config)))
        found = compare(config, names, iterations=options.iterations, rounds=options.rounds)
        print(f"{title}: batch {config.train.batch_size}\n\n{table(found)}", flush=True)
        report["variants"][title] = [asdict(each) for each in found]
    write_json(options.json, report)
    return 0


def compare(config: Config, names: Sequence[str], *, iterations: int, rounds: int) -> list[Variant]:
    """Measure a run's variants of these names.

    Raises:
        ConfigError: a variant does not fit the run.
    """
    device = device_of(config)
    contenders = [Named(name, build(variant(config, name), device=device)) for name in names]
    results = measure(contenders, iterations=iterations, rounds=rounds)
    flops = _flops(config, device)
    found = []
    for name, contender, result in zip(names, contenders, results, strict=True):
        peak = peak_flops(device, VARIANTS[name]["precision"])
        used = flops * 1e3 / result.milliseconds.median / peak if peak else None
        found.append(Variant(result, contender.loss_d, contender.loss_g, used))
    return found


def variant(config: Config, name: str) -> Config:
    """The run as a variant sets it."""
    return changed(config, train=VARIANTS[name])


def _flops(config: Config, device: torch.device) -> int:
    """Of an iteration as the mathematics has it, whatever a compiler makes of it: model FLOPs."""
    experiment = build(variant(config, "float32"), device=device)
    with FlopCounter() as counter:
        experiment.step(experiment.sampler.batches(0), experiment.schedule.controls(0))
    return counter.total


def table(found: Sequence[Variant]) -> str:
    """The variants as a Markdown table."""
    rows = [("variant", "images/s", "ms/iteration p50", "faster by, median [min..max]", "loss_d", "loss_g", "of peak")]
    for each in found:
        ratio = each.result.ratio
        faster = "" if ratio is None else f"{1 / ratio.median:.3f} [{1 / ratio.max:.3f}..{1 / ratio.min:.3f}]"
        speed = (f"{each.result.images_per_second:,.0f}", f"{each.result.milliseconds.median:.2f}", faster)
        peak = "" if each.utilization is None else f"{100 * each.utilization:.1f} %"
        rows.append((each.result.name, *speed, f"{each.loss_d:.5f}", f"{each.loss_g:.5f}", peak))
    return markdown(rows)
