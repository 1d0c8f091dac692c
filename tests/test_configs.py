"""Every file in configs/ is a run that works; the textbook's is the default run."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from ganscale.config import Config, load
from ganscale.config.schedules import average_warning
from ganscale.training.build import build
from ganscale.training.loop import train

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.yaml"))


def test_there_are_configs() -> None:
    assert {"mnist_mlp", "mnist_dcgan", "stacked_mnist_dcgan", "emoji_32", "gaussians"} <= {path.stem for path in FILES}


def test_the_textbook_run_is_the_default_run() -> None:
    assert load(ROOT / "configs" / "mnist_mlp.yaml") == Config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_names_its_run_and_its_source(path: Path) -> None:
    assert load(path).run.name == path.stem
    comment = "".join(line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#"))
    assert " et al. 20" in comment


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_intervals_fit_into_each_other_and_into_the_run(path: Path) -> None:
    """So that no tick comes between two rows of metrics."""
    config = load(path)
    batch = config.train.batch_size * config.optim.d_steps
    for length in (config.log.samples_every, config.checkpoint.every, config.eval.every, config.train.images):
        assert length % config.log.every == 0
    assert config.log.every % batch == 0


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_is_long_enough_for_its_moving_average(path: Path) -> None:
    assert average_warning(load(path)) == ""


@pytest.fixture
def own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for what a user brings: a few pictures in two classes, a few images for CIFAR-10."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (12, 3, 32, 32), generator=generator, dtype=torch.uint8)
    monkeypatch.setattr("ganscale.data.cifar10.load_cifar10", lambda *_: (images, torch.arange(12) % 10))
    for index, image in enumerate(images):
        path = tmp_path / ("flags", "people")[index % 2] / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_config_trains(path: Path, own_data: Path) -> None:
    """An iteration or two at the config's own size, in small batches."""
    small = "mlp" in path.stem or path.stem.startswith(("mnist", "biggan_mnist"))
    batch = 16 if small else 2
    config = load(
        path, ["train.device=cpu", f"train.batch_size={batch}", "data.num_workers=0", f"data.path={own_data}"]
    )
    experiment = build(config)
    before = [p.detach().clone() for p in experiment.state.generator.parameters()]
    until = batch * config.optim.d_steps * (2 if small else 1)
    (tick,) = train(experiment, intervals={}, until=until)
    assert tick.images == until
    after = list(experiment.state.generator.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
