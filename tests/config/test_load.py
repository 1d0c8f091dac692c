"""Loading: what is refused and how, YAML's traps, overrides, and the way back to YAML."""

import pickle
from pathlib import Path

import pytest

from ganscale.config import Config, ConfigError, differences, dump, load, parse
from ganscale.config.errors import shown
from ganscale.config.load import apply_override
from ganscale.sweep.config import load_sweep
from tests.config.bad import BAD, Bad

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.name)
def test_bad_settings_are_refused_with_key_value_and_remedy(
    bad: Bad, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where no configs/ could be suggested
    path, overrides = bad.arguments(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    error, message = caught.value, str(caught.value)
    problem, _, remedy = message.partition("\n  remedy: ")
    if bad.key == "config" and not bad.value:
        assert problem.startswith(f"config = {shown(path)}: ")
    else:
        assert problem.startswith(f"{bad.key} = {bad.value}: "), message
    assert bad.remedy in remedy, message
    assert error.key == bad.key
    assert len(message) < 600
    assert not isinstance(error.__cause__, Exception), "the user sees one error, not two"


def test_the_table_has_no_name_twice() -> None:
    assert len({bad.name for bad in BAD}) == len(BAD) >= 40


def test_an_error_survives_pickling() -> None:
    """Ray sends it from process to process."""
    with pytest.raises(ConfigError) as caught:
        load(overrides=["optim.lr_g=-1"])
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert (again.key, again.value, again.remedy) == ("optim.lr_g", -1, caught.value.remedy)


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optim.lr_g=1e-4", 1e-4),
        ("optim.lr_g=1E-4", 1e-4),
        ("optim.lr_g=.5", 0.5),
        ("optim.lr_g=+2.", 2.0),
        ("optim.lr_g=1", 1.0),
        ("train.images=1e6", 1_000_000),
        ("train.images=1.2e+6", 1_200_000),
        ("train.images=1_000", 1000),
        ("train.images=017", 17),
        ("optim.betas_g=[0, 0.9]", (0.0, 0.9)),
        ("train.reuse_fakes=false", False),
        ("train.deterministic=True", True),
        ("run.name=no", "no"),
        ("run.name=on", "on"),
        ("wandb.group=2024-01-01", "2024-01-01"),
        ("wandb.group=12:30:00", "12:30:00"),
        ("wandb.group='007'", "007"),
        ("wandb.group=a=b", "a=b"),
        ("wandb.tags=[one, two]", ("one", "two")),
        ("cluster.num_workers=auto", "auto"),
        ("cluster.num_workers=3", 3),
    ],
)
def test_values_are_read_as_meant(override: str, value: object) -> None:
    section, _, key = override.partition("=")[0].partition(".")
    read = getattr(getattr(load(overrides=[override]), section), key)
    assert read == value
    assert type(read) is type(value)


def test_no_file_an_empty_file_and_comments_give_the_default_run(tmp_path: Path) -> None:
    for text in ("", "# nothing\n", "---\n", "{}\n", "\ufeff"):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        assert load(path) == load() == Config(), repr(text)


def test_overrides_win_over_the_file_and_the_last_one_over_the_others(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train: {images: 1000, batch_size: 10}\n", encoding="utf-8")
    config = load(path, ["train.images=2000", "train.images=3000", "optim.d_steps=2"])
    assert (config.train.images, config.train.batch_size, config.optim.d_steps) == (3000, 10, 2)


def test_an_architecture_may_be_named_or_only_tuned() -> None:
    config = load(overrides=["model.generator.width=7", "model.discriminator.name=dcgan"])
    assert (config.model.generator.name, config.model.generator.width) == ("mlp", 7)
    assert config.model.discriminator.name == "dcgan"


ROUND_TRIPS = [
    (),
    ("run.name='007'", "wandb.group=no", "wandb.project='1e3'", "wandb.tags=[yes, '~']", "run.dir='a: b #c'"),
    ("model.generator.name=dcgan", "model.discriminator.width=3", "data.resolution=32", "optim.lr_g=1e-5"),
    ("cluster.num_workers=3", "optim.eps=1e-12", "run.seed=9223372036854775807", "wandb.entity=größe"),
]


@pytest.mark.parametrize("overrides", ROUND_TRIPS, ids=["default", "texts", "networks", "numbers"])
def test_dump_and_load_are_inverse(overrides: tuple[str, ...], tmp_path: Path) -> None:
    config = load(overrides=overrides)
    path = tmp_path / "run.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(path) == config
    assert parse(config.model_dump(mode="json")) == config, "as from a checkpoint"


def test_a_config_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load().train.images = 3


def test_differences_are_those_that_change_the_trajectory() -> None:
    old = load()
    free = ["train.images=5", "train.device=cpu", "log.every=7", "checkpoint.keep=1", "wandb.mode=disabled"]
    assert differences(old, load(overrides=[*free, "cluster.num_workers=3", "run.dir=elsewhere"])) == {}
    changed = load(overrides=["optim.lr_g=0.5", "train.batch_size=8", "run.seed=3", "optim.betas_d=[0, 0.9]"])
    assert differences(old, changed) == {
        "optim.lr_g": (2e-4, 0.5),
        "train.batch_size": (64, 8),
        "run.seed": (0, 3),
        "optim.betas_d": ([0.5, 0.999], [0.0, 0.9]),
    }
    networks = differences(old, load(overrides=["model.generator.name=dcgan"]))
    assert networks["model.generator.name"] == ("mlp", "dcgan")
    assert networks["model.generator.max_width"] == (None, 512)
    assert all(key.startswith("model.generator.") for key in networks)


UNUSED = [
    ("penalty.lecam_decay=0.9", "penalty.lecam=0.3"),
    ("loss.class_weight=0.5", "model.discriminator.conditioning=acgan model.generator.conditioning=concat"),
    ("model.generator.class_dim=7", "model.discriminator.conditioning=projection model.generator.conditioning=concat"),
]


@pytest.mark.parametrize(("unused", "uses"), UNUSED)
def test_unused_settings_are_refused_in_a_command_only(unused: str, uses: str) -> None:
    raw = load().model_dump(mode="json")
    apply_override(raw, unused)
    old = parse(raw)
    with pytest.raises(ConfigError, match=unused.partition("=")[0]):
        load(raw)
    assert differences(old, load()) == differences(load(), old) == {}
    key, used = unused.partition("=")[0], load(overrides=[*uses.split(), unused])
    assert key in differences(used, load(overrides=uses.split()))
    assert key in differences(old, load(overrides=uses.split()))


def test_a_missing_file_brings_up_the_shipped_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"did you mean 'configs/mine\.yaml'"):
        load("config/mine.yaml")


def test_the_textbooks_smoothing_stays_with_cross_entropy() -> None:
    def smoothing(*overrides: str) -> float:
        return load(overrides=overrides).loss.label_smoothing

    assert [smoothing(), smoothing("loss.name=minimax")] == [0.1, 0.1]
    assert [smoothing("loss.name=hinge"), smoothing("loss.name=least_squares")] == [0.0, 0.0]
    assert smoothing("loss.name=least_squares", "loss.label_smoothing=0.2") == 0.2
    config = load(overrides=["loss.name=hinge"])
    assert parse(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", ["mnist_demo", "mnist_demo.yaml", "configs/mnist_demo.yaml"])
def test_examples_have_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no repository, and a file of that name in the current folder comes first."""
    monkeypatch.chdir(tmp_path)
    assert load(name).run.name == "mnist_demo"
    mine = Path(name)
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("run: {name: mine}")
    assert load(name).run.name == "mine"


@pytest.mark.parametrize("name", ["mnist_dem", "../pyproject.toml", "sweeps", "/mnist_demo"])
def test_other_names_are_no_examples(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        load(name)
    assert caught.value.key == "config"
    if name == "mnist_dem":
        assert "'mnist_demo'" in str(caught.value)


def test_an_example_sweep_finds_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_sweep("sweeps/gaussians")[1] == load_sweep(ROOT / "configs" / "sweeps" / "gaussians.yaml")[1] != {}
