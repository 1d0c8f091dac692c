"""A pair of plain transformers after GAT (Hyun et al. 2025, "Scalable GANs with Transformers", section 3).

width = 384, depth = 12, heads = 6, patch = 2 on 4x32x32 latents is GAT-S/2; B, L and XL are 768, 12, 12; 1024, 24, 16;
and 1152, 28, 16. The image is cut into patches, one token each. G modulates its tokens by w, which a mapping network
makes of z and the class; D adds a class token, from which its head makes the logit.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from ganscale.config.architectures import TransformerDiscriminator as DiscriminatorSettings
from ganscale.config.architectures import TransformerGenerator as GeneratorSettings
from ganscale.models.base import Discriminator, Generator, Head
from ganscale.models.geometry import Geometry
from ganscale.models.layers import Chain, unit_power, upcast

MAPPING_RATE = 0.01
"""Learning rate of mapping networks relative to that of the other layers (Karras et al. 2019, appendix C)."""
GAIN = 0.1
"""Of the modulation's initial weights in G, and initial scale of D's residual branches."""


_rms = partial(unit_power, eps=1e-6)


def _linear(before: int, after: int, gain: float = 1.0) -> nn.Linear:
    layer = nn.Linear(before, after)
    nn.init.xavier_uniform_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _angles(size: int, count: int, base: float) -> Tensor:
    """Position times base^(-i / count), i from 0: `[size, count]` in float64."""
    positions = torch.arange(size, dtype=torch.float64)
    return torch.outer(positions, base ** (-torch.arange(count, dtype=torch.float64) / count))


def _over_grid(first: Tensor, second: Tensor, height: int, width: int) -> Tensor:
    """Two tables `[height, k]` and `[width, k]` side by side for each cell of a grid: `[height * width, 2 k]`."""
    grid = (first[:, None].expand(-1, width, -1), second[None].expand(height, -1, -1))
    return torch.cat(grid, dim=2).flatten(0, 1)


def _positions(height: int, width: int, channels: int) -> Tensor:
    """Fixed sines and cosines of column and row (Vaswani et al. 2017, section 3.5): `[height * width, channels]`."""
    tables = [_angles(size, channels // 4, 10_000.0) for size in (height, width)]
    rows, columns = (torch.cat((table.sin(), table.cos()), dim=1) for table in tables)
    return _over_grid(rows, columns, height, width).roll(channels // 2, dims=1).float()


class ScaledLinear(nn.Module):
    """A linear layer whose learning rate is `MAPPING_RATE` times the network's (Karras et al. 2018, section 4.1).

    Args:
        before: numbers of an input.
        after: numbers of an output.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(after, before))
        self.bias = nn.Parameter(torch.zeros(after))
        nn.init.xavier_uniform_(self.weight, 1.0 / MAPPING_RATE)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, before]` to `[N, after]`."""
        return linear(x, self.weight * MAPPING_RATE, self.bias * MAPPING_RATE)


class Rotation(nn.Module):
    """Rotary position embedding on a grid (Su et al. 2021): half the channels turn by the row, half by the column.

    Args:
        height: of the grid.
        width: of the grid.
        channels: of a head, a multiple of 4.
    """

    cosine: Tensor
    sine: Tensor

    def __init__(self, height: int, width: int, channels: int) -> None:
        super().__init__()
        tables = [_angles(size, channels // 4, 10_000.0).repeat_interleave(2, dim=1) for size in (height, width)]
        angles = _over_grid(tables[0], tables[1], height, width)
        self.register_buffer("cosine", angles.cos().float(), persistent=False)
        self.register_buffer("sine", angles.sin().float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn the last tokens of `[N, heads, tokens, channels]`; tokens before those of the grid stay."""
        first, x = x.split((x.shape[2] - len(self.sine), len(self.sine)), dim=2)
        turned = torch.stack((-x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)
        return torch.cat((first, x * self.cosine.to(x.dtype) + turned * self.sine.to(x.dtype)), dim=2)


class Attention(nn.Module):
    """Multi-head self-attention with normalized queries and keys (Henry et al. 2020) and rotary positions.

    Args:
        channels: of a token.
        heads: divides `channels`.
        rotation: of queries and keys.

    Attributes:
        written_out: whether attention is written out, for second derivatives: torch's fused kernels have none.
    """

    written_out = False

    def __init__(self, channels: int, heads: int, rotation: Rotation) -> None:
        super().__init__()
        self.heads, self.rotation = heads, rotation
        self.qkv, self.out = _linear(channels, 3 * channels), _linear(channels, channels)
        self.query_scale = nn.Parameter(torch.ones(channels // heads))
        self.key_scale = nn.Parameter(torch.ones(channels // heads))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, tokens, channels]` to the same shape."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query = self.rotation(_rms(query) * self.query_scale).to(value.dtype)
        key = self.rotation(_rms(key) * self.key_scale).to(value.dtype)
        if self.written_out:
            weights = torch.softmax(query @ key.transpose(2, 3) * query.shape[3] ** -0.5, dim=3)
            mixed = weights.to(value.dtype) @ value
        else:
            mixed = scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).flatten(2))


class GatedMLP(nn.Module):
    """SwiGLU: W3 (silu(W1 x) * W2 x) (Shazeer 2020, Eq. 6).

    Args:
        channels: of a token.
        ratio: times that a block with two weights would be wider inside; this one has three and 2/3 of that width.
    """

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        inside = int(2 / 3 * int(channels * ratio))
        self.up, self.down = _linear(channels, 2 * inside), _linear(inside, channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, tokens, channels]` to the same shape."""
        gate, content = self.up(x).chunk(2, dim=2)
        return self.down(silu(gate) * content)


class ModulatedBlock(nn.Module):
    """x + g1 Attention((1 + s1) norm(x)), then x + g2 MLP((1 + s2) norm(x)); w makes gates g and scales s.

    Adaptive norms after Peebles and Xie (2023, section 3.2, adaLN), here of root mean squares and without shifts.

    Args:
        settings: of the architecture.
        rotation: of the attention.
    """

    takes_labels = True  # the chain hands w on

    def __init__(self, settings: GeneratorSettings, rotation: Rotation) -> None:
        super().__init__()
        self.attention = Attention(settings.width, settings.heads, rotation)
        self.mlp = GatedMLP(settings.width, settings.mlp_ratio)
        self.modulation = _linear(settings.width, 4 * settings.width, GAIN)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """Tokens `[N, tokens, channels]` and w `[N, channels]` to tokens."""
        scale_1, gate_1, scale_2, gate_2 = self.modulation(silu(w))[:, None].chunk(4, dim=2)
        x = x + gate_1 * self.attention(_rms(x) * (1.0 + scale_1))
        return x + gate_2 * self.mlp(_rms(x) * (1.0 + scale_2))


class Block(nn.Module):
    """x + a Attention(norm(x)), then x + b MLP(norm(x)), with learned scales a, b per channel (Touvron et al. 2021).

    Args:
        settings: of the architecture.
        rotation: of the attention.
    """

    def __init__(self, settings: DiscriminatorSettings, rotation: Rotation) -> None:
        super().__init__()
        self.attention = Attention(settings.width, settings.heads, rotation)
        self.mlp = GatedMLP(settings.width, settings.mlp_ratio)
        self.norm_1, self.norm_2 = (nn.Parameter(torch.ones(settings.width)) for _ in range(2))
        self.scale_1, self.scale_2 = (nn.Parameter(torch.full((settings.width,), GAIN)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """`[N, tokens, channels]` to the same shape."""
        x = x + self.scale_1 * self.attention(_rms(x) * self.norm_1)
        return x + self.scale_2 * self.mlp(_rms(x) * self.norm_2)


class ToImage(nn.Module):
    """Tokens to an image: a norm modulated by w, a linear layer, and the patches put in their places.

    Args:
        settings: of the architecture.
        shape: `(C, H, W)` of the image.
    """

    def __init__(self, settings: GeneratorSettings, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.patch, (self.channels, self.height, _) = settings.patch, shape
        self.modulation = _linear(settings.width, settings.width, GAIN)
        self.out = _linear(settings.width, settings.patch**2 * self.channels)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """`[N, tokens, channels]` and w `[N, channels]` to `[N, C, H, W]`."""
        patches = self.out(_rms(x) * (1.0 + self.modulation(silu(w))[:, None]))
        grid = patches.unflatten(2, (self.patch, self.patch, self.channels))
        grid = grid.unflatten(1, (self.height // self.patch, -1))  # row, column, row and column inside, channel
        return grid.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


class TransformerGenerator(Generator):
    """z `[N, latent_dim]` to images `[N, C, H, W]`, the sum of what `levels` groups of blocks make.

    z has an effect by its direction alone: it is divided by its root mean square, as the class embedding is.

    Args:
        settings: of the architecture.
        geometry: of the images, and length of z.
    """

    normalizes_z = True
    positions: Tensor

    def __init__(self, settings: GeneratorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        if self.num_classes:
            nn.init.normal_(self.class_embedding, std=0.02)
        self.latent_dim = geometry.latent_dim
        _, height, width = (side // settings.patch for side in geometry.shape)
        self.mapping = _mapping(self.input_dim, settings.width)
        self.register_buffer("positions", _positions(height, width, settings.width), persistent=False)
        rotation = Rotation(height, width, settings.width // settings.heads)
        self.num_levels = settings.levels
        for level in range(settings.levels):
            depth = settings.depth // settings.levels
            self.add_module(f"blocks_{level}", Chain(*(ModulatedBlock(settings, rotation) for _ in range(depth))))
            self.add_module(f"image_{level}", ToImage(settings, geometry.shape))
        self._attentions = [module for module in self.modules() if isinstance(module, Attention)]

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate one image per row of `z` `[N, latent_dim]`, of classes int64 `[N]` or None."""
        x = self.input(z, labels)
        parts = x.split((self.latent_dim, x.shape[1] - self.latent_dim), dim=1) if self.num_classes else (x,)
        w = self.mapping(torch.cat([unit_power(part) for part in parts], dim=1))
        for attention in self._attentions:  # path lengths differentiate twice
            attention.written_out = z.requires_grad and torch.is_grad_enabled()
        x, images = self.positions.expand(z.shape[0], -1, -1), []
        for level in range(self.num_levels):
            x = self.get_submodule(f"blocks_{level}")(x, w)
            images.append(self.get_submodule(f"image_{level}")(x, w))
        return torch.stack(images).sum(0)


def _mapping(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(ScaledLinear(before, after), nn.SiLU(), ScaledLinear(after, after))


class ToTokens(nn.Module):
    """A class token, then a token per patch of the image: its pixels through a linear layer, and its position.

    Args:
        settings: of the architecture.
        shape: `(C, H, W)` of D's input.
    """

    positions: Tensor

    def __init__(self, settings: DiscriminatorSettings, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, *sides = shape
        self.cut = nn.Conv2d(channels, settings.width, settings.patch, stride=settings.patch)
        nn.init.xavier_uniform_(self.cut.weight.flatten(1))
        nn.init.zeros_(self.cut.bias)  # pyright: ignore[reportArgumentType]
        self.class_token = nn.Parameter(0.02 * torch.randn(settings.width))
        height, width = (side // settings.patch for side in sides)
        self.register_buffer("positions", _positions(height, width, settings.width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Images `[N, C, H, W]` to tokens `[N, 1 + patches, channels]`."""
        patches = self.cut(x).flatten(2).transpose(1, 2) + self.positions
        return torch.cat((self.class_token.expand(len(x), 1, -1), patches), dim=1)


class ClassHead(Head):
    """<e(y), W h + b>: GAT's only logit, e an embedding through a mapping network.

    Args:
        num_features: of h.
        inside: numbers of e(y).
        num_classes: of the labels.
    """

    def __init__(self, num_features: int, inside: int, num_classes: int) -> None:
        super().__init__(num_features, "none", 0)
        self.logit = _linear(num_features, inside)
        self.embedding = nn.Embedding(num_classes, inside)
        nn.init.normal_(self.embedding.weight, std=0.02)
        self.mapping = _mapping(inside, inside)

    def forward(self, features: Tensor, labels: Tensor | None = None) -> Tensor:
        """As of `Head`."""
        return (upcast(self.mapping(self.embed_class(labels))) * upcast(self.logit(features))).sum(1)


class TransformerDiscriminator(Discriminator):
    """Images `[N, C, H, W]` to logits `[N]`: blocks on patches and a class token, from which the head reads.

    Args:
        settings: of the architecture.
        geometry: of D's input.
    """

    def __init__(self, settings: DiscriminatorSettings, geometry: Geometry) -> None:
        super().__init__(settings, geometry)
        _, height, width = (side // settings.patch for side in geometry.shape)
        rotation = Rotation(height, width, settings.width // settings.heads)
        blocks = [Block(settings, rotation) for _ in range(settings.depth)]
        self.layers = Chain(ToTokens(settings, geometry.shape), *blocks)
        self.norm = nn.Parameter(torch.ones(settings.width))
        if settings.conditioning == "projection":
            self.head = ClassHead(settings.width, settings.head_width, self.num_classes)
        else:
            self.head = Head(settings.width, settings.conditioning, self.num_classes)
            nn.init.xavier_uniform_(self.head.logit.weight)
            nn.init.zeros_(self.head.logit.bias)
        self._attentions = [block.attention for block in blocks]

    def features(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        """The class token after all blocks, normalized."""
        # A penalty differentiates with respect to x, and then its gradient with respect to the weights.
        twice = self.layers.recomputes or (x.requires_grad and self.norm.requires_grad and torch.is_grad_enabled())
        for attention in self._attentions:
            attention.written_out = twice
        return _rms(self.layers(x)[:, 0]) * self.norm
