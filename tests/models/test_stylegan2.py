"""StyleGAN2's pair against the papers' equations: values, both derivatives, numbers of parameters, what is drawn."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from ganscale.config import DISCRIMINATORS, GENERATORS, load
from ganscale.models import Geometry
from ganscale.models.layers import MinibatchStddev, latent_averages, place_rows
from ganscale.models.layers.style import W_DECAY
from ganscale.models.stylegan2 import RandomInputs, StyleGAN2Generator
from ganscale.training.objective import Draws
from tests.models import stylegan2_reference as reference
from tests.models.nets import CLASSES, CONDITIONAL, LATENT, latents, num_parameters, pair

LABELS = torch.tensor([0, 3, 3, 4])


def shaken(network: nn.Module) -> None:
    """Move all weights away from the zeros and ones that some begin with."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))


def tensor(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def derivatives(output: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    """The output, its gradients along a fixed direction, and the gradients of their squares."""
    first = torch.autograd.grad((output * tensor(*output.shape, seed=9)).sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), inputs, allow_unused=True)  # pyright: ignore
    zeros = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, second, strict=True)]
    return [output, *first, *zeros]


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "classes"])
@pytest.mark.parametrize("mixes", [False, True], ids=["one", "mixing"])
def test_the_generator_is_the_papers(conditional: bool, mixes: bool) -> None:
    generator, _ = pair("stylegan2", *(CONDITIONAL if conditional else ()))
    assert isinstance(generator, StyleGAN2Generator)
    shaken(generator)
    weights, labels = dict(generator.named_parameters()), LABELS if conditional else None
    z, z2, noise = (x.requires_grad_() for x in (latents(), latents(seed=2), tensor(4, 16 + 2 * 64 + 2 * 256)))
    cutoff = torch.tensor([1, 2, 5, 6])
    random = RandomInputs(noise, z2 if mixes else None, cutoff if mixes else None)
    inputs = [z, noise, *weights.values(), *([z2] if mixes else [])]
    found = derivatives(generator(z, labels, random), inputs)
    sides = (4, 8, 8, 16, 16)
    starts = [0, *accumulate(side**2 for side in sides)]
    maps = [noise[:, a:b].view(4, 1, side, side) for a, b, side in zip(starts, starts[1:], sides, strict=False)]
    wanted = reference.generator(z, labels, weights, maps, 2, (z2, cutoff) if mixes else None)
    for one, other in zip(found, derivatives(wanted, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "classes"])
@pytest.mark.parametrize("group", [2, 4])
def test_the_discriminator_is_the_papers(conditional: bool, group: int) -> None:
    settings = ("model.discriminator.mapping_layers=2", f"model.discriminator.stddev_group={group}")
    _, discriminator = pair("stylegan2", *settings, *(CONDITIONAL if conditional else ()))
    shaken(discriminator)
    weights = dict(discriminator.named_parameters())
    labels = LABELS.repeat(2) if conditional else None
    x = tensor(8, 3, 16, 16).requires_grad_()
    inputs = [x, *weights.values()]
    found = derivatives(discriminator(x, labels), inputs)
    wanted = derivatives(reference.discriminator(x, labels, weights, 2, group, 2), inputs)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


MAPPING = 8 * 262_656
ROWS = {4: 2_622_465 + 264_195, **dict.fromkeys((8, 16, 32, 64), 2 * 2_622_465 + 264_195)}
ROWS |= {128: 1_442_561 + 721_409 + 132_099, 256: 426_369 + 213_249 + 66_051}
"""Of convolutions and ToRGB, as the original prints them per layer for channel_base 32768 (open-mmlab/mmgeneration#394,
NVlabs/stylegan2-ada-pytorch#182); each layer has its affine part and its noise strength."""
BLOCKS_D = {256: 32_768 + 147_584 + 295_168, 128: 131_072 + 590_080 + 1_180_160}
BLOCKS_D |= dict.fromkeys((64, 32, 16, 8), 262_144 + 2 * 2_359_808)
"""Of skip, conv0 and conv1, likewise (NVlabs/stylegan2-ada-pytorch#181)."""


def sizes(channel_base: int) -> tuple[int, int]:
    sides = ("generator", "discriminator")
    settings = [f"model.{side}.{s}" for side in sides for s in ("name=stylegan2", f"channel_base={channel_base}")]
    model = load(overrides=[*settings, "model.latent_dim=512", "data.resolution=32"]).model
    geometry = Geometry((3, 256, 256), 512)
    with torch.device("meta"):
        networks = (
            GENERATORS["stylegan2"].make(model.generator, geometry),
            DISCRIMINATORS["stylegan2"].make(model.discriminator, geometry),
        )
    return num_parameters(networks[0]), num_parameters(networks[1])


def test_numbers_of_parameters_are_the_originals() -> None:
    """Configuration F at 256 pixels: the sum of the published rows. ADA's paper256 has half of channel_base."""
    epilogue = (513 * 9 + 1) * 512 + (512 * 16 + 1) * 512 + 513
    assert sizes(32_768) == (MAPPING + 16 * 512 + sum(ROWS.values()), 4 * 128 + sum(BLOCKS_D.values()) + epilogue)
    assert sizes(32_768) == (30_034_338, 28_864_129)
    assert sizes(16_384) == (24_767_458, 24_001_089)


def test_what_is_drawn_belongs_to_the_image() -> None:
    """Any share of the rows has the numbers that it has in the whole; later layers get the second w in 9 of 10."""
    generator, _ = pair("stylegan2")
    assert isinstance(generator, StyleGAN2Generator)
    draws = Draws(0, "cpu")
    z = latents(2000)
    whole = generator.random_inputs(draws, "generator", 100, z)
    part = generator.random_inputs(draws, "generator", 107, z[7:12])
    for one, other in zip(part, whole, strict=True):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(one, other[7:12])
    assert whole.cutoff is not None
    counts = whole.cutoff.bincount(minlength=7).tolist()
    assert counts[0] == 0
    assert sum(counts[1:6]) == pytest.approx(1800, abs=60)
    assert min(counts[1:6]) > 300
    assert whole.noise is not None
    torch.testing.assert_close(whole.noise.std(), torch.tensor(1.0).double(), rtol=0.01, atol=0.0)


def test_noise_is_constant_where_nothing_is_drawn() -> None:
    generator, _ = pair("stylegan2")
    shaken(generator)
    made = generator(latents())
    torch.testing.assert_close(generator(latents()), made, rtol=0.0, atol=0.0)
    noise = tensor(4, 16 + 2 * 64 + 2 * 256)
    assert (generator(latents(), None, RandomInputs(noise, None, None)) - made).abs().max() > 1e-3
    plain, _ = pair("stylegan2", "model.generator.noise=none")
    assert not [name for name in plain.state_dict() if name.endswith(("strength", "constant")) and "conv" in name]
    constant, _ = pair("stylegan2", "model.generator.noise=const", "model.generator.style_mixing=0")
    assert isinstance(constant, StyleGAN2Generator)
    assert constant.random_inputs(Draws(0, "cpu"), "generator", 0, latents()) == (None, None, None)


def test_the_average_of_w_and_truncation() -> None:
    generator, _ = pair("stylegan2", *CONDITIONAL)
    assert isinstance(generator, StyleGAN2Generator)
    (average,) = latent_averages(generator)
    w = generator.styles(latents(), LABELS)[:, 0]
    generator(latents(seed=5), LABELS)
    average.advance()
    both = torch.cat((w, generator.styles(latents(seed=5), LABELS)[:, 0]))
    torch.testing.assert_close(average.value, (1.0 - W_DECAY) * both.mean(0).detach(), rtol=1e-12, atol=1e-12)
    generator.eval()
    before = average.total.clone()
    torch.testing.assert_close(
        generator.styles(latents(), LABELS, None, 0.3)[:, 2], average.value + 0.3 * (w - average.value)
    )
    torch.testing.assert_close(average.total, before)  # it counts in training only
    one, other = generator(latents(), LABELS, None, 0.0), generator(latents(seed=5), LABELS.flip(0), None, 0.0)
    torch.testing.assert_close(one, other)


def test_groups_are_of_the_whole_batch() -> None:
    """Rows i, i + M, ...: a share of the rows that knows its place cannot be told from the whole by its groups."""
    layer = MinibatchStddev(4)
    x = tensor(11, 3, 2, 2)
    spread = [x[row::2].var(0, correction=0).add(1e-8).sqrt().mean() for row in range(2)]
    torch.testing.assert_close(layer(x)[:, 3, 0, 0], torch.stack([spread[row % 2] for row in range(11)]))
    place_rows([layer], (0, 11))
    torch.testing.assert_close(layer(x)[:, 3, 1, 1], torch.stack([spread[row % 2] for row in range(11)]))
    torch.testing.assert_close(MinibatchStddev(16)(x), MinibatchStddev()(x), rtol=1e-12, atol=1e-12)


def test_styles_of_blocks_overlap_as_in_the_original() -> None:
    """Two layers per block but one in the first, and a block's share of the image has the next layer's style."""
    generator, _ = pair("stylegan2", "model.generator.noise=none")
    assert isinstance(generator, StyleGAN2Generator)
    shaken(generator)
    styles = tensor(2, 6, 12)
    base = generator.layers(styles, None)
    for layer in range(6):
        moved = styles.clone()
        moved[:, layer] += 1.0
        assert (generator.layers(moved, None) - base).abs().max() > 1e-6
    assert generator.layers.num_styles == 6
    assert functional_call(generator, {}, (latents(2),)).shape == (2, 3, 16, 16)


def test_labels_need_a_network_for_them() -> None:
    generator, discriminator = pair("stylegan2", *CONDITIONAL)
    assert generator.class_embedding.shape == (CLASSES, 12)
    assert generator.input(latents(), LABELS).shape == (4, LATENT + 12)
    with pytest.raises(ValueError, match="needs labels"):
        discriminator(tensor(4, 3, 16, 16))
