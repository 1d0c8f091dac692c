"""Train a GAN: `python -m ganscale.train [CONFIG.yaml] [section.key=value ...]`.

The same command with the same run.name resumes the run. Exit codes: 0 done, 1 training failed, 2 invalid setting,
3 stopped by a health verdict (`health.response`), 75 stopped by SIGTERM with the state saved.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ganscale.api import LAUNCHERS, Result, Trainer
from ganscale.cli import DONE, FAILED, STOPPED, UNHEALTHY, Parser, command, fail, run_keys, split_words
from ganscale.config import Config, ConfigError, dump
from ganscale.tracking.console import show

if TYPE_CHECKING:
    import torch

    from ganscale.data import Source


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    from ganscale.config.reference import text

    description = "Train a GAN, data-parallel on any number of workers; the same command again resumes the run."
    parser = Parser("train", description, settings=text, keys=run_keys)
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | section.key=value")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the resolved run, then warnings and the memory of a worker"
    )
    launcher = "what starts the workers: Ray (default), torchrun (default under torchrun), or this process alone"
    parser.add_argument("--launcher", choices=LAUNCHERS, default="auto", help=launcher)
    return parser


def _run(options: argparse.Namespace) -> int:
    trainer = Trainer(*split_words(options.words), launcher=options.launcher)
    if options.dry_run:
        show(dump(trainer.config).rstrip("\n"))
        show("\n".join(f"# {line}" for line in _remarks(trainer.config)))
        return DONE
    result = trainer.fit()
    code = UNHEALTHY if result.diagnosis else DONE
    if result.stop_reason:
        code = FAILED if result.stop_reason == "STORAGE" else STOPPED
    if trainer.is_rank_zero:
        run, log = f"run {result.config.run.name}", f"\n  log: {result.folder / 'train.log'}"
        if result.diagnosis:
            return fail(f"{run} was stopped: {result.diagnosis}{log}", code)
        if result.stop_reason:
            return fail(f"{run} stopped at {result.images:,} images; the same command resumes it{log}", code)
        show(summary(result))
    return code


def _remarks(config: Config) -> list[str]:
    """Warnings, and the memory that a worker needs, as lines of text."""
    from ganscale.config.checks import check_files
    from ganscale.config.schedules import average_warning
    from ganscale.evaluation.callback import without_extractor
    from ganscale.evaluation.evaluator import missing_extractor
    from ganscale.launch.local import pick_device
    from ganscale.parallel.replica import Replica
    from ganscale.training.build import build_source
    from ganscale.training.memory import report

    warnings = [warning] if (warning := average_warning(config)) else []
    if config.optim.auto:
        warnings.append("optim.auto: both rates are found before the first image; lr_g and lr_d have no effect")
    if config.penalty.auto:
        warnings.append("penalty.auto: gamma of R1 and R2 is set during the run; r1 and r2 have no effect")
    if config.eval.mode == "async" and config.eval.every:
        cpus = f"{config.eval.cpus} CPU{'s' * (config.eval.cpus > 1)}"
        gpus = " and 1 GPU" if config.eval.gpus else ""
        warnings.append(f"eval.mode = async: evaluation takes {cpus}{gpus} beside the workers")
    wanted = config.cluster.num_workers
    workers = 1 if wanted == "auto" else wanted if isinstance(wanted, int) else wanted[0]
    try:
        check_files(config)
        if 0 < config.eval.every <= config.train.images and (missing := missing_extractor(config)):
            warnings.append(without_extractor(config, missing)[0])
        device = pick_device(config)
        source = build_source(config, device)
        warnings += report(config, source, device, Replica(0, workers))
    except ConfigError as error:  # no data or no GPU on this machine
        return [*warnings, "memory per worker: not known here", *str(error).splitlines()]
    return warnings + _warm_start(config, source, device)


def _warm_start(config: Config, source: "Source", device: "torch.device") -> list[str]:
    """What the run would take from `train.init_from`, with the table of all layers, as lines of text."""
    from ganscale.run.warm_start import read, start
    from ganscale.training.build import initial_state

    if not config.train.init_from:
        return []
    state = initial_state(config, source.shape, device, num_classes=source.num_classes)
    return start(config, state, source, read(config), whole=True).lines


def summary(result: Result) -> str:
    """Where everything of a complete run lies.

    Args:
        result: The run's end.
    """
    config, folder = result.config, result.folder
    head = f"run {config.run.name} is complete at {result.images:,} images"
    if result.resumed_at >= result.images:
        remedy = "to continue, raise train.images; to start again, use another run.name"
        return f"{head}: {folder}\n  {remedy}"
    lines = [
        head,
        f"  samples      {folder / 'samples'}{os.sep}",
        f"  metrics      {folder / 'metrics.jsonl'}",
        f"  checkpoints  {folder / 'checkpoints'}{os.sep}",
    ]
    if isinstance(folder, Path) and list(folder.glob("wandb/offline-run-*")):
        lines.append(f"  W&B          offline; upload with: wandb sync {folder}/wandb/offline-run-*")
    elif config.wandb.mode != "disabled" and (folder / "wandb_id").exists():
        name = (folder / "wandb_id").read_text(encoding="utf-8").strip()
        lines.append(f"  W&B          run {name} in project {config.wandb.project}")
    return "\n".join(lines)


main = command(
    make_parser,
    _run,
    failed="training failed",
    interrupted="interrupted; the same command resumes from the last checkpoint",
)

if __name__ == "__main__":
    sys.exit(main())
