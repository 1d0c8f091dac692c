"""The transformer pair against the equations written out once more in float64, and the published sizes."""

import math

import pytest
import torch
from torch import Tensor, nn

from ganscale.config import DISCRIMINATORS, GENERATORS, ConfigError, load
from ganscale.models import Geometry
from ganscale.models.base import Generator
from ganscale.models.transformer import Attention, TransformerDiscriminator
from tests.models.nets import CLASSES, CONDITIONAL, LATENT, latents, num_parameters, pair

WIDTH, HEADS, PATCH, LEVELS = 16, 2, 4, 2
SMALL = (f"width={WIDTH}", "depth=4", f"heads={HEADS}", f"patch={PATCH}")
SHAPE = (3, 16, 24)
ROWS, COLUMNS = SHAPE[1] // PATCH, SHAPE[2] // PATCH


def close(found: Tensor, wanted: Tensor, name: str = "") -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10, msg=lambda text: f"{name}: {text}")


def networks(*overrides: str) -> tuple[Generator, TransformerDiscriminator]:
    """A pair whose weights are all random, those that start alike too."""
    more = [f"model.generator.levels={LEVELS}"]
    if "model.discriminator.conditioning=projection" in overrides:
        more.append("model.discriminator.head_width=10")
    generator, discriminator = pair("transformer", *SMALL, *more, *overrides, resolution=SHAPE[1:])
    assert isinstance(discriminator, TransformerDiscriminator)
    random = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for network in (generator, discriminator):
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=random, dtype=torch.float64))
    return generator, discriminator


# The paper's equations, one image at a time, on the weights by name.


def rms(x: Tensor, eps: float = 1e-6) -> Tensor:
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) / x.shape[-1] + eps)


def affine(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return torch.einsum("oi,...i->...o", w[f"{name}.weight"], x) + w[f"{name}.bias"]


def silu(x: Tensor) -> Tensor:
    return x / (1.0 + torch.exp(-x))


def position_table() -> Tensor:
    """Column first, then row, each as sines and then cosines; rounded to float32 as buffers are."""
    quarter = WIDTH // 4
    rows = []
    for row in range(ROWS):
        for column in range(COLUMNS):
            cell = []
            for place in (column, row):
                angles = [place / 10_000 ** (i / quarter) for i in range(quarter)]
                cell += [*map(math.sin, angles), *map(math.cos, angles)]
            rows.append(cell)
    return torch.tensor(rows, dtype=torch.float32).double()


def rotate(x: Tensor) -> Tensor:
    """Pairs of channels (2i, 2i + 1) of `[tokens, channels]` turn by an angle: the first half's by the row."""
    size = x.shape[1]
    turned = x.clone()
    for token in range(ROWS * COLUMNS):
        at = len(x) - ROWS * COLUMNS + token
        for i in range(size // 2):
            place = token // COLUMNS if i < size // 4 else token % COLUMNS
            angle = place / 10_000 ** ((i % (size // 4)) / (size // 4))
            cosine, sine = (float(torch.tensor(f(angle), dtype=torch.float32)) for f in (math.cos, math.sin))
            a, b = x[at, 2 * i], x[at, 2 * i + 1]
            turned[at, 2 * i], turned[at, 2 * i + 1] = a * cosine - b * sine, b * cosine + a * sine
    return turned


def attend(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    query, key, value = affine(w, f"{name}.qkv", x).chunk(3, dim=-1)
    mixed, size = [], WIDTH // HEADS
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        q = rotate(rms(query[:, part]) * w[f"{name}.query_scale"])
        k = rotate(rms(key[:, part]) * w[f"{name}.key_scale"])
        scores = torch.exp(q @ k.T / math.sqrt(size))
        mixed.append(scores / scores.sum(1, keepdim=True) @ value[:, part])
    return affine(w, f"{name}.out", torch.cat(mixed, dim=1))


def gated(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    first, second = affine(w, f"{name}.up", x).chunk(2, dim=-1)
    return affine(w, f"{name}.down", silu(first) * second)


def mapped(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    scaled = {key: 0.01 * value for key, value in w.items() if key.startswith(name)}
    return affine(scaled, f"{name}.2", silu(affine(scaled, f"{name}.0", x)))


def generate(w: dict[str, Tensor], z: Tensor, label: int | None) -> Tensor:
    parts = [rms(z, 1e-8)] + ([] if label is None else [rms(w["class_embedding"][label], 1e-8)])
    style = mapped(w, "mapping", torch.cat(parts))
    x, image = position_table(), torch.zeros(SHAPE, dtype=torch.float64)
    for level in range(LEVELS):
        for block in range(4 // LEVELS):
            name = f"blocks_{level}.{block}"
            s1, g1, s2, g2 = affine(w, f"{name}.modulation", silu(style)).chunk(4)
            x = x + g1 * attend(w, f"{name}.attention", rms(x) * (1 + s1))
            x = x + g2 * gated(w, f"{name}.mlp", rms(x) * (1 + s2))
        scale = affine(w, f"image_{level}.modulation", silu(style))
        patches = affine(w, f"image_{level}.out", rms(x) * (1 + scale))
        added = torch.zeros(SHAPE, dtype=torch.float64)
        for token in range(ROWS * COLUMNS):
            top, left = PATCH * (token // COLUMNS), PATCH * (token % COLUMNS)
            patch = patches[token].reshape(PATCH, PATCH, SHAPE[0]).permute(2, 0, 1)
            added[:, top : top + PATCH, left : left + PATCH] = patch
        image = image + added
    return image


def discriminate(w: dict[str, Tensor], x: Tensor, label: int | None) -> Tensor:
    tokens = [w["layers.0.class_token"]]
    for row in range(ROWS):
        for column in range(COLUMNS):
            part = x[:, PATCH * row : PATCH * (row + 1), PATCH * column : PATCH * (column + 1)]
            token = (w["layers.0.cut.weight"] * part).sum((1, 2, 3)) + w["layers.0.cut.bias"]
            tokens.append(token + position_table()[row * COLUMNS + column])
    h = torch.stack(tokens)
    for block in range(4):
        name = f"layers.{block + 1}"
        h = h + w[f"{name}.scale_1"] * attend(w, f"{name}.attention", rms(h) * w[f"{name}.norm_1"])
        h = h + w[f"{name}.scale_2"] * gated(w, f"{name}.mlp", rms(h) * w[f"{name}.norm_2"])
    logit = affine(w, "head.logit", rms(h[0]) * w["norm"])
    return logit[0] if label is None else (mapped(w, "head.mapping", w["head.embedding.weight"][label]) * logit).sum()


def check_gradients(network: nn.Module, value: Tensor, wanted: Tensor, weights: dict[str, Tensor]) -> None:
    close(value, wanted)
    found = torch.autograd.grad(value, list(network.parameters()), allow_unused=True)
    true = torch.autograd.grad(wanted, list(weights.values()), allow_unused=True)
    for name, a, b in zip(weights, found, true, strict=True):
        assert (a is None) == (b is None), name
        if a is not None:
            close(a, b, name)


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: each.detach().clone().requires_grad_() for name, each in network.named_parameters()}


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
def test_the_generator_is_its_equations(conditional: bool) -> None:
    generator, _ = networks(*(CONDITIONAL if conditional else ()))
    weights, z = copied(generator), latents(2).requires_grad_()
    labels = torch.tensor([1, 3]) if conditional else None
    made = generator(z, labels)
    wanted = torch.stack([generate(weights, z[i], int(labels[i]) if labels is not None else None) for i in range(2)])
    close(made, wanted)
    toward = torch.randn(made.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    (slope,) = torch.autograd.grad((made * toward).sum(), z, create_graph=True)
    (true,) = torch.autograd.grad((wanted * toward).sum(), z, create_graph=True)
    close(slope, true)
    check_gradients(generator, (made * toward).sum(), (wanted * toward).sum(), weights)


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "conditional"])
def test_the_discriminator_is_its_equations_twice_differentiated(conditional: bool) -> None:
    _, discriminator = networks(*(CONDITIONAL if conditional else ()))
    weights = copied(discriminator)
    labels = torch.tensor([4, 0]) if conditional else None
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)

    def rewritten(images: Tensor) -> Tensor:
        classes = [None, None] if labels is None else labels.tolist()
        return torch.stack([discriminate(weights, image, label) for image, label in zip(images, classes, strict=True)])

    fused = discriminator(x, labels)
    assert not any(m.written_out for m in discriminator.modules() if isinstance(m, Attention))
    wanted = rewritten(x)
    close(fused, wanted)
    check_gradients(discriminator, fused.square().sum(), wanted.square().sum(), weights)
    x.requires_grad_()
    logits, wanted = discriminator(x, labels), rewritten(x)
    (slope,) = torch.autograd.grad(logits.sum(), x, create_graph=True)
    (true,) = torch.autograd.grad(wanted.sum(), x, create_graph=True)
    close(slope, true)
    check_gradients(discriminator, slope.square().sum(), true.square().sum(), weights)


def test_attention_is_fused_unless_second_derivatives_are_needed() -> None:
    """G's update asks for D's slope, but not for the weights' gradient of it."""
    _, discriminator = networks()
    x = torch.zeros(1, *SHAPE, dtype=torch.float64, requires_grad=True)

    def fused() -> bool:
        discriminator(x)
        return not any(module.written_out for module in discriminator.modules() if isinstance(module, Attention))

    assert not fused()
    with torch.no_grad():
        assert fused()
    discriminator.requires_grad_(False)
    assert fused()
    discriminator.requires_grad_(True)
    discriminator.layers.recomputes = True
    assert not fused()


def published(width: int, depth: int, *, channels: int = 4, patch: int = 2, classes: int = 1000) -> tuple[int, int]:
    """Trained numbers of G and D in GAT's code (hse1032/GAT, commit 21a2dd0, models/generator.py, discriminator.py).

    Its D judges four noisy versions at once, 4 * `channels`, and has three layers that learn DINOv2's features.
    """
    inside, head = int(2 / 3 * 4 * width), 64 if width != 1152 else 72
    linear = lambda a, b: a * b + b  # noqa: E731
    attention = linear(width, 3 * width) + linear(width, width) + 2 * head
    block = attention + linear(width, 2 * inside) + linear(inside, width)
    image = linear(width, width) + linear(width, patch**2 * channels)
    mapping = linear(2 * 64, width) + linear(width, width)
    generator = depth * (block + linear(width, 4 * width)) + 4 * image + mapping + classes * 64
    generator += linear(patch**2 * channels, width)  # of an input that is multiplied by 0
    discriminator = depth * (block + 4 * width) + linear(4 * patch**2 * channels, width) + width
    discriminator += width + linear(width, 2048) + classes * 2048 + 2 * linear(2048, 2048)
    return generator, discriminator + linear(width, 2048) + linear(2048, 2048) + linear(2048, 768)


@pytest.mark.parametrize(
    ("name", "width", "depth", "heads", "counts"),
    [
        ("S", 384, 12, 6, (29_263_040, 39_114_624)),
        ("B", 768, 12, 12, (116_558_144, 104_480_256)),
        ("L", 1024, 24, 16, (408_486_432, 322_773_728)),
        ("XL", 1152, 28, 16, (601_956_224, 467_383_872)),
    ],
)
def test_numbers_of_parameters_are_the_originals(
    name: str, width: int, depth: int, heads: int, counts: tuple[int, int]
) -> None:
    """Less what is left out: G's unused input layer, three of D's four versions, the layers for DINOv2's features."""
    settings = [f"width={width}", f"depth={depth}", f"heads={heads}", "patch=2", "name=transformer"]
    overrides = [f"model.{side}.{setting}" for side in ("generator", "discriminator") for setting in settings]
    model = load(overrides=[*overrides, *CONDITIONAL, "data.resolution=32"]).model
    geometry = Geometry((4, 32, 32), 64, 1000)
    with torch.device("meta"):
        generator = GENERATORS["transformer"].make(model.generator, geometry)
        discriminator = DISCRIMINATORS["transformer"].make(model.discriminator, geometry)
    found = published(width, depth)
    assert found == counts
    assert num_parameters(generator) == found[0] - (16 * width + width)
    features = width * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 768 + 768
    assert num_parameters(discriminator) == found[1] - 3 * 16 * width - features


def test_initial_outputs_are_of_order_one() -> None:
    generator, discriminator = pair("transformer", "width=32", "heads=2", resolution=28)
    made = generator(latents(16))
    assert 0.2 < made.std() < 4.0
    assert 0.01 < discriminator(made).std() < 5.0


def test_only_the_direction_of_z_has_an_effect() -> None:
    generator, _ = networks()
    torch.testing.assert_close(generator(3.0 * latents()), generator(latents()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ("model.generator.patch=5", "model.generator.patch"),
        ("model.generator.heads=5", "model.generator.heads"),
        ("model.generator.depth=6", "model.generator.levels"),
        ("model.discriminator.width=50", "model.discriminator.heads"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(setting: str, key: str) -> None:
    pairs = [f"model.{side}.{s}" for side in ("generator", "discriminator") for s in ("name=transformer", "patch=4")]
    with pytest.raises(ConfigError) as caught:
        load(overrides=[*pairs, "data.resolution=28", setting])
    assert caught.value.key == key
    assert "use one of" in caught.value.remedy or "multiple of 4" in caught.value.remedy


def test_labels_are_needed_where_the_class_is() -> None:
    _, discriminator = networks(*CONDITIONAL)
    with pytest.raises(ValueError, match="labels"):
        discriminator(torch.zeros(1, *SHAPE, dtype=torch.float64))
    assert (CLASSES, LATENT) == (5, 7)
