"""Make images with a trained generator: `python -m ganscale.sample RUN [options]`.

RUN is a run's folder, one of its checkpoints, or an export. Exit codes: 0 done, 1 failed, 2 invalid argument.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ganscale.cli import DONE, Parser, command
from ganscale.config import EXTRACTORS
from ganscale.config.errors import ConfigError
from ganscale.storage.store import open_place
from ganscale.tracking.console import show

if TYPE_CHECKING:
    from ganscale.inference.generator import LoadedGenerator


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = Parser(
        "sample",
        "Make images with a trained generator's moving average. The image of a seed depends on the seed, its label "
        "and the truncation alone. Without one of the modes below: a grid (of 2-D data a scatter plot).",
    )
    add = parser.add_argument
    add("path", metavar="RUN", help="a run's folder or URI, one of its checkpoints, or an export")
    add("--checkpoint", default="newest", metavar="WHICH", help="of a run: newest (default), best, or number of images")
    wanted = "of a run with ema.profiles: another average, of this width relative to the run's length (0.005 to 0.28)"
    add("--ema", type=float, metavar="WIDTH", help=wanted)
    add("--seeds", metavar="0-63,100", help="which images (grid, --images: 0-63; --interpolate: 0-7; --nearest: 0-9)")
    add("--labels", metavar="3,4 | all", help="classes; a grid gets one row per class (default: seed mod classes)")
    add("--truncation", type=float, default=1.0, metavar="PSI", help="0 to 1: z times PSI, of StyleGAN2 w (default: 1)")
    add("--out", type=Path, metavar="FOLDER", help="where grid, interpolation and so on go (default: RUN/generated)")
    add("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where to compute (default: a GPU if any)")
    mode = parser.add_mutually_exclusive_group().add_argument
    mode("--images", type=Path, metavar="FOLDER", help="write single PNGs, named by seed, there")
    mode("--interpolate", action="store_true", help="walk from seed to seed: a grid, a GIF, an MP4")
    mode("--nearest", type=int, metavar="K", help="show the K nearest training images of each sample")
    mode("--mix", metavar="0-3", help="replace styles of --seeds (0-7) by those of these seeds (stylegan2)")
    mode("--truncations", metavar="0.5,0.7,1", help="a row of images per PSI; precision against recall")
    mode("--project", type=Path, nargs="+", metavar="PICTURE", help="find the latents nearest to pictures")
    mode("--num-samples", type=int, metavar="N", help="write images 0 to N-1 as files of many, to --out")
    mode("--export", type=Path, metavar="FOLDER", help="write the generator itself there")
    features = "with --nearest: what is compared, pixels (default) or an extractor's features"
    add("--features", choices=tuple(EXTRACTORS), help=features)
    add("--steps", type=int, metavar="N", help="with --interpolate: images from seed to seed in the grid (default: 10)")
    add("--layers", metavar="0-3", help="with --mix: coarse (default), middle, fine, or numbers of layers")
    add(
        "--judge", type=int, metavar="N", help="with --truncations: samples that are judged at each PSI (default: 5000)"
    )
    where = "with --project: where to search (default: w where there is a mapping network)"
    add("--space", choices=("z", "w"), help=where)
    add("--iterations", type=int, metavar="N", help="with --project: of the search (default: 500)")
    add("--format", choices=("npz", "zip"), help="with --num-samples: arrays (default) or zips of PNGs")
    add("--shard-size", type=int, metavar="N", help="with --num-samples: images per file (default: 10000)")
    add("--workers", type=int, metavar="N", help="with --num-samples: make N files at a time on a Ray cluster")
    add("--address", metavar="HOST:PORT", help="with --num-samples: the cluster; auto (default), local, or its address")
    add("--formats", metavar="LIST", help="with --export: of safetensors,pt2,onnx (default: all that can be written)")
    return parser


_MODE_OF = {
    "features": "nearest",
    "steps": "interpolate",
    "layers": "mix",
    "judge": "truncations",
    "space": "project",
    "iterations": "project",
    "format": "num_samples",
    "shard_size": "num_samples",
    "workers": "num_samples",
    "address": "num_samples",
    "formats": "export",
}
"""Option to the mode that it is for."""
_LEAST = {"judge": 10, "steps": 2} | dict.fromkeys(("nearest", "iterations", "num_samples", "shard_size", "workers"), 1)
_UNUSED = {
    "seeds": {
        "num_samples": "the seeds are 0 to --num-samples - 1",
        "project": "latents are searched for, not drawn",
        "export": "the program takes z itself",
    },
    "labels": {"export": "the program takes labels itself"},
    "truncation": {
        "truncations": "these are the truncations",
        "project": "latents are searched for, not drawn",
        "export": "the program takes z itself",
    },
    "out": {"images": "--images names the folder", "export": "--export names the folder"},
}
"""Option of all modes to those that do not use it, and why."""


def _mode(options: argparse.Namespace) -> str:
    """Name of the mode that was asked for; empty for a grid."""
    return next((name for name in MODES if getattr(options, name) not in (None, False)), "")


def _check(options: argparse.Namespace) -> None:
    """Refuse what needs no generator to be refused."""
    if not 0.0 <= options.truncation <= 1.0:
        remedy = "use a number from 0 (the mean of z) to 1 (z as in training)"
        raise ConfigError("out of range", key="--truncation", value=options.truncation, remedy=remedy)
    for name, value in vars(options).items():
        key = f"--{name.replace('_', '-')}"
        mode = _MODE_OF.get(name)
        if mode and value is not None and getattr(options, mode) in (None, False):
            remedy = f"add --{mode.replace('_', '-')}, or leave it out"
            raise ConfigError("it belongs to another mode", key=key, value=value, remedy=remedy)
        reason = _UNUSED.get(name, {}).get(_mode(options))
        if reason and value not in (None, 1.0):
            raise ConfigError("it belongs to another mode", key=key, value=value, remedy=f"leave it out: {reason}")
        if name in _LEAST and value is not None and value < _LEAST[name]:
            raise ConfigError("too small", key=key, value=value, remedy=f"use {_LEAST[name]} or more")


class _Request(NamedTuple):
    """What a mode works on."""

    options: argparse.Namespace
    generator: "LoadedGenerator"
    folder: Path
    seeds: list[int] | None
    labels: list[int] | None

    def seeds_or(self, count: int) -> tuple[list[int], str]:
        """The seeds and how they are written; by default the first `count`."""
        return (self.seeds, self.options.seeds) if self.seeds else (list(range(count)), f"0-{count - 1}")


def _run(options: argparse.Namespace) -> int:
    _check(options)
    from ganscale.inference.grid import parse_labels, parse_seeds
    from ganscale.inference.load import load_generator

    seeds = parse_seeds(options.seeds) if options.seeds is not None else None
    device = "cpu" if options.workers else _device(options.device)
    generator = load_generator(options.path, device=device, checkpoint=options.checkpoint, ema=options.ema)
    labels = parse_labels(options.labels, generator.num_classes) if options.labels is not None else None
    if not generator.can_truncate and (options.truncation != 1.0 or options.truncations is not None):
        key = "--truncation" if options.truncations is None else "--truncations"
        value = options.truncation if options.truncations is None else options.truncations
        name = generator.description.generator["name"]
        problem = f"{name} divides z by its size: only its direction has an effect"
        raise ConfigError(problem, key=key, value=value, remedy="leave it out")
    about = generator.description
    classes = f", {about.num_classes} classes" if about.num_classes else ""
    size = "x".join(map(str, about.shape))
    show(f"run {about.run} at {about.images:,} images: {about.generator['name']}, {size}{classes}")
    if generator.average:
        show(f"  {generator.average.line()}")
    request = _Request(options, generator, options.out or _home(options.path) / "generated", seeds, labels)
    for line in MODES.get(_mode(options), _grid)(request):
        show(f"  {line}")
    return DONE


def _device(name: str) -> str:
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("this machine has no GPU", key="--device", value=name, remedy="use auto or cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _home(text: str) -> Path:
    """The folder of the run or of the export that a path belongs to; for a run in a bucket the current one."""
    path = open_place(text)
    if not isinstance(path, Path):
        return Path.cwd()
    path = path.absolute()
    if path.is_file() or (path / "manifest.json").exists():
        path = path.parent
    return path.parent if path.name == "checkpoints" else path


def _grid(request: _Request) -> Iterator[str]:
    from ganscale.inference.grid import NUM_POINTS, save_grid

    few = 10 if request.labels else NUM_POINTS if len(request.generator.shape) == 1 else 64
    seeds, text = request.seeds_or(few)
    path, options = request.folder / "grid.png", request.options
    settings = {"seeds": text, "labels": options.labels}
    save_grid(request.generator, path, seeds, request.labels, options.truncation, settings)
    yield f"grid  {path}"


def _images(request: _Request) -> Iterator[str]:
    from ganscale.inference.grid import save_images

    options, (seeds, _) = request.options, request.seeds_or(64)
    count = save_images(request.generator, options.images, seeds, request.labels, options.truncation)
    yield f"{count:,} images  {options.images}"


def _interpolate(request: _Request) -> Iterator[str]:
    from ganscale.inference.interpolate import save_interpolation

    options, (seeds, text) = request.options, request.seeds_or(8)
    files = save_interpolation(
        request.generator,
        request.folder,
        seeds,
        steps=options.steps or 10,
        label=_one_label(request),
        truncation=options.truncation,
        settings={"seeds": text},
    )
    yield from (f"{path.suffix[1:].upper()}  {path}" for path in files)
    if len(files) < 3:
        yield "no MP4: it needs the package imageio-ffmpeg (pip install imageio-ffmpeg)"


def _nearest(request: _Request) -> Iterator[str]:
    from ganscale.inference.neighbors import features_of, save_neighbors

    options, (seeds, text) = request.options, request.seeds_or(10)
    label = _one_label(request)
    report = save_neighbors(
        request.generator,
        request.folder,
        seeds,
        options.nearest,
        labels=None if label is None else [label] * len(seeds),
        truncation=options.truncation,
        features=features_of(options.features or "pixels", request.generator),
        settings={"seeds": text, "features": options.features or "pixels"},
    )
    what = "pixel RMS, -1 to 1" if options.features in (None, "pixels") else f"features of {options.features}"
    yield f"compared with {report.num_images:,} training images; median distance to the nearest ({what}):"
    yield f"  samples {report.samples:.4f}, training images among each other {report.reals:.4f}"
    yield from (f"{path.stem}  {path}" for path in report.files)


def _mix(request: _Request) -> Iterator[str]:
    from ganscale.inference.grid import parse_seeds
    from ganscale.inference.styles import save_mixing

    options, (seeds, text) = request.options, request.seeds_or(8)
    path = save_mixing(
        request.generator,
        request.folder,
        seeds,
        parse_seeds(options.mix, key="--mix"),
        options.layers or "coarse",
        label=_one_label(request),
        truncation=options.truncation,
        settings={"seeds": text, "sources": options.mix},
    )
    yield f"mixing  {path}"


def _truncations(request: _Request) -> Iterator[str]:
    from ganscale.inference.truncation import METRICS, parse_truncations, save_truncations

    options, (seeds, text) = request.options, request.seeds_or(8)
    psis, label = parse_truncations(options.truncations), _one_label(request)
    count, settings = options.judge or 5_000, {"seeds": text}
    files, scores = save_truncations(
        request.generator, request.folder, seeds, psis, label=label, num_samples=count, settings=settings
    )
    for psi, each in zip(psis, scores, strict=True):
        yield f"psi {psi:<5g} " + ", ".join(f"{name} {each.scores[name].value:.4g}" for name in METRICS)
    yield from (f"{path.stem}  {path}" for path in files)


def _project(request: _Request) -> Iterator[str]:
    from ganscale.inference.project import save_projection

    options = request.options
    files, found = save_projection(
        request.generator,
        request.folder,
        options.project,
        label=_one_label(request),
        space=options.space,
        iterations=options.iterations or 500,
    )
    for path, far in zip(options.project, found.distances.tolist(), strict=True):
        yield f"{path.name}: {far:.4f} away in {found.space} (RMS of pixels, -1 to 1)"
    yield from (f"{path.suffix[1:].upper()}  {path}" for path in files)


def _one_label(request: _Request) -> int | None:
    if request.labels and len(request.labels) > 1:
        remedy = "name one class"
        raise ConfigError("this mode takes one class", key="--labels", value=request.options.labels, remedy=remedy)
    return request.labels[0] if request.labels else None


def _generate(request: _Request) -> Iterator[str]:
    from ganscale.inference.shards import make_here, make_plan, missing, prepare, sole_writer

    options, generator = request.options, request.generator
    plan = make_plan(
        generator,
        options.num_samples,
        shard_size=options.shard_size,
        format=options.format or "npz",
        truncation=options.truncation,
        labels=request.labels,
        device=options.device if options.workers and options.device != "auto" else _device(options.device),
    )
    folder = (options.out or request.folder / "samples").expanduser().absolute()
    prepare(folder, plan)
    with sole_writer(folder):
        todo = missing(folder, plan)
        yield f"{plan.num_shards - len(todo)} of {plan.num_shards} shards are there: {folder}"
        if not todo:
            return
        if options.workers:
            from ganscale.launch.generate import make_on_ray

            address = options.address or "auto"
            shards = make_on_ray(generator, folder, plan, todo, num_workers=options.workers, address=address)
        else:
            shards = make_here(generator, folder, plan, todo)
        yield from _progress(shards, len(todo), sum(len(plan.seeds(shard)) for shard in todo))


def _progress(shards: Iterator[int], count: int, samples: int) -> Iterator[str]:
    """A line every few seconds and one at the end."""
    start = shown = time.monotonic()
    for done, _ in enumerate(shards, 1):
        now = time.monotonic()
        if now - shown > 5.0 and done < count:
            shown = now
            yield f"{done} of {count} shards, {(now - start) * (count - done) / done:.0f} s to go"
    seconds = time.monotonic() - start
    yield f"made {samples:,} samples in {seconds:.1f} s ({samples / max(seconds, 1e-9):,.0f} per second)"


def _export(request: _Request) -> Iterator[str]:
    from ganscale.inference.export import export, missing_for_onnx, parse_formats

    options = request.options
    formats = parse_formats(options.formats)
    folder = options.export.expanduser().absolute()
    for path, difference in export(request.generator, folder, formats):
        yield f"{path.name}  largest difference from the network {difference:.2g}"
    missing = missing_for_onnx()
    if options.formats is None and missing:
        yield f"no ONNX: not installed: {', '.join(missing)} (pip install 'ganscale[export]')"
    yield f"load it with ganscale.load_generator({str(folder)!r})"


MODES: dict[str, Callable[[_Request], Iterator[str]]] = {
    "images": _images,
    "interpolate": _interpolate,
    "nearest": _nearest,
    "mix": _mix,
    "truncations": _truncations,
    "project": _project,
    "num_samples": _generate,
    "export": _export,
}
"""Option to its mode, which yields lines for the user; without any, `_grid`."""

main = command(
    make_parser, _run, failed="sampling failed", interrupted="interrupted; the same command makes what is missing"
)

if __name__ == "__main__":
    sys.exit(main())
