"""Exports: every format computes what the network computes, at any batch size; one that does not stays out."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ganscale.config import ConfigError
from ganscale.inference import export as module
from ganscale.inference.export import ExportError, compare, export, parse_formats
from ganscale.inference.generator import LoadedGenerator
from ganscale.inference.load import load_generator
from tests.runs import BATCH_NORM, BIGGAN, DCGAN, MLP, R3GAN, RESNET, RING, STYLEGAN2, TRANSFORMER, saved

CLASSES = "model.discriminator.conditioning=projection"
RUNS = {
    "mlp": MLP,
    "concat": (*MLP, "model.generator.conditioning=concat", "model.discriminator.conditioning=projection"),
    "ring": RING,
    "float64": (*MLP, "train.precision=float64"),
    "batch_norm": (*DCGAN, *BATCH_NORM),
    "spectral_norm": (*DCGAN, "model.generator.spectral_norm=true"),
    "pixel_norm": (*DCGAN, "model.generator.norm=pixel"),
    "conditional_norm": (
        *DCGAN,
        *("model.generator.norm=batch", "model.generator.conditioning=norm"),
        "model.discriminator.conditioning=projection",
    ),
    "resnet": RESNET,
    "r3gan": R3GAN,
    "biggan": BIGGAN,
    "stylegan2": STYLEGAN2,
    "transformer": TRANSFORMER,
    "transformer_conditional": (*TRANSFORMER, "model.generator.conditioning=concat", CLASSES),
}


def make(folder: Path, name: str) -> LoadedGenerator:
    saved(folder, *RUNS[name], images=64)
    return load_generator(folder)


@pytest.mark.parametrize("name", RUNS)
def test_torch_export(name: str, tmp_path: Path) -> None:
    generator = make(tmp_path / "run", name)
    before = generator.sample(3)
    safetensors, program = export(generator, tmp_path / "out", ["safetensors", "pt2"])
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "config.json",
        "generator.pt2",
        "generator.safetensors",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]
    assert safetensors.difference == 0.0
    assert program.difference < 1e-5
    run = torch.export.load(program.path).module()
    for size in (1, 2, 7, 65):
        z, labels = generator.latents(range(size)), generator.classes(range(size))
        made = run(z) if labels is None else run(z, labels)
        torch.testing.assert_close(made, generator(z, labels))
    assert torch.equal(generator.sample(3), before), "the exported generator itself was changed"


@pytest.mark.parametrize("name", RUNS)
def test_onnx(name: str, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    generator = make(tmp_path / "run", name)
    (exported,) = export(generator, tmp_path / "out", ["onnx"])
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["z", "labels"][: 1 + bool(generator.num_classes)]
    for size in (1, 5):
        z, labels = generator.latents(range(size)), generator.classes(range(size))
        inputs = {"z": z.numpy()} if labels is None else {"z": z.numpy(), "labels": labels.numpy()}
        made = torch.from_numpy(session.run(["examples"], inputs)[0])
        torch.testing.assert_close(made, generator(z, labels), rtol=1e-5, atol=1e-5)  # the runtime's own kernels


def test_onnx_keeps_an_epsilon_that_matters(tmp_path: Path) -> None:
    """onnxscript's optimizer drops 1e-8 as if it were 0; pixel norm of small features then is another function."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    generator = make(tmp_path / "run", "pixel_norm")
    with torch.no_grad():
        for parameter in generator.network.parameters():
            parameter.mul_(1e-3)
    assert export(generator, tmp_path / "out", ["onnx"])[0].difference < 1e-5


def test_what_the_folder_says(tmp_path: Path) -> None:
    generator = make(tmp_path / "run", "concat")
    export(generator, tmp_path / "out", ["safetensors"])
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["shape"] == [1, 8, 8]
    assert (config["latent_dim"], config["latent"], config["num_classes"], config["images"]) == (8, "normal", 10, 64)
    weights = load_file(tmp_path / "out" / "generator.safetensors")
    assert weights.keys() == generator.network.state_dict().keys()


def test_a_new_export_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    export(make(tmp_path / "a", "mlp"), tmp_path / "out", ["safetensors", "pt2"])
    (tmp_path / "out" / "mine.txt").write_text("stays")
    export(make(tmp_path / "b", "ring"), tmp_path / "out", ["safetensors"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["config.json", "generator.safetensors", "mine.txt"]
    assert load_generator(tmp_path / "out").shape == (2,)


Edit = Callable[[Tensor], Tensor]


@pytest.mark.parametrize(
    ("edit", "difference"),
    [(lambda x: x + 1e-3, 1e-3), (lambda x: x * torch.nan, torch.inf), (lambda x: x.flip(0), None)],
    ids=("shifted", "nan", "rows swapped"),
)
def test_a_file_that_computes_something_else_is_not_put_in_place(
    edit: Edit, difference: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = make(tmp_path / "run", "mlp")

    def wrong(_: LoadedGenerator, network: nn.Module, path: Path) -> Callable[[Tensor, Tensor | None], Tensor]:
        path.write_bytes(b"wrong")
        return lambda z, labels: edit(network(z))

    if difference is not None:
        found = compare(generator, generator.network, lambda z, labels: edit(generator.network(z)))
        assert found == pytest.approx(difference, rel=1e-3)
    monkeypatch.setitem(module.WRITERS, "pt2", (wrong, "generator.pt2"))
    with pytest.raises(ExportError, match="pt2 differs from the network by"):
        export(generator, tmp_path / "out", ["safetensors", "pt2"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_exporter_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("operator foo\nand a long story")

    monkeypatch.setitem(module.WRITERS, "pt2", (broken, "generator.pt2"))
    with pytest.raises(ExportError, match=r"pt2 cannot be written: RuntimeError: operator foo$"):
        export(make(tmp_path / "run", "mlp"), tmp_path / "out", ["safetensors", "pt2"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "missing_for_onnx", list)
    assert parse_formats(None) == ["safetensors", "pt2", "onnx"]
    assert parse_formats("onnx, pt2") == ["onnx", "pt2"]
    with pytest.raises(ConfigError, match="choose from safetensors, pt2, onnx"):
        parse_formats("torchscript")


def test_without_its_packages_onnx_is_left_out_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in module.ONNX_PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    assert parse_formats(None) == ["safetensors", "pt2"]
    with pytest.raises(ConfigError, match="not installed: onnx, onnxscript, onnxruntime") as refusal:
        parse_formats("onnx")
    assert "ganscale[export]" in refusal.value.remedy
