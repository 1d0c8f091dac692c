"""Copy a run: `python -m ganscale.copy RUN TARGET`, each a folder or a URI such as s3://bucket/runs/try1.

The copy has all files and checkpoints, byte for byte, but no logs of past commands (`logs/`): training that resumes
from it ends with the same weights. Exit codes: 0 done, 1 the storage failed, 2 invalid argument.
"""

import argparse
import shutil
import sys
from pathlib import Path

from ganscale.cli import DONE, Parser, command
from ganscale.config.errors import ConfigError
from ganscale.tracking.console import show


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser("copy", "Copy a run, with its checkpoints, from a folder to a bucket or back.")
    parser.add_argument("run", metavar="RUN", help="folder or URI of the run, which no process trains")
    parser.add_argument("target", metavar="TARGET", help="folder or URI of the copy: RUN_DIR/NAME with the run's name")
    return parser


def _run(options: argparse.Namespace) -> int:
    number = copy_run(options.run, options.target)
    show(f"{options.target}: copied with {number} checkpoint{'s' * (number != 1)}")
    return DONE


def copy_run(run: str, target: str) -> int:
    """Copy a run.

    Args:
        run: its folder or URI.
        target: of the copy.

    Returns:
        The number of checkpoints copied; damaged ones stay behind.

    Raises:
        ConfigError: there is no such run, it is being trained, or there is something at the target.
        OSError: the storage fails.
    """
    from ganscale.config.load import recorded
    from ganscale.storage.checkpoint import CheckpointError, read_manifest
    from ganscale.storage.lease import acquire, check_free
    from ganscale.storage.mirror import APART
    from ganscale.storage.run_dir import RunDir, checkpoint_store, open_run

    source = open_run(run)
    if not source.config.exists():
        raise ConfigError("no such run", key="RUN", value=run, remedy="name the folder of a run, e.g. runs/mnist_mlp")
    config = recorded(source.config)
    place = RunDir(target)
    if place.root.name != config.run.name:
        remedy = f"name a place that ends with /{config.run.name}, where the run can be resumed"
        raise ConfigError(f"the run's name is {config.run.name}", key="TARGET", value=target, remedy=remedy)
    place.fetch("config.yaml")
    if place.config.exists():
        remedy = "remove it, or name another place"
        raise ConfigError("a run lies there already", key="TARGET", value=target, remedy=remedy)
    check_free(source, patience=0.0, info=show)
    place.path.mkdir(parents=True, exist_ok=True)
    lease = acquire(place, patience=0.0, info=show)
    try:
        place.write_as(lease.confirm)
        store, number = checkpoint_store(config, place), 0
        for folder in reversed(checkpoint_store(config, source).folders()):
            try:
                store.add(read_manifest(folder))
                number += 1
            except CheckpointError as error:
                show(f"checkpoint {folder.name} is not copied: {error}")
        for path in source.path.iterdir():  # the config, by which the copy counts as a run, comes last
            if path.name not in (*APART, "config.yaml") and not path.name.startswith("."):
                _copy(path, place.path / path.name)
        place.push()
        _copy(source.config, place.config)
        place.push()
        return number
    finally:
        place.close()
        lease.release()


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy2(source, target, follow_symlinks=False)


main = command(make_parser, _run, failed="the run could not be copied")

if __name__ == "__main__":
    sys.exit(main())
