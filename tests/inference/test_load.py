"""`load_generator`: from runs, checkpoints and exports, the right one of several, without the data at hand."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import ganscale
from ganscale.config import ConfigError
from ganscale.inference.export import export
from ganscale.inference.load import choose_checkpoint, load_generator
from tests.runs import BATCH_NORM, DCGAN, MLP, R3GAN, RESNET, RING, TRANSFORMER, saved

CONCAT = ("model.generator.conditioning=concat", "model.discriminator.conditioning=projection")
NORM = (*CONCAT[1:], "model.generator.norm=batch", "model.generator.conditioning=norm")


@pytest.mark.parametrize(
    ("overrides", "shape", "num_classes"),
    [
        (MLP, (1, 8, 8), 0),
        ((*MLP, *CONCAT, "model.latent=uniform"), (1, 8, 8), 10),
        ((*DCGAN, *NORM), (1, 16, 16), 10),
        ((*DCGAN, *BATCH_NORM, "model.generator.spectral_norm=true"), (1, 16, 16), 0),
        ((*MLP, "data.name=stacked_mnist", "data.num_images=100"), (3, 8, 8), 0),
        (RING, (2,), 0),
        ((*RING, *CONCAT), (2,), 8),
        (RESNET, (1, 16, 16), 0),
        (R3GAN, (1, 16, 16), 0),
        ((*TRANSFORMER, *CONCAT), (1, 16, 16), 10),
        ((*MLP, "train.precision=float64"), (1, 8, 8), 0),
    ],
    ids=str,
)
def test_it_computes_what_the_runs_average_computes(
    overrides: tuple[str, ...], shape: tuple[int, ...], num_classes: int, tmp_path: Path
) -> None:
    experiment = saved(tmp_path, *overrides)
    generator = load_generator(tmp_path)
    assert (generator.shape, generator.num_classes) == (shape, num_classes)
    assert generator.latent == experiment.config.model.latent
    assert generator.config == experiment.config
    z, labels = generator.latents(range(5)), generator.classes(range(5))
    assert torch.equal(generator(z, labels), experiment.state.ema.module(z, labels))
    made = generator.sample(5)
    assert made.shape == (5, *shape)
    assert made.dtype == z.dtype == generator.dtype


@pytest.mark.parametrize("conditioning", [CONCAT, NORM, ("model.generator.conditioning=none",)], ids=str)
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_number_of_classes_of_a_folder_that_is_gone(
    conditioning: tuple[str, ...], num_classes: int, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    for name in range(num_classes):
        (pictures / str(name)).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(pictures / str(name) / "a.png")
    data = ("data.name=folder", f"data.path={pictures}", "data.num_workers=0")
    saved(tmp_path / "run", *MLP, *data, *conditioning)
    pictures.rename(tmp_path / "elsewhere")
    generator = load_generator(tmp_path / "run")
    assert generator.num_classes == (0 if "none" in conditioning[0] else num_classes)
    assert generator.sample(4).shape == (4, 3, 8, 8)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at 100, 200 and 300 images, of which 200 is the best."""
    for images, score in ((100, 3.0), (200, 1.0), (300, 2.0)):
        saved(tmp_path / "run", *MLP, "checkpoint.best_metric=frechet", images=images, metrics={"frechet": score})
    return tmp_path / "run"


def test_which_checkpoint(run: Path) -> None:
    assert load_generator(run).description.images == 300
    assert load_generator(run, checkpoint="best").description.images == 200
    assert load_generator(run, checkpoint=100).description.images == 100
    assert load_generator(run, checkpoint="100").description.images == 100
    assert load_generator(run / "checkpoints", checkpoint="best").description.images == 200
    assert load_generator(run / "checkpoints" / f"{100:012d}").description.images == 100


def test_a_damaged_newest_checkpoint_gives_way(run: Path) -> None:
    (run / "checkpoints" / f"{300:012d}" / "state.pt").write_bytes(b"no")
    assert load_generator(run).description.images == 200
    with pytest.raises(ConfigError, match="state has 2 bytes"):
        load_generator(run, checkpoint=300)
    for images in (100, 200):
        (run / "checkpoints" / f"{images:012d}" / "state.pt").unlink()
    with pytest.raises(ConfigError, match="000000000300"):
        load_generator(run)


def test_what_is_no_generator_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        load_generator(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="no checkpoint found"):
        load_generator(tmp_path / "empty")
    with pytest.raises(ConfigError, match="one of: 100, 200, 300"):
        choose_checkpoint(run, 150)
    with pytest.raises(ConfigError, match="one checkpoint already"):
        choose_checkpoint(choose_checkpoint(run), "best")
    saved(tmp_path / "other", *MLP, metrics={"frechet": 1.0})
    with pytest.raises(ConfigError, match=r"checkpoint\.best_metric"):
        choose_checkpoint(tmp_path / "other", "best")


def test_an_export_gives_the_same_images_as_its_run(tmp_path: Path) -> None:
    saved(tmp_path / "run", *MLP, *CONCAT, images=64)
    original = load_generator(tmp_path / "run")
    export(original, tmp_path / "out", ["safetensors"])
    for path in (tmp_path / "out", tmp_path / "out" / "generator.safetensors"):
        generator = load_generator(path)
        assert torch.equal(generator.sample(40), original.sample(40))
        assert generator.description == original.description
        assert generator.config is None


def test_a_damaged_export_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "run", *MLP)
    export(load_generator(tmp_path / "run"), tmp_path / "out", ["safetensors"])
    config, weights = tmp_path / "out" / "config.json", tmp_path / "out" / "generator.safetensors"
    good = config.read_text()
    for bad in ("", "[]", "{}", json.dumps(json.loads(good) | {"format": 99}), json.dumps(json.loads(good) | {"x": 1})):
        config.write_text(bad)
        with pytest.raises(ConfigError, match="cannot be read"):
            load_generator(tmp_path / "out")
    config.write_text(good)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigError, match=r"not the file that config\.json was written for"):
        load_generator(tmp_path / "out")
    with pytest.raises(ConfigError, match="an export has no checkpoints"):
        load_generator(tmp_path / "out", checkpoint="best")


def test_the_package_offers_it_without_loading_torch_at_import() -> None:
    assert ganscale.load_generator is load_generator
    with pytest.raises(AttributeError, match="load_generators"):
        ganscale.load_generators  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
    loaded = "'torch' in sys.modules"
    code = f"import sys, ganscale; before = {loaded}; ganscale.load_generator; print(before, {loaded})"
    answer = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert answer == "False True\n"
