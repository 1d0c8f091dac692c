"""Samples of a loaded generator: each is a function of its seed, label and truncation, to the last bit."""

import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganscale.config import ConfigError
from ganscale.inference.generator import LANES, MAX_SEED, Description, LoadedGenerator, build_network, rebuild
from ganscale.models.geometry import Geometry
from ganscale.models.mlp import MLPGenerator
from tests.runs import tiny

LATENT = 8


class Echo(nn.Module):
    """Gives back what it was given, and notes how many rows it saw at once."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))
        self.seen: list[int] = []

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        self.seen.append(len(z))
        rows = z if labels is None else torch.cat((z[:, :-1], labels.to(z.dtype).unsqueeze(1)), 1)
        return (self.scale * rows).view(-1, 1, 2, LATENT // 2)


def describe(**changes: object) -> Description:
    facts: dict[str, object] = {
        "generator": {"name": "mlp", "width": 12},
        "latent_dim": LATENT,
        "latent": "normal",
        "shape": (1, 2, LATENT // 2),
        "num_classes": 0,
        "dtype": "float32",
        "data": "mnist",
        "run": "try1",
        "images": 640,
        "sha256": "ab",
    }
    return Description(**(facts | changes))  # pyright: ignore[reportArgumentType]


def echo(scale: float = 1.0, **changes: object) -> LoadedGenerator:
    return LoadedGenerator(Echo(scale), describe(**changes))


@pytest.fixture(scope="module")
def network() -> LoadedGenerator:
    """A real network, wide enough for matrix products that round differently at different sizes."""
    description = describe(latent_dim=100, shape=(1, 28, 28), generator={"name": "mlp", "width": 128})
    torch.manual_seed(0)
    return rebuild(description, build_network(description).state_dict())


def test_an_image_is_a_function_of_its_seed_whatever_is_asked_for_with_it(network: LoadedGenerator) -> None:
    whole = network.sample(3 * LANES)
    some = random.Random(0).sample(range(96), 50)
    for chosen in ([0], [70], [5, 37, 69], [69, 5], list(range(1, 90, 7)), [4, 4, 4], some):
        assert torch.equal(network.sample(chosen), whole[chosen])


def test_the_network_sees_blocks_only() -> None:
    generator = echo()
    generator.sample([3, 3 + LANES, 3 + 2 * LANES, 4])
    generator.sample(LANES + 1)
    assert isinstance(generator.network, Echo)
    assert generator.network.seen == [LANES] * 5


def test_z_of_a_seed_is_the_same_alone_and_in_a_range() -> None:
    for latent in ("normal", "uniform"):
        generator = echo(latent=latent)
        whole = generator.latents(range(500))
        for seed in range(0, 500, 17):
            assert torch.equal(generator.latents([seed])[0], whole[seed])
        assert torch.equal(generator.latents([9, 10, 11, 3, 400, 401]), whole[[9, 10, 11, 3, 400, 401]])


def test_z_has_the_distribution_of_training() -> None:
    normal = echo().latents(range(20_000))
    torch.testing.assert_close(normal.mean(), torch.tensor(0.0), atol=0.01, rtol=0)
    torch.testing.assert_close(normal.std(), torch.tensor(1.0), atol=0.01, rtol=0)
    uniform = echo(latent="uniform").latents(range(20_000))
    assert -1.0 <= float(uniform.min()) < -0.999
    assert 0.999 < float(uniform.max()) <= 1.0
    torch.testing.assert_close(uniform.std(), torch.tensor(3.0**-0.5), atol=0.01, rtol=0)


def test_images_are_clipped_and_points_are_not() -> None:
    z = echo().latents(range(40))
    torch.testing.assert_close(echo(5.0).sample(40).flatten(1), (5.0 * z).clamp(-1, 1))
    points = LoadedGenerator(Echo(5.0), describe(shape=(2,)))
    torch.testing.assert_close(points.sample(40).flatten(1), 5.0 * z)


def test_truncation_moves_styles_towards_their_average() -> None:
    settings = {"name": "stylegan2", "channel_base": 64, "channel_max": 8, "w_dim": 8, "mapping_layers": 2}
    description = describe(shape=(1, 16, 16), generator=settings)
    generator = rebuild(description, build_network(description).state_dict())
    assert generator.truncates_w
    network: Any = generator.network
    network.average.value.copy_(torch.randn(network.average.value.shape, generator=torch.Generator().manual_seed(0)))
    z = generator.latents(range(LANES))
    wanted = network(z, truncation=0.5).clamp(-1.0, 1.0)
    assert torch.equal(generator.sample(LANES, truncation=0.5), wanted)
    assert (generator.sample(LANES) - wanted).abs().max() > 1e-3
    average = generator.sample(3, truncation=0.0)
    torch.testing.assert_close(average[1:], average[:1].expand(2, -1, -1, -1))


def test_truncation_scales_z() -> None:
    generator = echo(0.1)
    torch.testing.assert_close(generator.sample(6, truncation=0.5), 0.5 * generator.sample(6))
    assert float(generator.sample(6, truncation=0.0).abs().max()) == 0.0


def test_classes_take_turns_by_seed_unless_they_are_given() -> None:
    generator = echo(0.01, num_classes=3)

    def classes(**labels: object) -> list[int]:
        made = generator.sample([7, 5, 40], **labels)  # pyright: ignore[reportArgumentType]
        return (made.flatten(1)[:, -1] * 100).round().int().tolist()

    assert classes() == [1, 2, 1]
    assert classes(labels=2) == [2, 2, 2]
    assert classes(labels=[0, 1, 2]) == [0, 1, 2]
    assert classes(labels=torch.tensor([2, 0, 0])) == [2, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seeds": [-1]}, "seed -1 is not"),
        ({"seeds": [MAX_SEED]}, "is not in 0 to 2"),
        ({"seeds": 2, "truncation": 1.5}, "truncation 1.5"),
        ({"seeds": 2, "truncation": float("nan")}, "truncation nan"),
        ({"seeds": 2, "labels": 3}, "label 3 is not in 0 to 2"),
        ({"seeds": 2, "labels": [0]}, "1 labels for 2 seeds"),
    ],
)
def test_what_cannot_be_sampled_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        echo(num_classes=3).sample(**arguments)  # pyright: ignore[reportArgumentType]


def test_labels_for_a_generator_without_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="takes none"):
        echo().sample(2, labels=0)


def test_the_largest_seed_and_none_at_all() -> None:
    assert echo().sample([MAX_SEED - 1]).shape == (1, 1, 2, LATENT // 2)
    assert echo().sample([]).shape == (0, 1, 2, LATENT // 2)
    assert echo().latents([]).shape == (0, LATENT)


def test_it_is_in_eval_mode_without_gradients(network: LoadedGenerator) -> None:
    assert not network.network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert (network.latent_dim, network.latent, network.num_classes, network.shape) == (100, "normal", 0, (1, 28, 28))


def test_rebuilding_gives_the_same_network_and_leaves_torchs_random_numbers_alone() -> None:
    settings = tiny().model.generator
    description = describe(generator=settings.model_dump(mode="json"), shape=(1, 8, 8))
    original = MLPGenerator(settings, Geometry((1, 8, 8), LATENT))  # pyright: ignore[reportArgumentType]
    before = torch.random.get_rng_state()
    generator = rebuild(description, original.state_dict())
    assert torch.equal(torch.random.get_rng_state(), before)
    z = generator.latents(range(4))
    assert torch.equal(generator(z), original.eval()(z))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"name": "mine"}, "unknown architecture"),
        ({"name": "mlp", "color": 3}, "cannot be built"),
        ({"name": "mlp", "conditioning": "concat"}, "cannot be built"),
    ],
)
def test_a_description_of_something_else_is_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_network(describe(generator=settings))


def test_weights_of_another_network_are_refused() -> None:
    weights = build_network(describe(generator={"name": "mlp", "width": 16})).state_dict()
    with pytest.raises(ConfigError, match="do not fit the architecture"):
        rebuild(describe(), weights)
