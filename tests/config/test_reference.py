"""The reference covers every setting and says something about each; the config package stays light."""

import subprocess
import sys

import pytest
from pydantic import BaseModel

from ganscale.config import Config, load, reference
from ganscale.config.load import flat

NAMES = ("mlp", "dcgan", "resnet", "biggan", "r3gan", "transformer")
CASES = [(), *((f"model.generator.name={name}", f"model.discriminator.name={name}") for name in NAMES[1:])]


def plain(key: str) -> str:
    """`model.generator[mlp].width` as `model.generator.width`."""
    return "".join(part.partition("]")[2] or part for part in key.split("["))


@pytest.mark.parametrize("overrides", CASES, ids=NAMES)
def test_every_setting_has_a_row_with_its_default(overrides: tuple[str, ...]) -> None:
    config = load(overrides=overrides)
    rows = {plain(key): default for key, default, _, _ in reference.rows()}
    defaults = [(key.replace("[mlp]", ""), default) for key, default, _, _ in reference.rows()]
    tagged = {key: default for key, default in defaults if "[" not in key}
    values = flat(config.model_dump(mode="json"))
    assert values.keys() <= rows.keys()
    if not overrides:
        shown = {key: [] if default == "[]" else default for key, default in tagged.items()}
        assert load(overrides=[f"{key}={default!s}" for key, default in shown.items() if default]) == config


def test_every_description_is_a_sentence() -> None:
    for key, _, _, description in reference.rows():
        value = description.split(":")[0]  # of the setting, whose meaning follows
        assert description[:1].isupper() or value in ("auto", "async", "inline"), key
        assert description.endswith("."), key
        assert len(description) > 10, key


def test_every_section_has_a_description() -> None:
    for name, field in Config.model_fields.items():
        assert isinstance(field.annotation, type), name
        assert issubclass(field.annotation, BaseModel), name
        assert field.description, name
        assert field.annotation.__doc__, name


def test_bounds_and_choices_are_shown() -> None:
    allowed = {key: text for key, _, text, _ in reference.rows()}
    assert allowed["optim.lr_g"] == "> 0, <= 10, or a schedule {start, end, over, begin, curve}"
    assert allowed["train.batch_size"] == ">= 1"
    assert allowed["loss.name"].startswith("non_saturating, minimax, ")
    assert "auto" in allowed["cluster.num_workers"]


def test_both_texts_hold_every_setting() -> None:
    text, page = reference.text(), reference.markdown()
    for key, default, _, description in reference.rows():
        assert f"  {key}={default}" in text
        assert description in text
        assert f"| `{key}` | `{default}` |" in page
    widths = {line.replace("\\|", "").count("|") for line in page.splitlines() if line.startswith("|")}
    assert widths == {5}


def test_the_config_package_loads_neither_torch_nor_ray_nor_wandb() -> None:
    code = "import sys, ganscale.config, ganscale.config.reference; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "ray", "wandb", "numpy"} & set(loaded)
