"""Train a GAN: `python -m ganscale.train [CONFIG.yaml] [section.key=value ...]`.

The same command with the same run.name goes on where the run stopped. Exit codes: 0 done, 1 training failed,
2 a setting cannot work, 3 a verdict on the training stopped the run (`health.response`), 75 the run was asked to leave
(SIGTERM) and saved its state.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from ganscale.cli import log_to_stdout, show
from ganscale.config import Config, ConfigError, dump, load

if TYPE_CHECKING:
    from ganscale.storage.run_dir import RunDir

LEFT = 75
"""Exit code of a run that was asked to leave: EX_TEMPFAIL of sysexits.h, to be tried again later."""
LAUNCHERS = ("auto", "ray", "torchrun", "local")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    log_to_stdout()
    options = _parse(sys.argv[1:] if arguments is None else list(arguments))
    try:
        config = load(options.config, options.overrides)
        if options.dry_run:
            show(dump(config).rstrip("\n"))
            return 0
        return _run(config, options.launcher)
    except ConfigError as error:
        print(f"ganscale: error: {error}", file=sys.stderr, flush=True)
        return 2
    except OSError as error:
        print(f"ganscale: training failed: {error}", file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print("ganscale: interrupted; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        return 130


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m ganscale.train",
        description="Train a GAN, data-parallel on any number of workers; the same command again resumes the run.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("words", nargs="*", metavar="CONFIG.yaml | section.key=value")
    parser.add_argument("-h", "--help", action="store_true", help="show this and all settings, then stop")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved run, then stop")
    parser.add_argument(
        "--launcher",
        choices=LAUNCHERS,
        default="auto",
        help="who starts the workers: Ray (default), torchrun (default under torchrun), or this process alone",
    )
    options = parser.parse_intermixed_args(arguments)
    if options.help:
        from ganscale.config.reference import text

        with suppress(BrokenPipeError):
            print(parser.format_help() + "\n" + text(), flush=True)
        raise SystemExit(0)
    files = [word for word in options.words if "=" not in word]
    options.overrides = [word for word in options.words if "=" in word]
    if len(files) > 1:
        parser.error(f"one config file at most, not {' and '.join(files)}")
    options.config = files[0] if files else None
    return options


def _run(config: Config, launcher: str) -> int:
    from ganscale.config.checks import check_files
    from ganscale.storage.run_dir import inspect, locate

    check_files(config)
    if launcher == "auto":
        launcher = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "ray"
    folder = locate(config)
    newest = inspect(config, folder)
    speaks = launcher != "torchrun" or os.environ.get("RANK", "0") == "0"
    if newest and newest.images >= config.train.images:
        if speaks:
            print(f"run {config.run.name} is complete at {newest.images:,} images: {folder.path}")
            print("  to go on, raise train.images; to start anew, give another run.name", flush=True)
            _deliver(config, folder)
        return 0
    if launcher == "ray":
        from ganscale.launch.ray_train import TrainingError, train_on_ray

        try:
            outcome = train_on_ray(config, folder)
        except TrainingError as error:
            print(f"ganscale: training failed: {error}\n  log: {folder.log}", file=sys.stderr, flush=True)
            return 1
    else:
        from ganscale.launch.local import launch_local, launch_torchrun

        outcome = (launch_torchrun if launcher == "torchrun" else launch_local)(config, folder.path)
    if outcome.diagnosis:
        if speaks:
            problem = f"run {config.run.name} was stopped: {outcome.diagnosis}"
            print(f"ganscale: {problem}\n  log: {folder.log}", file=sys.stderr, flush=True)
        return 3
    if outcome.left:
        if speaks:
            told = f"run {config.run.name} was left at {outcome.images:,} images"
            print(f"ganscale: {told}; the same command goes on from the last checkpoint", file=sys.stderr, flush=True)
        return 1 if outcome.left.name == "STORAGE" else LEFT
    if speaks:
        print(summary(config, folder, outcome.images), flush=True)
    return 0


def _deliver(config: Config, folder: "RunDir") -> None:
    """Send W&B what it has not taken yet."""
    if config.wandb.mode in ("online", "auto"):
        from ganscale.tracking.wandb import deliver

        deliver(config, folder, lambda line: print(f"  {line}", flush=True))


def summary(config: Config, folder: "RunDir", images: int) -> str:
    """Where everything of a finished run lies."""
    lines = [
        f"run {config.run.name} is complete at {images:,} images",
        f"  samples      {folder.samples}{os.sep}",
        f"  metrics      {folder.metrics}",
        f"  checkpoints  {folder.checkpoints}{os.sep}",
    ]
    offline = sorted(folder.path.glob("wandb/offline-run-*"))
    if offline:
        lines.append(f"  W&B          offline; upload with: wandb sync {folder.path}/wandb/offline-run-*")
    elif config.wandb.mode != "disabled" and (folder.path / "wandb_id").exists():
        name = (folder.path / "wandb_id").read_text(encoding="utf-8").strip()
        lines.append(f"  W&B          run {name} in project {config.wandb.project}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
