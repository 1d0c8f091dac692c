"""Judge trained generators: `python -m ganscale.evaluate RUN_OR_CHECKPOINT [RUN ...] [options]`.

Scores go to the terminal and, as JSON, into the run's folder (evaluations/). Exit codes: 0 done, 1 failed, 2 an argument
cannot work.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganscale.config import Config, ConfigError, parse
from ganscale.config.evaluation import METRICS

if TYPE_CHECKING:
    from ganscale.metrics.result import Evaluation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    options = _parse(arguments)
    try:
        return _compare(options) if options.compare else _evaluate(options)
    except ConfigError as error:
        print(f"ganscale: error: {error}", file=sys.stderr, flush=True)
        return 2
    except (OSError, RuntimeError) as error:
        print(f"ganscale: evaluation failed: {error}", file=sys.stderr, flush=True)
        return 1


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ganscale.evaluate",
        description="Judge the generator of a run: its metrics beside those of as many real examples (the floor).",
        epilog="metrics: " + "; ".join(f"{name} ({facts.meaning})" for name, facts in METRICS.items()),
    )
    parser.add_argument("paths", nargs="+", metavar="RUN_OR_CHECKPOINT", help="folder of a run, or of a checkpoint")
    parser.add_argument("--checkpoint", default="newest", help="of a run: newest (default), best, all, or its images")
    parser.add_argument("--metrics", help="names with commas between; default: those of the run's eval.metrics")
    parser.add_argument("--num-samples", help="samples to judge; default: the run's eval.num_samples")
    parser.add_argument("--seed", help="of the samples; default: the run's eval.seed")
    parser.add_argument("--extractor", help="auto, mnist, inception or pixels; default: the run's eval.extractor")
    parser.add_argument("--weights", help="file of the extractor's weights")
    parser.add_argument("--workers", type=int, help="Ray workers that share the work; default: this process alone")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all cores)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    parser.add_argument("--data-path", help="where the run's data lie now, if elsewhere")
    parser.add_argument("--json", type=Path, help="write all scores to this file as well")
    parser.add_argument("--compare", action="store_true", help="table and plot of scores that the runs have already")
    parser.add_argument("--plot", type=Path, help="PNG for the plot of --compare (default: comparison.png)")
    return parser.parse_args(arguments)
