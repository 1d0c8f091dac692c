"""Evaluate trained generators: `python -m ganscale.evaluate RUN_OR_CHECKPOINT [RUN ...] [options]`.

Scores go to the terminal and, as JSON, into the run's folder (evaluations/). Exit codes: 0 done, 1 failed,
2 invalid argument.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ganscale.cli import DONE, Parser, command
from ganscale.config import Config, ConfigError, parse
from ganscale.config.checks import check_files
from ganscale.config.evaluation import EXTRACTORS, METRICS
from ganscale.config.load import apply_override
from ganscale.storage.store import Place, open_place
from ganscale.tracking.console import show

if TYPE_CHECKING:
    from ganscale.evaluation.metrics.result import Evaluation


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    description = "Compute the metrics of a run's generator, beside those of as many real examples (the floor)."
    epilog = "metrics: " + "; ".join(f"{name} ({facts.meaning})" for name, facts in METRICS.items())
    parser = Parser("evaluate", description, epilog=epilog)
    add = parser.add_argument
    add("paths", nargs="+", metavar="RUN_OR_CHECKPOINT", help="folder or URI of a run, or of a checkpoint")
    add("--checkpoint", default="newest", help="of a run: newest (default), best, all, or its number of images")
    add("--metrics", help="names with commas between; default: those of the run's eval.metrics")
    add("--num-samples", help="number of samples; default: the run's eval.num_samples")
    add("--seed", help="of the samples; default: the run's eval.seed")
    add("--extractor", help=f"auto, {', '.join(EXTRACTORS)}; default: the run's eval.extractor")
    add("--weights", help="file of the extractor's weights")
    add("--workers", type=int, help="Ray workers that share the work; default: this process alone")
    add("--threads", type=int, default=os.cpu_count() or 1, help="CPU threads (default: all cores)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to compute")
    add("--data-path", help="where the run's data lie now, if elsewhere")
    add("--json", type=Path, help="write all scores to this file as well")
    add("--compare", action="store_true", help="show a table and a plot of scores that the runs have already")
    add("--plot", type=Path, default=Path("comparison.png"), help="PNG for the plot of --compare (comparison.png)")
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.compare:
        from ganscale.evaluation.compare import read_evaluations, save_plot, tables
        from ganscale.storage.run_dir import open_run

        folders = [open_run(path) for path in options.paths]
        runs = {folder.root.name: read_evaluations(folder.path) for folder in folders}
        show(tables(runs))
        save_plot(runs, options.plot)
        show(f"\n{options.plot}")
        return DONE
    rows = [(open_place(path).name, evaluation) for path in options.paths for evaluation in _evaluate(path, options)]
    if options.json:
        text = json.dumps([{"run": name, **evaluation.as_json()} for name, evaluation in rows], indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    return DONE


def _evaluate(path: str, options: argparse.Namespace) -> "list[Evaluation]":
    """Evaluate the checkpoints of one path, show the scores and store them in the run's folder."""
    from ganscale.evaluation.compare import sheet
    from ganscale.evaluation.evaluator import store_evaluation
    from ganscale.storage.checkpoint import read_manifest
    from ganscale.storage.run_dir import RunDir

    folders = _folders(path, options.checkpoint)
    config = _protocol(read_manifest(folders[0]).config, options)
    run = RunDir(folders[0].parent.parent)
    if options.workers:
        from ganscale.launch.evaluate import evaluate_on_ray

        found = evaluate_on_ray(config, folders, run.path / ".ray")
    else:
        from ganscale.evaluation.callback import evaluate_checkpoints
        from ganscale.launch.local import pick_device

        found = evaluate_checkpoints(config, folders, device=pick_device(config))
    for evaluation in found:
        show(f"\n{config.run.name} at {evaluation.images:,} images\n{sheet(evaluation)}")
        try:
            show(f"  {store_evaluation(evaluation, run.root / 'evaluations')}")
        except OSError as error:
            print(f"  not stored in the run's folder: {error}", file=sys.stderr)
    return found


def _folders(path: str, choice: str) -> list[Place]:
    """Absolute folders of the checkpoints, oldest first."""
    from ganscale.inference.load import choose_checkpoint
    from ganscale.storage.checkpoint import CheckpointStore

    if choice != "all":
        return [_absolute(choose_checkpoint(path, choice))]
    folders = CheckpointStore(open_place(path) / "checkpoints").folders()
    if not folders:
        raise ConfigError("no checkpoint found", key="path", value=path, remedy="name a run's folder (runs/NAME)")
    return [_absolute(folder) for folder in reversed(folders)]


def _absolute(folder: Place) -> Place:
    return folder.resolve() if isinstance(folder, Path) else folder


def _protocol(saved: dict[str, Any], options: argparse.Namespace) -> Config:
    """The run's config with the options' protocol."""
    raw: dict[str, Any] = {"eval": {}, "checkpoint": {}} | {key: dict(section) for key, section in saved.items()}
    for name in ("num_samples", "seed"):
        if getattr(options, name) is not None:
            apply_override(raw, f"eval.{name}={getattr(options, name).replace(',', '')}")
    texts = {"eval.extractor": options.extractor, "eval.weights": options.weights, "data.path": options.data_path}
    workers = {"num_workers": options.workers or 1, "cpus_per_worker": 1 if options.workers else options.threads}
    changes: dict[str, Any] = {key: value for key, value in texts.items() if value}
    changes |= {"checkpoint.best_metric": "", "train.device": options.device, "eval.mode": "inline"}
    changes |= {f"cluster.{key}": value for key, value in workers.items()}
    if options.metrics:
        changes["eval.metrics"] = [name.strip() for name in options.metrics.split(",")]
    for key, value in changes.items():
        section, _, name = key.partition(".")
        raw[section][name] = value
    config = parse(raw)
    check_files(config, scores=True)
    return config


main = command(make_parser, _run, failed="evaluation failed")

if __name__ == "__main__":
    sys.exit(main())
