"""Self-attention: the paper's formula, its neutral start, its derivatives."""

import torch
from torch import Tensor

from ganscale.models.layers import SelfAttention
from tests.models.nets import assert_same_derivatives, derivatives


def attention(channels: int = 8, gamma: float = 0.7) -> SelfAttention:
    torch.manual_seed(0)
    layer = SelfAttention(channels).double()
    with torch.no_grad():
        layer.gamma.fill_(gamma)
    return layer


def papers(layer: SelfAttention, x: Tensor) -> Tensor:
    """Zhang et al. 2019, Eqs. 1 to 3, pixel by pixel."""
    f, g, h, v = (conv.weight[:, :, 0, 0] for conv in (layer.key, layer.query, layer.value, layer.out))
    made = []
    for image in x:
        pixels = image.flatten(1).T
        rows = []
        for j in pixels:
            s = torch.stack([(f @ i) @ (g @ j) for i in pixels])
            beta = s.exp() / s.exp().sum()
            rows.append(v @ torch.stack([b * (h @ i) for b, i in zip(beta, pixels, strict=True)]).sum(0))
        made.append(layer.gamma * torch.stack(rows).T.view_as(image) + image)
    return torch.stack(made)


def test_it_is_the_papers_formula() -> None:
    for channels in (3, 16):
        x = torch.randn(2, channels, 3, 2, dtype=torch.float64)
        layer = attention(channels)
        torch.testing.assert_close(layer(x), papers(layer, x))


def test_the_pooled_form_is_that_of_the_papers_code() -> None:
    """Values of C / 2 channels; keys and values are the largest of each 2x2 pixels."""
    torch.manual_seed(0)
    layer = SelfAttention(16, pooled=True).double()
    with torch.no_grad():
        layer.gamma.fill_(0.7)
    assert [each.weight.shape[0] for each in (layer.query, layer.key, layer.value)] == [2, 2, 8]
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)

    def code(x: Tensor) -> Tensor:
        """Pixel by pixel."""
        f, g, h, v = (conv.weight[:, :, 0, 0] for conv in (layer.key, layer.query, layer.value, layer.out))
        made = []
        for image in x:
            blocks = image.unfold(1, 2, 2).unfold(2, 2, 2).flatten(3).flatten(1, 2)  # [C, places, 4]
            keys, values = (torch.einsum("oc,cpk->opk", each, blocks).amax(2) for each in (f, h))
            beta = ((g @ image.flatten(1)).T @ keys).exp()
            mixed = (beta / beta.sum(1, keepdim=True)) @ values.T
            made.append(image + layer.gamma * (v @ mixed.T).view_as(image))
        return torch.stack(made)

    expected = derivatives(code, x, layer.parameters())
    assert_same_derivatives(derivatives(layer, x, layer.parameters()), expected)


def test_it_starts_as_the_identity_and_can_leave_it() -> None:
    layer = SelfAttention(8)
    x = torch.randn(2, 8, 4, 4)
    y = layer(x)
    assert torch.equal(y, x)
    y.square().sum().backward()
    assert layer.gamma.grad is not None
    assert layer.gamma.grad != 0.0


def test_first_and_second_derivatives_are_right() -> None:
    layer = attention(2)
    x = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(layer, (x,))


def test_each_image_attends_to_itself_only() -> None:
    layer = attention()
    x = torch.randn(3, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[1:2], layer(x[1:2]))


def test_it_knows_no_order_of_pixels() -> None:
    layer = attention()
    x = torch.randn(1, 8, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x.flip(3)), layer(x).flip(3))
