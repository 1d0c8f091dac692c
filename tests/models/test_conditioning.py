"""Classes in generator and discriminator: their effect, the heads' formulas, and what is refused."""

import pytest
import torch
from torch import nn

from ganscale.models.base import Head
from tests.models.nets import CLASSES, SMALL, assert_all_trained, latents, pair

LABELS = torch.tensor([0, 3, 3, 4])
NORMED = ("mlp", "dcgan", "resnet")
WAYS_G = [(name, way) for name in SMALL for way in ("concat", "norm") if way == "concat" or name in NORMED]
WAYS_D = [
    (name, way)
    for name in SMALL
    for way in ("projection", "acgan", "reacgan")
    if (name, way) not in (("transformer", "reacgan"), ("stylegan2", "reacgan"))
]


def conditional(name: str, g: str = "concat", d: str = "projection", *more: str):
    norm = ("model.generator.norm=batch",) if g == "norm" else ()
    ways = (f"model.generator.conditioning={g}", f"model.discriminator.conditioning={d}")
    return pair(name, *norm, *ways, *more)


def move_classes_apart(network: nn.Module) -> None:
    """Conditional norms start without effect: give each class a shift of its own."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias") and parameter.dim() == 2:
            nn.init.normal_(parameter)


@pytest.mark.parametrize(("name", "way"), WAYS_G)
def test_the_generator_follows_the_class(name: str, way: str) -> None:
    generator, _ = conditional(name, way)
    move_classes_apart(generator)
    generator.eval()
    z = latents(1).expand(4, -1)
    made = generator(z, LABELS)
    torch.testing.assert_close(made[1], made[2])
    assert (made[0] - made[1]).abs().max() > 1e-4
    assert (made[1] - made[3]).abs().max() > 1e-4


@pytest.mark.parametrize(("name", "way"), WAYS_G)
def test_every_class_and_only_shown_ones_get_a_gradient(name: str, way: str) -> None:
    generator, _ = conditional(name, way)
    generator(latents(), LABELS).square().sum().backward()
    assert_all_trained(generator)
    tables = [p.grad for p in generator.parameters() if p.shape[0] == CLASSES and p.dim() == 2 and p.grad is not None]
    assert tables
    for table in tables:
        assert not table[[1, 2]].any()
    assert any(table[[0, 3, 4]].any() for table in tables)


@pytest.mark.parametrize("name", [name for name in SMALL if name not in ("stylegan2", "transformer")])
def test_the_projection_follows_the_class(name: str) -> None:
    """Miyato and Koyama 2018, Eq. 3; StyleGAN2's is another one (test_stylegan2.py)."""
    _, discriminator = conditional(name)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    features = discriminator.features(x)
    head = discriminator.head
    expected = features @ head.logit.weight[0] + (head.embedding.weight[LABELS] * features).sum(1)
    if head.logit.bias is not None:
        expected = expected + head.logit.bias
    torch.testing.assert_close(discriminator(x, LABELS), expected)
    assert (discriminator(x, LABELS) - discriminator(x, LABELS.flip(0))).abs().max() > 1e-6
    discriminator(x, LABELS).sum().backward()
    assert_all_trained(discriminator)
    assert not discriminator.classifies


@pytest.mark.parametrize("name", SMALL)
def test_the_classifier_shares_the_pass(name: str) -> None:
    _, discriminator = conditional(name, "concat", "acgan")
    assert discriminator.classifies
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64)
    logits, classes = discriminator.forward_with_classes(x, LABELS)
    assert classes.shape == (4, CLASSES)
    torch.testing.assert_close(logits, discriminator(x))
    torch.testing.assert_close(classes, discriminator.head.classifier(discriminator.features(x)))
    (logits.sum() + nn.functional.cross_entropy(classes, LABELS)).backward()
    assert_all_trained(discriminator)


@pytest.mark.parametrize(("name", "way"), WAYS_D)
def test_penalties_reach_conditional_discriminators(name: str, way: str) -> None:
    smooth = () if name in ("stylegan2", "transformer") else ("model.discriminator.activation=tanh",)
    plain = ("spectral_norm=false",) if name == "biggan" else ()
    _, discriminator = conditional(name, "concat", way, *smooth, *plain)
    x = torch.randn(4, 3, 16, 16, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(discriminator(x, LABELS).sum(), x, create_graph=True)
    slope.square().sum().backward()
    gradients = [p.grad for p in discriminator.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    if way == "projection":
        gradient = discriminator.head.embedding.weight.grad
        assert gradient is not None
        assert (gradient[LABELS].abs().amax(1) > 0.0).all()


@pytest.mark.parametrize("name", SMALL)
def test_unconditional_networks_ignore_labels(name: str) -> None:
    generator, discriminator = pair(name)
    assert generator.num_classes == discriminator.num_classes == 0
    made = generator(latents(), LABELS)
    torch.testing.assert_close(made, generator(latents()))
    torch.testing.assert_close(discriminator(made, LABELS), discriminator(made))


@pytest.mark.parametrize("name", SMALL)
def test_labels_are_demanded(name: str) -> None:
    generator, discriminator = conditional(name)
    with pytest.raises(ValueError, match="needs labels"):
        generator(latents())
    with pytest.raises(ValueError, match="needs labels"):
        discriminator(torch.zeros(1, 3, 16, 16).double())


@pytest.mark.parametrize("name", SMALL)
def test_data_without_labels_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="needs data with labels"):
        pair(
            name,
            "model.generator.conditioning=concat",
            "model.discriminator.conditioning=projection",
            num_classes=0,
        )


def test_logits_of_bfloat16_features_are_float32() -> None:
    head = Head(6, "projection", CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        logits = head(torch.randn(4, 6).bfloat16(), LABELS)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("name", SMALL)
def test_the_logits_bias_can_be_left_out(name: str) -> None:
    _, discriminator = conditional(name)
    before = len(list(discriminator.parameters()))
    discriminator.drop_logit_bias()
    assert len(list(discriminator.parameters())) == before - (name != "r3gan")
    assert discriminator(torch.zeros(4, 3, 16, 16).double(), LABELS).shape == (4,)
