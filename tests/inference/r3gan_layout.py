"""Networks in the layout of R3GAN's published code, written from the paper and the names in its pickles.

Huang et al. 2024, section 4 and appendix: a learned basis, inverted bottlenecks with grouped 3x3 convolutions and
biased activations, resampling by the filter [1, 3, 3, 1]. Names and shapes of tensors are github.com/brownvc/R3GAN's.
"""

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu, pad


def _weight(*shape: int) -> nn.Parameter:
    """Weights that keep the signal's power, so that errors show."""
    fan_in = max(1, torch.Size(shape[1:]).numel())
    return nn.Parameter(torch.randn(*shape) / fan_in**0.5)


class Convolution(nn.Module):
    def __init__(self, before: int, after: int, kernel: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.Layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)
        self.Layer.weight = _weight(*self.Layer.weight.shape)

    def forward(self, x: Tensor) -> Tensor:
        return self.Layer(x)


class BiasedActivation(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.Bias = nn.Parameter(torch.randn(channels))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x + self.Bias[:, None, None], 0.2)


class ResidualBlock(nn.Module):
    def __init__(self, channels: int, groups: int, expansion: int) -> None:
        super().__init__()
        inside = channels * expansion
        self.LinearLayer1 = Convolution(channels, inside)
        self.LinearLayer2 = Convolution(inside, inside, 3, groups)
        self.LinearLayer3 = Convolution(inside, channels)
        self.NonLinearity1 = BiasedActivation(inside)
        self.NonLinearity2 = BiasedActivation(inside)

    def forward(self, x: Tensor) -> Tensor:
        y = self.NonLinearity1(self.LinearLayer1(x))
        return x + self.LinearLayer3(self.NonLinearity2(self.LinearLayer2(y)))


class Resampler(nn.Module):
    """Zeros between the pixels and the filter, or the filter and every second pixel; black beyond the border."""

    def __init__(self, up: bool, line: Sequence[float] = (1.0, 3.0, 3.0, 1.0)) -> None:
        super().__init__()
        kernel = torch.tensor(line)
        kernel = torch.outer(kernel, kernel)
        self.register_buffer("Kernel", kernel / kernel.sum())
        self.up = up

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.Kernel.expand(x.shape[1], 1, -1, -1)  # pyright: ignore[reportCallIssue]
        if not self.up:
            return conv2d(pad(x, (1, 1, 1, 1)), kernel, groups=x.shape[1])[:, :, ::2, ::2]
        wide = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        wide[:, :, ::2, ::2] = x
        return conv2d(pad(wide, (2, 1, 2, 1)), 4.0 * kernel, groups=x.shape[1])


class UpsampleLayer(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.Resampler = Resampler(up=True)
        if before != after:
            self.LinearLayer = Convolution(before, after)

    def forward(self, x: Tensor) -> Tensor:
        return self.Resampler(self.LinearLayer(x) if hasattr(self, "LinearLayer") else x)


class DownsampleLayer(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.Resampler = Resampler(up=False)
        if before != after:
            self.LinearLayer = Convolution(before, after)

    def forward(self, x: Tensor) -> Tensor:
        x = self.Resampler(x)
        return self.LinearLayer(x) if hasattr(self, "LinearLayer") else x


class GenerativeBasis(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.Basis = nn.Parameter(torch.randn(after, 4, 4))
        self.LinearLayer = nn.Linear(before, after, bias=False)
        self.LinearLayer.weight = _weight(after, before)

    def forward(self, x: Tensor) -> Tensor:
        return self.Basis * self.LinearLayer(x)[:, :, None, None]


class DiscriminativeBasis(nn.Module):
    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.Basis = nn.Conv2d(before, before, 4, groups=before, bias=False)
        self.LinearLayer = nn.Linear(before, after, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.LinearLayer(self.Basis(x).flatten(1))


class Stage(nn.Module):
    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.Layers = nn.ModuleList(layers)
        self.DataType = torch.float32

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.Layers:
            x = layer(x)
        return x


class Network(nn.Module):
    """What both networks share: an embedding of the class."""

    def __init__(self, num_classes: int, class_dim: int) -> None:
        super().__init__()
        if num_classes:
            self.EmbeddingLayer = nn.Linear(num_classes, class_dim, bias=False)


class GeneratorModel(Network):
    def __init__(self, latent_dim: int, widths: Sequence[int], blocks: Sequence[int], **options: int) -> None:
        classes, class_dim = options.get("num_classes", 0), options.get("class_dim", 0)
        super().__init__(classes, class_dim)
        expansion, group = options.get("expansion", 2), options["group_size"]
        stages, before = [], latent_dim + class_dim
        for index, (width, number) in enumerate(zip(widths, blocks, strict=True)):
            first = UpsampleLayer(before, width) if index else GenerativeBasis(before, width)
            inside = width * expansion // group
            stages.append(Stage([first, *(ResidualBlock(width, inside, expansion) for _ in range(number))]))
            before = width
        self.MainLayers = nn.ModuleList(stages)
        self.AggregationLayer = Convolution(before, 3)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        if hasattr(self, "EmbeddingLayer"):
            x = torch.cat((x, self.EmbeddingLayer(y)), 1)
        for stage in self.MainLayers:
            x = stage(x)
        return self.AggregationLayer(x)


class DiscriminatorModel(Network):
    def __init__(self, widths: Sequence[int], blocks: Sequence[int], **options: int) -> None:
        classes, class_dim = options.get("num_classes", 0), options.get("class_dim", 0)
        super().__init__(classes, class_dim)
        expansion, group = options.get("expansion", 2), options["group_size"]
        self.ExtractionLayer = Convolution(3, widths[0])
        stages = []
        for index, (width, number) in enumerate(zip(widths, blocks, strict=True)):
            is_last = index == len(widths) - 1
            last = DiscriminativeBasis(width, class_dim or 1) if is_last else DownsampleLayer(width, widths[index + 1])
            inside = width * expansion // group
            stages.append(Stage([*(ResidualBlock(width, inside, expansion) for _ in range(number)), last]))
        self.MainLayers = nn.ModuleList(stages)

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        x = self.ExtractionLayer(x)
        for stage in self.MainLayers:
            x = stage(x)
        return (x * self.EmbeddingLayer(y)).sum(1) if hasattr(self, "EmbeddingLayer") else x.flatten()


class Wrapper(nn.Module):
    """The class of `training.networks` around a network."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.Model = model

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        return self.Model(x, y)


def networks(widths: Sequence[int], blocks: Sequence[int], **options: int) -> dict[str, Wrapper]:
    """G, D and G_ema with random weights.

    Args:
        widths: channels from the smallest map (4 pixels) to the image.
        blocks: per map.
        options: latent_dim, group_size, expansion, num_classes; embeddings are as long as in R3GAN's presets.
    """
    latent_dim, classes = options.pop("latent_dim", 8), options.get("num_classes", 0)
    of_g = options | ({"class_dim": latent_dim} if classes else {})
    of_d = options | ({"class_dim": widths[0]} if classes else {})
    return {
        "G": Wrapper(GeneratorModel(latent_dim, widths, blocks, **of_g)).requires_grad_(False),
        "D": Wrapper(DiscriminatorModel(widths[::-1], blocks[::-1], **of_d)).requires_grad_(False),
        "G_ema": Wrapper(GeneratorModel(latent_dim, widths, blocks, **of_g)).requires_grad_(False),
    }


def write(path: Path, content: dict[str, Any]) -> None:
    """Pickle as R3GAN's training loop does, under module names that cannot be imported here.

    Args:
        path: of the file.
        content: networks and other values.
    """
    module, places = sys.modules[__name__], {Wrapper: "training.networks"}
    classes = [each for each in vars(module).values() if isinstance(each, type) and each.__module__ == __name__]
    foreign = {name: ModuleType(name) for name in ("training", "training.networks", "R3GAN", "R3GAN.Networks")}
    try:
        sys.modules.update(foreign)
        for each in classes:
            each.__module__ = places.get(each, "R3GAN.Networks")
            setattr(foreign[each.__module__], each.__name__, each)
        path.write_bytes(pickle.dumps(content))
    finally:
        for each in classes:
            each.__module__ = __name__
        for name in foreign:
            del sys.modules[name]
