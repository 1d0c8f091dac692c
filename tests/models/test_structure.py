"""Layers are known by the side of their maps, classes by their rows, and frozen blocks stay as they are."""

import pytest
import torch
from torch import nn

from ganscale.config import DISCRIMINATORS, GENERATORS, load
from ganscale.config.architectures import DCGANGenerator, MLPDiscriminator, MLPGenerator
from ganscale.models import Geometry
from ganscale.models.layers import BatchNorm, batch_norms
from ganscale.models.structure import class_rows, freeze, layer_keys, output_sides

SHARED: dict[str, tuple[str, ...]] = {
    "dcgan": ("max_width=8", "width={}", "norm=batch"),
    "resnet": ("max_width=8", "width={}", "norm=batch"),
    "r3gan": ("max_width=8", "width={}", "group_size=4", "depth=2"),
}


def pair(name: str, resolution: int, width: int, *settings: str) -> tuple[nn.Module, nn.Module]:
    given = [each.format(width) for each in SHARED.get(name, ())] + [f"name={name}", *settings]
    overrides = [f"model.{side}.{each}" for side in ("generator", "discriminator") for each in given]
    model = load(overrides=[*overrides, f"data.resolution={resolution}"]).model
    geometry = Geometry((1, resolution, resolution), 6)
    torch.manual_seed(0)
    return (
        GENERATORS[name].make(model.generator, geometry),
        DISCRIMINATORS[name].make(model.discriminator, geometry),
    )


def shapes(resolution: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (6,), (1, resolution, resolution)


@pytest.mark.parametrize("name", SHARED)
def test_a_layer_has_one_key_at_all_resolutions(name: str) -> None:
    """At twice the resolution and half the width, everything but the largest map has a layer of its shape."""
    small, large = pair(name, 16, 4), pair(name, 32, 2)
    for one, two, shape, bigger in zip(small, large, shapes(16), shapes(32), strict=True):
        keys, others = layer_keys(one, shape), layer_keys(two, bigger)
        assert len(set(keys.values())) == len(keys)
        assert len(set(others.values())) == len(others)
        known = {key: two.state_dict()[each].shape for each, key in others.items()}
        same = {each for each, key in keys.items() if known.get(key) == one.state_dict()[each].shape}
        left = {keys[each] for each in keys.keys() - same}
        # What is not there touches the image, or is on the largest map (which r3gan's D merges into the next).
        allowed = ("image", "16 pixels", "8 pixels.Conv2d.1") if name != "dcgan" else ("image", "8 pixels", "16 pixels")
        assert all(any(word in key for word in allowed) for key in left), left
        assert len(same) > len(left)


def test_a_place_in_the_chain_says_nothing() -> None:
    """The same name in the state is a layer for other sides at other resolutions."""
    small, large = pair("dcgan", 16, 4)[1], pair("dcgan", 32, 2)[1]
    assert layer_keys(small, (1, 16, 16))["layers.2.weight"] == "layers.4 pixels.Conv2d.0.weight"
    assert layer_keys(large, (1, 32, 32))["layers.2.weight"] == "layers.8 pixels.Conv2d.0.weight"
    assert layer_keys(large, (1, 32, 32))["layers.5.weight"] == "layers.4 pixels.Conv2d.0.weight"


def test_layers_of_an_mlp_are_counted_by_kind() -> None:
    plain, normed = pair("mlp", 16, 0)[0], pair("mlp", 16, 0, "norm=batch")[0]
    keys, others = layer_keys(plain, (6,)), layer_keys(normed, (6,))
    assert keys["layers.2.weight"] == others["layers.3.weight"] == "layers.Linear.1.weight"


def test_sides_are_found_without_computing() -> None:
    generator, discriminator = pair("r3gan", 16, 4)
    weights = [each.clone() for each in generator.state_dict().values()]
    assert set(output_sides(generator, (6,)).values()) == {4, 8, 16}
    assert output_sides(discriminator, (1, 16, 16))["layers.0"] == 16
    assert all(torch.equal(a, b) for a, b in zip(weights, generator.state_dict().values(), strict=True))
    assert output_sides(discriminator, (3, 16, 16)) == {}  # other channels: it does not run


HEADS = {"projection": {"embedding.weight"}, "acgan": {"classifier.weight", "classifier.bias"}}


def test_rows_of_classes() -> None:
    geometry = Geometry((1, 16, 16), 6, 5)
    norm = GENERATORS["dcgan"].make(DCGANGenerator(conditioning="norm"), geometry)
    assert class_rows(norm) == {f"layers.{index}.{name}" for index in (0, 3) for name in ("weight", "bias")}
    assert class_rows(GENERATORS["mlp"].make(MLPGenerator(conditioning="concat"), geometry)) == {"class_embedding"}
    for conditioning, names in HEADS.items():
        settings = MLPDiscriminator.model_validate({"conditioning": conditioning})
        assert class_rows(DISCRIMINATORS["mlp"].make(settings, geometry)) == {f"head.{name}" for name in names}
    spectral = MLPDiscriminator(conditioning="projection", spectral_norm=True)
    found = class_rows(DISCRIMINATORS["mlp"].make(spectral, geometry))
    assert found == {"head.embedding.parametrizations.weight.original"}


@pytest.mark.parametrize(
    ("name", "blocks", "frozen"),
    [
        ("dcgan", 1, {"layers.0"}),
        ("dcgan", 2, {"layers.0", "layers.2", "layers.3"}),
        ("resnet", 1, {"layers.0"}),
        ("resnet", 2, {"layers.0", "layers.1", "layers.2"}),
        ("r3gan", 1, {"layers.0", "layers.1", "layers.2"}),
        ("mlp", 1, {"layers.0"}),
        ("mlp", 2, {"layers.0", "layers.2"}),
    ],
)
def test_frozen_blocks_are_those_nearest_the_image(name: str, blocks: int, frozen: set[str]) -> None:
    discriminator = pair(name, 16, 4)[1]
    freeze(discriminator, blocks, (1, 16, 16))
    found = {".".join(each.split(".")[:2]) for each, p in discriminator.named_parameters() if not p.requires_grad}
    assert found == frozen
    for each, module in discriminator.named_modules():
        if isinstance(module, BatchNorm):
            is_frozen = ".".join(each.split(".")[:2]) in frozen
            assert (module.frozen, module.update_statistics) == (is_frozen, not is_frozen)
            assert (module in batch_norms(discriminator)) == (not is_frozen)


def test_too_many_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="has 3 blocks"):
        freeze(pair("dcgan", 32, 2)[1], 4, (1, 32, 32))
    with pytest.raises(ValueError, match="has 0 blocks"):
        freeze(nn.Linear(2, 1), 1, (2,))
