"""Check and convert pictures once: `python -m ganscale.prepare SOURCE OUT [options]`.

Exit codes: 0 done, 1 pictures cannot be read or the storage failed, 2 invalid argument.
"""

import argparse
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ganscale.cli import DONE, Parser, command
from ganscale.config import ConfigError
from ganscale.config.datasets import as_resolution
from ganscale.tracking.console import show

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


class _Parser(Parser):
    """A parser whose `--resolution` takes a second number, unless that leaves too few words for SOURCE and OUT."""

    def parse_intermixed_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        words = list(sys.argv[1:] if args is None else args)
        if self.parse_known_intermixed_args(words)[1]:  # a word too many: the second number
            for place, (option, *sides) in enumerate(zip(words, words[1:], words[2:], strict=False)):
                if option == "--resolution" and all(side.isdecimal() for side in sides):
                    words[place + 1 : place + 3] = [" ".join(sides)]
                    break
        return super().parse_intermixed_args(words, namespace)


def _sides(text: str) -> list[int]:
    try:
        return [int(side) for side in text.split()]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of pixels: write e.g. 64, or 48 64") from None


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    description = (
        "Check every picture of SOURCE once, convert all to shards with an index and checksums in OUT, and report "
        "classes, statistics and duplicates. The same command continues after an interruption. A folder of latents "
        "(.npy files) becomes a set of latents, and starts from the beginning after an interruption."
    )
    parser = _Parser("prepare", description, epilog="docs/data.md describes the format and the rules")
    add = parser.add_argument
    add("source", metavar="SOURCE", help="folder, zip, tar or parquet shards of pictures, also in a bucket (URI)")
    add("out", metavar="OUT", help="new folder, or prefix in a bucket (s3://, gs://, az://)")
    add(
        "--resolution",
        type=_sides,
        metavar="SIDE [SIDE]",
        help="side of the images in pixels, or height and width; default: that of the pictures, if all agree",
    )
    add("--channels", choices=("auto", "1", "3", "4"), default="auto", help="gray, RGB or RGBA; as data.channels")
    add("--fit", choices=("crop", "pad", "stretch"), default="crop", help="as data.fit (crop)")
    add("--background", nargs=3, type=int, metavar=("R", "G", "B"), default=(255, 255, 255), help="as data.background")
    add("--range", nargs=2, type=float, metavar=("LOW", "HIGH"), help="as data.range")
    add("--labels", choices=("auto", "top", "path", "none"), default="auto", help="as data.labels (auto)")
    add("--shard-size", default="100MB", help="size at which a shard ends (100MB)")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    add("--skip-bad", action="store_true", help="leave out pictures that cannot be read, instead of exit code 1")
    return parser


def parse_size(text: str, key: str) -> int:
    """A number of bytes such as `100MB` or `1GiB`.

    Args:
        text: number and unit.
        key: of the option, for the message.

    Raises:
        ConfigError: it is none, or less than a megabyte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]?I?B?)", text.strip().upper())
    size = int(float(found[1]) * _UNITS.get(found[2], 0)) if found else 0
    if not 10**6 <= size <= 4 * 10**9:
        raise ConfigError("is no size from 1MB to 4GB", key=key, value=text, remedy="write e.g. 100MB")
    return size


def _run(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from ganscale.data.pictures import Rules
    from ganscale.prepare.convert import Settings, as_text, prepare
    from ganscale.prepare.latents import is_latents, prepare_latents
    from ganscale.storage.store import open_place

    source, target = open_place(options.source, key="SOURCE"), open_place(options.out, key="OUT")
    if is_latents(source):
        for name, value in vars(options).items():
            if name not in ("source", "out", "workers") and value != make_parser().get_default(name):
                key, remedy = f"--{name.replace('_', '-')}", "leave it out"
                raise ConfigError("latents (.npy) are taken as they are", key=key, value=value, remedy=remedy)
        show(prepare_latents(Path(str(source)), target))
        return DONE
    try:
        resolution = None if options.resolution is None else as_resolution(options.resolution)
    except ValueError:
        remedy = "write a side from 8 to 1024, e.g. 64, or height and width, e.g. 64 96"
        raise ConfigError("is no size", key="--resolution", value=options.resolution, remedy=remedy) from None
    if options.workers < 1:
        raise ConfigError("is less than 1", key="--workers", value=options.workers, remedy="write 1 or more")
    channels = None if options.channels == "auto" else int(options.channels)
    if not all(0 <= value <= 255 for value in options.background):
        raise ConfigError("is not from 0 to 255", key="--background", value=options.background, remedy="write R G B")
    red, green, blue = options.background
    limits = (options.range[0], options.range[1]) if options.range else None
    settings = Settings(
        resolution=resolution,
        rules=Rules(channels, options.fit, (red, green, blue), limits),
        labels=options.labels,
        shard_size=parse_size(options.shard_size, "--shard-size"),
        workers=options.workers,
        skip_bad=options.skip_bad,
    )
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[bad]} bad"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("pictures", total=None, bad=0)
        report = prepare(
            source,
            target,
            settings,
            lambda done, total, bad: bar.update(task, completed=done, total=total, bad=f"{bad:,}"),
        )
    show(as_text(report, str(target)))
    return DONE


main = command(make_parser, _run, failed="not prepared")

if __name__ == "__main__":
    sys.exit(main())
