"""Judge trained generators: `python -m ganscale.evaluate RUN_OR_CHECKPOINT [RUN ...] [options]`.

Scores go to the terminal and, as JSON, into the run's folder (evaluations/). Exit codes: 0 done, 1 failed,
2 an argument cannot work.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganscale.cli import log_to_stdout
from ganscale.config import Config, ConfigError, parse
from ganscale.config.checks import check_files
from ganscale.config.evaluation import METRICS

if TYPE_CHECKING:
    from ganscale.evaluation.metrics.result import Evaluation


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    log_to_stdout()
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


def _evaluate(options: argparse.Namespace) -> int:
    rows: list[tuple[str, Evaluation]] = []
    for path in options.paths:
        rows += [(Path(path).name, evaluation) for evaluation in _judge(path, options)]
    if options.json:
        text = json.dumps([{"run": name, **evaluation.as_json()} for name, evaluation in rows], indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return 0


def _judge(path: str, options: argparse.Namespace) -> "list[Evaluation]":
    """Judge what one path names, show it, and keep it in the run's folder."""
    from ganscale.evaluation.compare import sheet
    from ganscale.evaluation.evaluator import store_evaluation
    from ganscale.storage.checkpoint import read_manifest

    folders = _folders(path, options.checkpoint)
    config = _protocol(read_manifest(folders[0]).config, options)
    run = folders[0].parent.parent
    if options.workers:
        from ganscale.launch.evaluate import evaluate_on_ray

        found = evaluate_on_ray(config, folders, run / ".ray")
    else:
        from ganscale.evaluation.callback import evaluate_checkpoints
        from ganscale.launch.local import pick_device

        found = evaluate_checkpoints(config, folders, device=pick_device(config))
    for evaluation in found:
        print(f"\n{config.run.name} at {evaluation.images:,} images")
        print(sheet(evaluation), flush=True)
        try:
            print(f"  {store_evaluation(evaluation, run / 'evaluations')}")
        except OSError as error:
            print(f"  not kept beside the run: {error}", file=sys.stderr)
    return found


def _folders(path: str, choice: str) -> list[Path]:
    """Absolute folders of the checkpoints that are meant, oldest first."""
    from ganscale.inference.load import choose_checkpoint
    from ganscale.storage.checkpoint import CheckpointStore

    if choice != "all":
        return [choose_checkpoint(path, choice).resolve()]
    folders = CheckpointStore(Path(path).expanduser() / "checkpoints").folders()
    if not folders:
        raise ConfigError("no checkpoint lies there", key="path", value=path, remedy="name a run's folder (runs/NAME)")
    return [folder.resolve() for folder in reversed(folders)]


def _protocol(saved: dict[str, Any], options: argparse.Namespace) -> Config:
    """The run's config with the protocol that the options ask for.

    Raises:
        ConfigError: an option cannot work with this run.
    """
    raw = {key: dict(section) for key, section in saved.items()}
    protocol = raw.setdefault("eval", {})
    if options.metrics:
        protocol["metrics"] = [name.strip() for name in options.metrics.split(",")]
    for name in ("num_samples", "seed"):
        value = getattr(options, name)
        if value is not None:
            digits = value.replace("_", "").replace(",", "")
            protocol[name] = int(digits) if digits.isdigit() else value
    for name in ("extractor", "weights"):
        if getattr(options, name):
            protocol[name] = getattr(options, name)
    raw.setdefault("checkpoint", {})["best_metric"] = ""
    raw["train"]["device"] = options.device
    raw["cluster"] |= {
        "num_workers": options.workers or 1,
        "cpus_per_worker": 1 if options.workers else options.threads,
    }
    if options.data_path:
        raw["data"]["path"] = options.data_path
    config = parse(raw)
    check_files(config)
    return config


def _compare(options: argparse.Namespace) -> int:
    from ganscale.evaluation.compare import read_evaluations, save_plot, tables

    runs = {Path(path).name: read_evaluations(Path(path).expanduser()) for path in options.paths}
    print(tables(runs))
    plot = options.plot or Path("comparison.png")
    save_plot(runs, plot)
    print(f"\n{plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
