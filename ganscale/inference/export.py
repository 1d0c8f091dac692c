"""A generator as files that work without its run: safetensors for ganscale, torch.export and ONNX for everything else.

Every file is loaded again and its outputs are compared with the eager network's before anything is put in place.
"""

import hashlib
import json
import logging
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import save as to_safetensors
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ganscale import __version__
from ganscale.config import ConfigError
from ganscale.config.errors import ExecutionError
from ganscale.inference.generator import LANES, LoadedGenerator, build_network
from ganscale.inference.load import CONFIG, EXPORT_FORMAT, WEIGHTS, load_generator

PROGRAM = "generator.pt2"
ONNX = "generator.onnx"
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
BATCHES = (1, 3, LANES)
"""Batch sizes that are compared; the files accept any."""

TOLERANCES = {"float32": 1e-4, "float64": 1e-10}
"""Largest accepted difference, times the largest output if that is above 1. Safetensors must be exact."""


class ExportError(ExecutionError):
    """A file could not be made, or its outputs differ from the eager network's; nothing was put in place."""


class Exported(NamedTuple):
    """A file and its largest absolute difference from the eager network's outputs."""

    path: Path
    difference: float


Run = Callable[[Tensor, Tensor | None], Tensor]


def missing_for_onnx() -> list[str]:
    """Packages that ONNX needs (the extra `export`) and that are not installed."""
    return [name for name in ONNX_PACKAGES if find_spec(name) is None]


def parse_formats(text: str | None) -> list[str]:
    """Formats such as `safetensors,pt2`.

    Args:
        text: names separated by commas; None for all formats whose packages are installed.

    Raises:
        ConfigError: an unknown format, or ONNX without its packages.
    """
    missing = missing_for_onnx()
    if text is None:
        return [name for name in WRITERS if name != "onnx" or not missing]
    names = [word.strip() for word in text.split(",")]
    for name in names:
        if name not in WRITERS:
            raise ConfigError("unknown format", key="--formats", value=name, remedy=f"choose from {', '.join(WRITERS)}")
    if "onnx" in names and missing:
        remedy = "pip install 'ganscale[export]'"
        raise ConfigError(f"not installed: {', '.join(missing)}", key="--formats", value="onnx", remedy=remedy)
    return names


def export(generator: LoadedGenerator, folder: Path, formats: list[str] | None = None) -> list[Exported]:
    """Write `generator.safetensors` with `config.json`, `generator.pt2` (torch.export) and `generator.onnx`.

    The programs map z `[N, latent_dim]` (and, with classes, labels int64 `[N]`) to examples `[N, *shape]`, N from 1 on;
    in ONNX inputs and output are called z, labels and examples. They are computed on the CPU.

    Args:
        generator: to export.
        folder: where the files go; files of an earlier export are replaced.
        formats: some of `WRITERS`; None for all whose packages are installed.

    Returns:
        The files, each with its largest difference.

    Raises:
        ExportError: a format cannot be written, or its outputs differ by more than its tolerance.
        OSError: the folder cannot be written.
    """
    network = _plain(generator)
    aside = folder.with_name(f".writing-{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        done = []
        for name in formats if formats is not None else parse_formats(None):
            write, file = WRITERS[name]
            try:
                with _quiet():
                    run = write(generator, network, aside / file)
                    difference = compare(generator, network, run)
            except Exception as error:  # exporters raise many kinds of errors
                reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                raise ExportError(f"{name} cannot be written: {reason}") from error
            _check_difference(generator, name, difference)
            done.append(Exported(folder / file, difference))
        _put_in_place(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return done


def compare(generator: LoadedGenerator, network: nn.Module, run: Run) -> float:
    """Largest absolute difference between a loaded file's outputs and the eager network's, for `BATCHES` of seeds.

    Args:
        generator: gives z and labels.
        network: the eager network on the CPU.
        run: the loaded file: z and labels to examples.
    """
    worst = 0.0
    for size in BATCHES:
        seeds = range(size)
        z, labels = generator.latents(seeds), generator.classes(seeds)
        with torch.no_grad():
            eager = network(z, labels) if labels is not None else network(z)
        difference = (run(z, labels).double() - eager.double()).abs().nan_to_num(nan=torch.inf).max()
        worst = max(worst, float(difference))
    return worst


def _check_difference(generator: LoadedGenerator, name: str, difference: float) -> None:
    scale = max(1.0, float(generator.sample(LANES).abs().max()))
    tolerance = 0.0 if name == "safetensors" else TOLERANCES[generator.description.dtype] * scale
    if not difference <= tolerance:
        raise ExportError(f"{name} differs from the network by {difference:.3g}; at most {tolerance:.3g} is accepted")


def _put_in_place(aside: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for old in (CONFIG, WEIGHTS, PROGRAM, ONNX):
        if not (aside / old).exists():
            (folder / old).unlink(missing_ok=True)
    for path in sorted(aside.iterdir()):
        path.replace(folder / path.name)


def _plain(generator: LoadedGenerator) -> nn.Module:
    """A copy of the network on the CPU with its parametrizations (spectral norm) folded into the weights."""
    network = build_network(generator.description)  # not a deep copy: that would share classes with parametrized layers
    network.load_state_dict(generator.network.state_dict())
    for module in network.modules():
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # pyright: ignore[reportArgumentType]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    return network.eval().requires_grad_(False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporters' progress and warnings, which are for programmers."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def _write_safetensors(generator: LoadedGenerator, _: nn.Module, path: Path) -> Run:
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in generator.network.state_dict().items()}
    content = to_safetensors(weights)
    path.write_bytes(content)
    facts = {
        "format": EXPORT_FORMAT,
        "ganscale": __version__,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        **generator.description.to_json(),
    }
    path.with_name(CONFIG).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    loaded = load_generator(path)
    return lambda z, labels: loaded(z, labels)


def _arguments(generator: LoadedGenerator) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Example inputs of an exporter, and their dynamic dimensions."""
    z, labels = generator.latents(range(2)), generator.classes(range(2))
    batch = torch.export.Dim("batch", min=1)
    if labels is None:
        return (z,), {"z": {0: batch}}
    return (z, labels), {"z": {0: batch}, "labels": {0: batch}}


class _Signature(nn.Module):
    """Gives the inputs the names z and labels."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class _Unconditional(_Signature):
    def forward(self, z: Tensor) -> Tensor:
        return self.network(z)


class _Conditional(_Signature):
    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        return self.network(z, labels)


def _signed(generator: LoadedGenerator, network: nn.Module) -> nn.Module:
    return (_Conditional if generator.num_classes else _Unconditional)(network)


def _write_program(generator: LoadedGenerator, network: nn.Module, path: Path) -> Run:
    arguments, dynamic = _arguments(generator)
    program = torch.export.export(_signed(generator, network), arguments, dynamic_shapes=dynamic)
    torch.export.save(program, path)
    loaded = torch.export.load(path).module()
    return lambda z, labels: loaded(z) if labels is None else loaded(z, labels)


def _write_onnx(generator: LoadedGenerator, network: nn.Module, path: Path) -> Run:
    from onnxruntime import InferenceSession  # pyright: ignore[reportMissingImports]

    arguments, dynamic = _arguments(generator)
    torch.onnx.export(
        _signed(generator, network),
        arguments,
        path,
        input_names=["z", "labels"][: len(arguments)],
        output_names=["examples"],
        dynamic_shapes=dynamic,
        dynamo=True,
        optimize=False,  # onnxscript's optimizer takes an epsilon of 1e-8 for 0 and drops it: NaN in pixel norm
        external_data=False,
        verbose=False,
    )
    session = InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])

    def run(z: Tensor, labels: Tensor | None) -> Tensor:
        inputs = {"z": z.numpy()} if labels is None else {"z": z.numpy(), "labels": labels.numpy()}
        return torch.from_numpy(np.asarray(session.run(["examples"], inputs)[0]))

    return run


WRITERS: dict[str, tuple[Callable[[LoadedGenerator, nn.Module, Path], Run], str]] = {
    "safetensors": (_write_safetensors, WEIGHTS),
    "pt2": (_write_program, PROGRAM),
    "onnx": (_write_onnx, ONNX),
}
"""Format to a function that writes the file and returns it loaded again, and the file's name."""
