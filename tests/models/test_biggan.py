"""BigGAN's pair: the published numbers of parameters, and the paper's networks written out anew, to second order."""

import itertools

import pytest
import torch
from torch import nn

from ganscale.models.base import Generator
from ganscale.models.biggan import ConditionalBlock
from tests.models.nets import CLASSES, CONDITIONAL, pair
from tests.models.residual_papers import check, count

LABELS = torch.tensor([0, 3, 3, 4])


@pytest.mark.parametrize(("resolution", "attention", "halvings"), [(32, 16, 2), (64, 32, 4)])
def test_the_pair_is_the_papers_to_second_order(resolution: int, attention: int, halvings: int) -> None:
    settings = ("width=2", f"attention={attention}", "model.generator.class_dim=3", *CONDITIONAL)
    networks = pair("biggan", *settings, resolution=resolution)
    check(networks, LABELS, resolution=resolution, attention=attention, halvings=halvings)


PUBLISHED = {
    128: (120, 96, 64, 1000, 70_433_988, 87_982_370),
    256: (140, 96, 64, 1000, 82_235_844, 99_225_890),
    32: (80, 64, 0, 10, 4_287_235, 4_207_361),
}
"""Resolution to length of z, width, attention, classes, and parameters of G and D, as the author's code counts them
(github.com/ajbrock/BigGAN-PyTorch, train.py, with --G_shared --hier --shared_dim 128)."""


@pytest.mark.parametrize("resolution", PUBLISHED)
def test_numbers_of_parameters_are_the_published(resolution: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ganscale.models.biggan._initialize", lambda _: None)  # takes long
    latent_dim, width, attention, num_classes, *expected = PUBLISHED[resolution]
    each = ("name=biggan", f"width={width}", f"attention={attention}")
    ways = [f"model.{side}.{setting}" for side in ("generator", "discriminator") for setting in each]
    assert count("biggan", (*ways, *CONDITIONAL), resolution, latent_dim, num_classes) == tuple(expected)


def own_parts(generator: Generator) -> list[list[int]]:
    """Numbers of z that change the input of each block's norms."""
    blocks = [module for module in generator.modules() if isinstance(module, ConditionalBlock)]
    return [list(range(block.parts[0].start, block.parts[0].stop)) for block in blocks]


@pytest.mark.parametrize(("hierarchical", "sizes"), [("true", [3, 2, 2]), ("false", [7, 0, 0])])
@pytest.mark.parametrize("ways", [(), CONDITIONAL], ids=["plain", "classes"])
def test_each_part_of_z_is_read_once(hierarchical: str, sizes: list[int], ways: tuple[str, ...]) -> None:
    generator, _ = pair("biggan", f"model.generator.hierarchical={hierarchical}", *ways)
    generator.eval()
    parts = own_parts(generator)
    first = generator.project
    assert isinstance(first, nn.Linear)
    assert [first.in_features, *map(len, parts)] == sizes
    assert [each for part in parts for each in part] == list(range(sum(sizes[1:])))
    z = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(generator(z, LABELS).square().sum(), z)
    assert (slope.abs().sum(0) > 0.0).all()


def test_initial_weights_are_orthogonal_and_the_class_is_not_spectrally_normalized() -> None:
    generator, discriminator = pair("biggan", "spectral_norm=false", *CONDITIONAL)
    matrices = [p.flatten(1) for net in (generator, discriminator) for p in net.parameters() if p.dim() > 1]
    assert len(matrices) > 20
    for matrix in matrices:
        gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
        torch.testing.assert_close(gram, torch.eye(len(gram), dtype=gram.dtype), rtol=0.0, atol=1e-6)
    generator, discriminator = pair("biggan", *CONDITIONAL)
    plain = [name for name, p in generator.named_parameters() if p.dim() > 1 and "parametrizations" not in name]
    assert plain == ["class_embedding"]
    assert generator.class_embedding.shape == (CLASSES, 128)
    assert all("parametrizations" in n for n, p in discriminator.named_parameters() if p.dim() > 1)


def test_spectral_norm_has_the_eps_of_the_authors_code() -> None:
    for network in pair("biggan"):
        norms = [module.eps for module in network.modules() if hasattr(module, "advance")]
        assert set(norms) == {1e-6}, list(itertools.islice(norms, 3))
