"""A space is checked against the run's schema before anything starts, and its values are what a run gets."""

from typing import Any

import pytest

from ganscale.config import ConfigError
from tests.sweep.sweeps import space

BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"optim.lr": {"uniform": [1e-4, 1e-3]}}, "space.optim.lr", "unknown key"),
    ({"optim.lr_g": {"uniform": [1e-4, 100]}}, "space.optim.lr_g", "at most 10"),
    ({"optim.d_steps": {"uniform": [1, 4]}}, "space.optim.d_steps", "whole number"),
    ({"loss.name": {"choice": ["hinge", "hing"]}}, "space.loss.name", "hinge"),
    ({"objective": {"choice": [1, 2]}}, "space.objective", "section.key"),
    ({"objective": {"choice": {"a": {"loss.nam": "hinge"}}}}, "space.objective", "unknown key"),
    ({"optim.lr_g": {"choice": [1e-4], "when": {"loss": "hinge"}}}, "space.optim.lr_g.when", "nothing of the space"),
    (
        {"loss.name": {"choice": ["hinge"]}, "optim.lr_g": {"choice": [1e-4], "when": {"loss.name": "wasserstein"}}},
        "space.optim.lr_g.when",
        "never exactly that",
    ),
    (
        {
            "optim.lr_g": {"choice": [1e-4], "when": {"optim.lr_d": 1e-4}},
            "optim.lr_d": {"choice": [1e-4], "when": {"optim.lr_g": 1e-4}},
        },
        "space.optim.lr_g.when",
        "circular",
    ),
    (
        {"model.generator.name": {"choice": ["mlp", "dcgan"]}, "model.generator.depth": {"randint": [1, 3]}},
        "space.model.generator.depth",
        "with model.generator.name = dcgan",
    ),
    (
        {"a": {"choice": {"x": {"optim.lr_g": 1e-4}}}, "optim.lr_g": {"choice": [1e-3]}},
        "space.optim.lr_g",
        "a sets optim.lr_g too",
    ),
    ({"train.images": {"choice": [100, 200]}}, "space.train.images", "the same for all"),
    ({"run.seed": {"choice": [1, 2]}}, "space.run.seed", "the same for all"),
    ({"optim.betas_g.2": {"uniform": [0, 0.5]}}, "space.optim.betas_g.2", "no such place"),
]


@pytest.mark.parametrize(("draws", "key", "words"), BAD, ids=[next(iter(case[0])) + "-" + case[2][:12] for case in BAD])
def test_what_cannot_be_is_refused_by_name(draws: dict[str, Any], key: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        space(draws)
    assert caught.value.key == key
    assert words in str(caught.value)
    assert caught.value.remedy


def test_drawn_values_are_the_runs() -> None:
    found = space({"optim.lr_g": {"loguniform": [1e-5, 1e-2]}, "optim.betas_d.0": {"uniform": [0, 0.9]}}).config(
        {"optim.lr_g": 3e-4, "optim.betas_d.0": 0.25}
    )
    assert found.optim.lr_g == 3e-4
    assert found.optim.betas_d == (0.25, 0.999)
    assert found.optim.betas_g == (0.5, 0.999)


def test_several_keys_share_a_value_and_bundles_set_several() -> None:
    draws = {
        "model.generator.width, model.discriminator.width": {"choice": [8, 16]},
        "objective": {
            "choice": {"gan": {"loss.label_smoothing": 0.2}, "w": {"loss.name": "wasserstein", "optim.d_steps": 5}}
        },
    }
    base = {"loss": {"label_smoothing": 0.0}}
    found = space(draws, base).config({"objective": "w", "model.generator.width, model.discriminator.width": 16})
    assert (found.model.generator.width, found.model.discriminator.width) == (16, 16)
    assert (found.loss.name, found.optim.d_steps) == ("wasserstein", 5)


def test_another_architecture_leaves_the_old_ones_settings_behind() -> None:
    base = {"model": {"generator": {"name": "mlp", "depth": 5}}}
    draws = {"model.generator.width": {"choice": [8]}, "model.generator.name": {"choice": ["mlp", "dcgan"]}}
    whole = space(draws, base)
    found = whole.config({"model.generator.name": "dcgan", "model.generator.width": 8})
    assert (found.model.generator.name, found.model.generator.width) == ("dcgan", 8)
    kept = whole.config({"model.generator.name": "mlp", "model.generator.width": 8}).model.generator
    assert kept.model_dump()["depth"] == 5


def test_architectures_bring_their_own_settings_and_tricks_are_in_reach() -> None:
    """A bundle per architecture, settings that only one has, and regularizers and augmentation beside them."""
    both = ("model.generator.name", "model.discriminator.name")
    draws = {
        "architecture": {
            "choice": {
                "resnet": dict.fromkeys(both, "resnet") | {"model.generator.norm": "batch"},
                "r3gan": dict.fromkeys(both, "r3gan") | {"optim.betas_g": [0.0, 0.99]},
            }
        },
        "model.discriminator.pooling": {"choice": ["sum", "mean"], "when": {"architecture": ["resnet"]}},
        "model.generator.expansion": {"randint": [1, 2], "when": {"architecture": ["r3gan"]}},
        "pairs": {
            "choice": {
                "old": {"train.reuse_fakes": False},
                "new": {"train.reuse_fakes": False, "train.reuse_reals": False},
            }
        },
        "penalty.lecam": {"uniform": [0.0, 0.3]},
        "penalty.centering": {"choice": [0, 0.01]},
        "augment.transforms": {"choice": [["diffaugment"], ["bgc", "ada_cutout"]]},
        "augment.p": {"choice": [0.5, {"start": 0, "end": 0.55, "over": 1000}]},
    }
    base = {"loss": {"name": "relativistic_pairing"}, "data": {"resolution": 32}}
    whole = space(draws, base)
    drawn = {"pairs": "new", "penalty.lecam": 0.2, "penalty.centering": 0.01, "augment.p": 0.5}
    drawn["augment.transforms"] = ["bgc", "ada_cutout"]
    one = whole.config(drawn | {"architecture": "resnet", "model.discriminator.pooling": "mean"})
    assert (one.model.generator.norm, one.model.discriminator.pooling) == ("batch", "mean")  # pyright: ignore
    other = whole.config(drawn | {"architecture": "r3gan", "model.generator.expansion": 2})
    assert (other.model.generator.expansion, other.optim.betas_g) == (2, (0.0, 0.99))  # pyright: ignore
    for found in (one, other):
        assert (found.train.reuse_reals, found.penalty.lecam, len(found.augment.names)) == (False, 0.2, 13)


def test_set_applies_to_all_and_names_a_wrong_key() -> None:
    from ganscale.sweep.space import Space
    from tests.sweep.sweeps import sweep

    draws = {"optim.lr_g": {"choice": [1e-3]}}
    assert Space(sweep(draws, run={"train.batch_size": 32}), {}).config({"optim.lr_g": 1e-3}).train.batch_size == 32
    with pytest.raises(ConfigError) as caught:
        Space(sweep(draws, run={"train.batch": 32}), {})
    assert caught.value.key == "train.batch"


def test_conditions_decide_what_applies() -> None:
    draws = {
        "penalty.gp": {"uniform": [1, 10], "when": {"loss.name": ["wasserstein", "hinge"]}},
        "loss.name": {"choice": ["wasserstein", "hinge", "minimax"]},
    }
    by_name = {parameter.name: parameter for parameter in space(draws, {"loss": {"label_smoothing": 0.0}}).parameters}
    assert list(by_name) == ["loss.name", "penalty.gp"]
    assert by_name["penalty.gp"].applies({"loss.name": "hinge"})
    assert not by_name["penalty.gp"].applies({"loss.name": "minimax"})
