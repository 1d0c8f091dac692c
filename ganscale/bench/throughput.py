"""Measure training throughput: ganscale next to a minimal and a textbook loop, in one process, in turn."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ganscale.bench.baselines import BASELINES, check
from ganscale.bench.measure import CLOCKS, Ganscale, Result, machine, measure
from ganscale.bench.tracking import cost_table, tracking_cost
from ganscale.build import build
from ganscale.config import Config, ConfigError, load

PRESETS: dict[str, list[str]] = {
    "mlp": ["train.batch_size=128", "loss.label_smoothing=0"],
    "dcgan32": [
        "data.resolution=32",
        "model.generator.name=dcgan",
        "model.discriminator.name=dcgan",
        "train.batch_size=64",
        "loss.label_smoothing=0",
    ],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 when the request makes no sense."""
    options = _parser().parse_args(arguments)
    try:
        configs = _configs(options)
        if options.tracking:
            return _tracking(options, configs)
        baselines = _baselines(options.baselines)
        if baselines:
            for config in configs.values():
                check(config)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(options.threads)
    report: dict[str, Any] = {name: getattr(options, name) for name in ("iterations", "rounds", "clock", "same_layers")}
    report["results"] = {}
    for title, config in configs.items():
        device = _device(config)
        if "machine" not in report:
            report["machine"] = machine(device)
            print(", ".join(f"{key} {value}" for key, value in report["machine"].items()))
        experiment = build(config, device=device)
        contenders = [Ganscale(experiment), *(BASELINES[name](experiment, options.same_layers) for name in baselines)]
        results = measure(contenders, iterations=options.iterations, rounds=options.rounds, clock=options.clock)
        blocks = f"{options.rounds} rounds of {options.iterations} iterations, {options.clock} time"
        print(f"\n{title}: batch {config.train.batch_size}, {blocks}\n")
        print(table(results), flush=True)
        report["results"][title] = [asdict(result) for result in results]
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _tracking(options: argparse.Namespace, configs: dict[str, Config]) -> int:
    """Print what tracking costs."""
    costs, device = [], torch.device("cpu")
    for title, config in configs.items():
        device = _device(config)
        print(f"{title}: {options.rounds} periods of {config.log.samples_every:,} images", flush=True)
        costs.append(tracking_cost(title, config, periods=options.rounds, device=device))
    print("\n" + cost_table(costs))
    if options.json:
        report = {"machine": machine(device), "tracking": [asdict(cost) for cost in costs]}
        options.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def table(results: Sequence[Result]) -> str:
    """The results as a Markdown table."""
    rows = [("loop", "images/s", "ms/iteration p50 (p10, p90)", "ganscale is faster by, median [min..max]")]
    for result in results:
        ms, ratio = result.milliseconds, result.ratio
        faster = "" if ratio is None else f"{ratio.median:.3f} [{ratio.min:.3f}..{ratio.max:.3f}]"
        speed = f"{result.images_per_second:,.0f}"
        rows.append((result.name, speed, f"{ms.median:.2f} ({ms.p10:.2f}, {ms.p90:.2f})", faster))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ganscale.bench",
        description="Measure training throughput next to hand-written loops with the same networks and batch, in one "
        "process and in turn. A ratio above 1 means that ganscale is faster.",
    )
    parser.add_argument("--config", type=Path, help="YAML file of the run to measure; without it, --presets")
    parser.add_argument("--presets", default=",".join(PRESETS), help="which runs to measure (default: %(default)s)")
    parser.add_argument("--baselines", default=",".join(BASELINES), help="or none (default: %(default)s)")
    parser.add_argument("--iterations", type=_positive, default=25, help="per block (default: %(default)s)")
    parser.add_argument("--rounds", type=_positive, default=30, help="of one block each (default: %(default)s)")
    parser.add_argument("--threads", type=_positive, default=1, help="of torch (default: %(default)s)")
    parser.add_argument(
        "--clock",
        choices=list(CLOCKS),
        default="wall",
        help="cpu: this process's processor time, which other programs on the machine do not disturb (default: wall)",
    )
    parser.add_argument(
        "--same-layers", action="store_true", help="give the baselines our Linear and BatchNorm instead of torch's"
    )
    parser.add_argument(
        "--tracking",
        action="store_true",
        help="measure instead what the run folder, W&B and the console cost a run, in --rounds periods of "
        "log.samples_every images",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures there")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of every run measured")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _configs(options: argparse.Namespace) -> dict[str, Config]:
    if options.config:
        return {options.config.stem: load(options.config, options.overrides)}
    return {
        name: load(None, [*PRESETS[name], *options.overrides])
        for name in _names(options.presets, list(PRESETS), key="--presets")
    }


def _baselines(text: str) -> list[str]:
    return [] if text == "none" else _names(text, list(BASELINES), key="--baselines")


def _names(text: str, known: Sequence[str], *, key: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ConfigError("unknown name", key=key, value=name, remedy=f"choose from {', '.join(known)}")
    return names


def _device(config: Config) -> torch.device:
    if config.train.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(config.train.device)


if __name__ == "__main__":
    sys.exit(main())
