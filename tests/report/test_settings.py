"""Differences of settings."""

from ganscale.config import load
from ganscale.report.settings import MISSING, defaults, differing, plain


def test_only_what_differs_is_shown() -> None:
    one = load(overrides=["run.name=one", "optim.lr_g=1e-3"]).model_dump(mode="json")
    two = load(overrides=["run.name=two", "augment.transforms=[cutout]"]).model_dump(mode="json")
    assert differing([one, two]) == {"augment.transforms": ["[]", "[cutout]"], "optim.lr_g": ["0.001", "0.0002"]}
    assert differing([one, one]) == {}
    assert differing([{"a": {"b": 1}}, {}]) == {"a.b": ["1", MISSING]}


def test_defaults_are_of_the_same_architectures() -> None:
    names = ["model.generator.name=dcgan", "model.discriminator.name=dcgan", "data.resolution=32"]
    config = load(overrides=[*names, "model.generator.width=7"]).model_dump(mode="json")
    found = differing([defaults(config), config])
    assert found["model.generator.width"][1] == "7"
    assert found["data.resolution"] == ["28", "32"]
    assert "model.generator.name" not in found
    assert defaults({"model": {"generator": {"name": "mine"}}})["model"]["generator"]["name"] == "mlp"


def test_values_are_shown_as_in_yaml() -> None:
    values = (True, None, "", "x", [1, "a"], {"a": 1})
    assert [plain(v) for v in values] == ["true", "null", "(empty)", "x", "[1, a]", '{"a": 1}']
