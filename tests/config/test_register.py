"""Entries of a user's own, from a script outside the package: the one of docs/extending.md, run as it stands."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import ganscale
from ganscale.config import LOSSES, Architecture, Config, ConfigError, Section, dump, load, parse, reference
from ganscale.config.register import ADDED, TABLES, register
from ganscale.models import Geometry
from ganscale.training.build import build
from tests.processes import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
(SCRIPT,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
(COMMAND,) = re.findall(r"```sh\npython mine.py (.*?)\n```", PAGE, re.DOTALL)
TINY = (*COMMAND.split(), "data.resolution=8", "train.batch_size=8")
QUICK = (
    *TINY,
    "eval.num_samples=100",
    "wandb.mode=disabled",
    "run.name=mine",
    "train.images=48",
    "checkpoint.every=16",
    "log.every=16",
    "log.num_samples=4",
    "eval.every=48",
    "cluster.timeout=20",
)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The page's script in a folder of its own."""
    path = tmp_path / "mine.py"
    path.write_text(SCRIPT, encoding="utf-8")
    return path


def run(script: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and all that the script said."""
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=script.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout


def test_a_dry_run_shows_the_users_settings(script: Path) -> None:
    code, said = run(script, *TINY, "--dry-run")
    assert code == 0, said
    assert "width: 16\n    name: sine" in said
    assert "width: 32\n    name: sine" in said
    assert "name: doubled" in said


@pytest.mark.parametrize(
    ("setting", "key", "remedy"),
    [
        ("model.generator.widht=3", "model.generator.widht = 3", "did you mean 'width'"),
        ("model.generator.width=0", "model.generator.width = 0", "greater than or equal to 1"),
        ("model.generator.name=sin", "model.generator.name = sin", "did you mean 'sine'"),
        ("loss.name=dubled", "loss.name = dubled", "did you mean 'doubled'"),
        ("loss.label_smoothing=0.1", "loss.label_smoothing = 0.1", "use 0"),
        ("data.name=gray", "data.name = gray", "did you mean 'grays'"),
        ("data.mirror=true", "data.mirror = true", "use false"),
        ("eval.metrics=mean_distanc", "eval.metrics.0 = mean_distanc", "did you mean 'mean_distance'"),
        ("eval.extractor=mnist", "eval.extractor = mnist", "use pixels"),
        ("health.ignore=slow-generato", "health.ignore.0 = slow-generato", "did you mean 'slow-generator'"),
    ],
)
def test_bad_settings_of_the_users_are_refused(added: Config, setting: str, key: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(overrides=(*TINY, setting))
    problem, _, words = str(caught.value).partition("\n  remedy: ")
    assert problem.startswith(key)
    assert remedy in words


def test_a_run_stops_and_goes_on(script: Path) -> None:
    code, said = run(script, "--launcher", "local", *QUICK)
    assert code == 0, said
    assert "building sine" in said
    code, said = run(script, "--launcher", "local", *QUICK, "train.images=64")
    assert code == 0, said
    assert "resuming at 48 images" in said
    assert "complete at 64 images" in said
    assert "mean_distance" in said
    code, said = run(script, "--launcher", "local", *QUICK, "train.images=80", "model.generator.width=9")
    assert code == 2, said
    assert "model.generator.width" in said


FROM_PYTHON = """
def mark(tick):
    with open("marks", "a") as file:
        file.write(f"{tick.images}\\n")


if __name__ == "__main__":
    result = ganscale.Trainer(None, sys.argv[1:], launcher="ray", callbacks=[mark]).fit()
    space = {"optim.lr_g": {"choice": [1e-3, 1e-4]}}
    settings = {"num_configs": 2, "confirm_seeds": 0, "metrics": "mean_distance", "max_concurrent": 1}
    sweep = {"sweep": {"name": "two", "dir": "sweeps", **settings}, "space": space}
    sweep["set"] = {**result.config.model_dump(mode="json"), "cluster": {"address": "local"}}
    found = ganscale.Tuner(sweep).fit()
    best = found.best_config.optim.lr_g, found.best_value
    own = result.ray_result.metrics["images"], [each.metrics["images"] for each in found.ray_result]
    print("RESULT", (result.images, str(found.folder), [row["status"] for row in found.results], best, own))
    row = found.results[0]
    print("EXPECTED", (row["drawn"]["optim.lr_g"], row["means"]["mean_distance"]))
"""
"""Takes the place of the page's call of `main`."""


@pytest.mark.ray
def test_ray_workers_and_trials_know_the_users_classes_and_callbacks(script: Path) -> None:
    """From Python; the callback is called on rank 0, which is another process."""
    script.write_text(SCRIPT.partition("if __name__")[0] + FROM_PYTHON, encoding="utf-8")
    code, said = run(script, *QUICK, "cluster.num_workers=2", "cluster.address=local", "run.dir=runs")
    assert code == 0, said
    assert "building sine" in said
    assert "for 2 workers" in said
    assert (script.parent / "marks").read_text() == "16\n32\n48\n"
    images, folder, status, best, own = ast.literal_eval(said.partition("RESULT ")[2].partition("\n")[0])
    expected = ast.literal_eval(said.partition("EXPECTED ")[2].partition("\n")[0])
    assert own == (48, [48, 48]), "Ray's own results"
    assert (images, folder, status, best) == (48, str(script.parent / "sweeps" / "two"), ["complete"] * 2, expected)


LEFT = """
if __name__ == "__main__":
    from pathlib import Path

    code = main()
    left = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    sys.exit(code or any("gloo" in name for name in left))
"""
"""Takes the place of the page's call of `main`: gloo's threads sometimes abort the interpreter's exit."""


@pytest.mark.multiprocess
def test_torchrun_runs_the_script_in_each_process(script: Path) -> None:
    script.write_text(SCRIPT.partition("if __name__")[0] + LEFT, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*launch, *QUICK, "train.device=cpu"],
        cwd=script.parent,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "complete at 48 images" in done.stdout


@pytest.fixture
def added() -> Iterator[Config]:
    """The page's entries in this process, taken out again afterwards; a run that uses them."""
    space: dict[str, Any] = {"__name__": "mine"}
    exec(SCRIPT, space)
    yield load(overrides=TINY)
    for kind, (table, _) in TABLES.items():
        for name in ADDED[kind]:
            table.pop(name, None)
        ADDED[kind].clear()


def test_the_config_is_a_config_and_goes_to_yaml_and_back(added: Config, tmp_path: Path) -> None:
    assert isinstance(added, Config)
    assert added.model.generator.name == "sine"
    path = tmp_path / "mine.yaml"
    path.write_text(dump(added), encoding="utf-8")
    assert load(path) == added
    assert parse(added.model_dump(mode="json")) == added
    assert load().model.generator.name == "mlp", "defaults stay"


def test_the_reference_has_the_new_settings(added: Config) -> None:
    rows = {key: (allowed, description) for key, _, allowed, description in reference.rows()}
    assert rows["model.discriminator[sine].width"] == (">= 1", "Units of the hidden layer.")
    assert rows["loss.name"][0].endswith(", doubled")
    assert "grays: plain gray images" in rows["data.name"][1]
    assert "slow-generator" in rows["health.ignore"][0]


def test_without_the_script_the_names_are_unknown(added: Config) -> None:
    raw = added.model_dump(mode="json")
    register(generators={"sine": ADDED["generators"]["sine"]})  # once more, as a notebook would
    assert parse(raw) == load(overrides=TINY)
    LOSSES.pop("doubled")
    with pytest.raises(ConfigError) as caught:
        parse(raw)
    assert (caught.value.key, caught.value.value) == ("loss.name", "doubled")


class Wide(Section):
    """Settings for the tests below."""


@pytest.mark.parametrize("kind", TABLES)
def test_what_cannot_be_added_is_refused(kind: str) -> None:
    table, entry_class = TABLES[kind]
    own = next(iter(table.values()))
    before = dict(table)
    for entries in ({next(iter(table)): own}, {"my thing": own}, {"": own}, {"fine": own, "x": object()}):
        with pytest.raises(ValueError, match=r"package's own|is no name|must be a ganscale\.config"):
            ganscale.register(**{kind: entries})
    assert table == before
    assert not ADDED[kind]
    assert isinstance(own, entry_class)


def test_an_architecture_without_settings_or_module_is_refused() -> None:
    for entry in (Architecture(dict, nn.Linear), Architecture(Wide, 3)):  # pyright: ignore[reportArgumentType]
        with pytest.raises(ValueError, match="must be a"):
            register(generators={"x": entry})


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(4), nn.SyncBatchNorm(4), nn.Dropout(0.5)], ids=lambda m: type(m).__name__
)
def test_layers_that_depend_on_the_number_of_workers_are_refused(added: Config, layer: nn.Module) -> None:
    class Net(nn.Module):
        def __init__(self, settings: Wide, geometry: Geometry) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Flatten(), nn.Linear(geometry.size, 4), layer, nn.Linear(4, 1))

    register(discriminators={"sine": Architecture(Wide, Net)})
    with pytest.raises(ConfigError, match=f"model.discriminator.name = sine: its {type(layer).__name__}"):
        build(load(overrides=("model.generator.name=sine", "model.discriminator.name=sine", "data.resolution=8")))
