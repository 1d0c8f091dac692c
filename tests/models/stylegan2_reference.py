"""StyleGAN2 once more, from its papers' equations, one image at a time and with no layer of the package."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

Weights = Mapping[str, Tensor]
LINE = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8.0


def leaky(x: Tensor) -> Tensor:
    return math.sqrt(2.0) * torch.where(x > 0.0, x, 0.2 * x)


def dense(x: Tensor, weights: Weights, name: str, rate: float = 1.0) -> Tensor:
    """An equalized layer: He's scale 1 / sqrt(fan-in) at run time (Karras et al. 2018, 4.1)."""
    weight = weights[f"{name}.weight"]
    y = torch.einsum("ni,oi->no", x, weight) * rate / math.sqrt(weight.shape[1])
    return y + rate * weights[f"{name}.bias"] if f"{name}.bias" in weights else y


def unit(x: Tensor) -> Tensor:
    return x / ((x**2).mean(dim=1, keepdim=True) + 1e-8).sqrt()


def mapping(x: Tensor, weights: Weights, name: str, num_layers: int) -> Tensor:
    for layer in range(num_layers):
        x = leaky(dense(x, weights, f"{name}.{layer}", rate=0.01))
    return x


def filtered(x: Tensor, gain: float) -> Tensor:
    """[1, 3, 3, 1] / 8 along both axes, each pass 3 pixels shorter."""
    height, width = x.shape[-2:]
    x = sum(gain * tap * x[..., i : i + height - 3, :] for i, tap in enumerate(LINE))  # pyright: ignore
    return sum(gain * tap * x[..., :, i : i + width - 3] for i, tap in enumerate(LINE))  # pyright: ignore


def zeros_between(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return (
        torch.stack((x, torch.zeros_like(x)), -1).reshape(n, c, h, 2 * w).repeat_interleave(2, dim=2)
        * torch.tensor([1.0, 0.0], dtype=x.dtype).repeat(h)[:, None]
    )


def double(image: Tensor) -> Tensor:
    return filtered(pad(zeros_between(image), (2, 1, 2, 1)), gain=2.0)


def modulated(x: Tensor, w: Tensor, weights: Weights, name: str, *, up: bool, demodulate: bool) -> Tensor:
    """Karras et al. 2020, Eqs. 1 and 3: every image has kernels of its own."""
    styles, kernel = dense(w, weights, f"{name}.affine"), weights[f"{name}.weight"]
    images = []
    for row, style in zip(x.split(1), styles, strict=True):
        own = style[None, :, None, None] * kernel
        if demodulate:
            own = own / ((own**2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        else:
            own = own / math.sqrt(kernel[0].numel())
        if up:  # a convolution, where all else is a correlation
            row = filtered(pad(zeros_between(row), (3, 2, 3, 2)), gain=2.0)
            images.append(conv2d(row, own.flip(2, 3)))
        else:
            images.append(conv2d(row, own, padding=kernel.shape[-1] // 2))
    return torch.cat(images)


def generator(
    z: Tensor,
    labels: Tensor | None,
    weights: Weights,
    noise: list[Tensor],
    num_layers: int,
    second: tuple | None = None,
) -> Tensor:
    """z `[N, L]`, a noise map `[N, 1, H, W]` per layer, and second latents with the layer from which they count."""

    def styled(z: Tensor) -> Tensor:
        x = unit(z)
        if labels is not None:
            table = weights["class_embedding"]
            x = torch.cat((x, unit(table[labels] / math.sqrt(len(table)) + weights["class_bias"])), dim=1)
        return mapping(x, weights, "mapping", num_layers)

    w = [styled(z)] * (len(noise) + 1)
    if second is not None:
        z2, cutoff = second
        other = styled(z2)
        w = [torch.where((layer < cutoff)[:, None], one, other) for layer, one in enumerate(w)]
    x, image, layer = weights["layers.constant"][None].repeat(len(z), 1, 1, 1), None, 0
    for block in range((len(noise) + 1) // 2):
        for index in range(2 if block else 1):
            name = f"layers.{block}.convolutions.{index}"
            x = modulated(x, w[layer], weights, f"{name}.convolution", up=block > 0 and index == 0, demodulate=True)
            x = x + weights[f"{name}.strength"] * noise[layer]
            x = leaky(x + weights[f"{name}.bias"][None, :, None, None])
            layer += 1
        share = modulated(x, w[layer], weights, f"layers.{block}.to_image", up=False, demodulate=False)
        share = share + weights[f"layers.{block}.image_bias"][None, :, None, None]
        image = share if image is None else double(image) + share
    assert image is not None
    return image


def convolved(x: Tensor, weights: Weights, name: str, *, down: bool = False) -> Tensor:
    kernel = weights[f"{name}.weight"]
    kernel = kernel / math.sqrt(kernel[0].numel())
    if down:
        border = 2 if kernel.shape[-1] == 3 else 1
        x = filtered(pad(x, (border,) * 4), gain=1.0)
        y = conv2d(x, kernel)[:, :, ::2, ::2]
    else:
        y = conv2d(pad(x, (kernel.shape[-1] // 2,) * 4), kernel)
    return y + weights[f"{name}.bias"][None, :, None, None] if f"{name}.bias" in weights else y


def discriminator(
    x: Tensor, labels: Tensor | None, weights: Weights, num_blocks: int, group: int, num_layers: int
) -> Tensor:
    """Images `[N, C, H, W]` to logits `[N]`; rows i, i + N / group, ... are a group."""
    x = leaky(convolved(x, weights, "layers.0"))
    for block in range(1, num_blocks + 1):
        y = leaky(convolved(x, weights, f"layers.{block}.first"))
        y = leaky(convolved(y, weights, f"layers.{block}.second", down=True))
        x = (y + convolved(x, weights, f"layers.{block}.shortcut", down=True)) / math.sqrt(2.0)
    groups = len(x) // group
    spread = [x[row::groups].var(dim=0, correction=0).add(1e-8).sqrt().mean() for row in range(groups)]
    channel = torch.stack(spread).repeat(group)[:, None, None, None].expand(-1, 1, *x.shape[2:])
    x = leaky(convolved(torch.cat((x, channel), dim=1), weights, f"layers.{num_blocks + 2}"))
    x = leaky(dense(x.flatten(1), weights, f"layers.{num_blocks + 4}"))
    logits = dense(x, weights, "head.logit")
    if labels is None:
        return logits[:, 0]
    table = weights["head.embedding.weight"]
    directions = unit(table[labels] / math.sqrt(len(table)) + weights["head.class_bias"])
    directions = mapping(directions, weights, "head.mapping", num_layers)
    return (logits * directions).sum(dim=1) / math.sqrt(logits.shape[1])
