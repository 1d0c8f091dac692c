"""Which layer of a network is which: names that do not change with the resolution, rows of classes, frozen blocks."""

import copy
import math
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.models.base import Generator, Head
from ganscale.models.layers import BatchNorm, Chain, ConditionalNorm
from ganscale.models.layers.spectral import SpectralNorm
from ganscale.models.stylegan2 import StyleBlock


def chains(network: nn.Module) -> dict[str, Chain]:
    """The chains of layers that a network holds directly, by name.

    Args:
        network: a generator or a discriminator.
    """
    return {name: module for name, module in network.named_children() if isinstance(module, Chain)}


def output_sides(network: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """Longer side of the map that each layer of the chains gives, by the layer's name; nothing is computed.

    Args:
        network: stays as it is.
        shape: of one input: `(latent_dim,)` of a generator, that of an example of a discriminator.

    Returns:
        Only layers whose output is `[N, C, H, W]`; empty if the network cannot be run without numbers.
    """
    found: dict[str, int] = {}

    def watch(shadow: nn.Module) -> None:
        for chain_name, chain in chains(shadow).items():
            for name, layer in chain.named_children():
                layer.register_forward_hook(_record(f"{chain_name}.{name}", found))

    _run_on_meta(network, shape, watch)
    return found


def flat_maps(network: nn.Module, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes `[C, H, W]` of the maps that matrices and vectors make or read flat, by the name in `state_dict`.

    Such entries may have one shape for maps of different shapes, and their numbers another order.

    Args:
        network: a generator or a discriminator.
        shape: of one input.
    """
    is_generator, inner = len(shape) == 1, []

    def watch(shadow: nn.Module) -> None:
        for chain in chains(shadow).values():
            chain.register_forward_hook(
                lambda _, inputs, output: inner.append(tuple((inputs[0] if is_generator else output).shape[1:]))
            )

    output = _run_on_meta(network, shape, watch)
    if output is None or not inner:
        return {}
    image = tuple(output.shape[1:]) if is_generator else shape
    between = inner[0 if is_generator else -1]
    # Chains of maps meet vectors outside, those of vectors meet the image inside.
    in_chains, wanted = (False, between) if len(between) == 3 else (True, image)
    return {
        name: wanted
        for name, tensor in network.state_dict().items()
        if (name.partition(".")[0] in chains(network)) == in_chains
        if len(wanted) == 3 and math.prod(wanted) in tensor.shape
    }


def _run_on_meta(network: nn.Module, shape: tuple[int, ...], watch: Callable[[nn.Module], None]) -> Tensor | None:
    """Run a copy without numbers, to which `watch` may add hooks; None if that fails."""
    shadow = copy.deepcopy(network).to("meta").eval()
    watch(shadow)
    dtype = next(shadow.parameters()).dtype
    labels = torch.zeros(2, dtype=torch.int64, device="meta")
    with torch.no_grad(), suppress(Exception):  # a network of the user's own may do anything
        return shadow(torch.empty(2, *shape, device="meta", dtype=dtype), labels)
    return None


def _record(name: str, found: dict[str, int]) -> Callable[[nn.Module, object, Any], None]:
    def hook(layer: nn.Module, inputs: object, output: Any) -> None:
        output = output[0] if isinstance(output, tuple) else output
        if output.dim() == 4:
            found[name] = max(output.shape[-2:])

    return hook


def layer_keys(network: nn.Module, shape: tuple[int, ...]) -> dict[str, str]:
    """A key for each entry of the state, equal for the same layer in networks for other resolutions.

    A layer of a chain is known by the side of its output, its kind and its number among those, not by its place in the
    chain, which changes where a resolution is added; the layer that touches the image is a kind of its own, unless
    every layer makes a share of the image.

    Args:
        network: a generator or a discriminator.
        shape: of one input.

    Returns:
        Key by name in `state_dict`.
    """
    sides = output_sides(network, shape)
    prefixes: dict[str, str] = {}
    for chain_name, chain in chains(network).items():
        numbers: Counter[str] = Counter()
        layers = [(name, layer) for name, layer in chain.named_children() if next(layer.parameters(), None) is not None]
        edge = layers[-1:] if len(shape) == 1 else layers[:1]
        at_image = {name for name, layer in edge if not isinstance(layer, StyleBlock)}
        for name, layer in layers:
            side = sides.get(f"{chain_name}.{name}")
            kind = type(layer).__name__.removeprefix("Parametrized")
            if side is not None:
                kind = f"{side} pixels.{'image' if name in at_image else kind}"
            prefixes[f"{chain_name}.{name}."] = f"{chain_name}.{kind}.{numbers[kind]}."
            numbers[kind] += 1
    keys = {}
    for name in network.state_dict():
        prefix = ".".join([*name.split(".")[:2], ""])
        keys[name] = prefixes[prefix] + name.removeprefix(prefix) if prefix in prefixes else name
    return keys


def class_rows(network: nn.Module) -> set[str]:
    """Names of the state's entries that have a row per class: embeddings, conditional norms, AC-GAN's classifier.

    Args:
        network: a generator or a discriminator; layers of the user's own are not known.
    """
    names = set()
    for prefix, module in network.named_modules():
        if isinstance(module, Generator) and hasattr(module, "class_embedding"):
            names.add("class_embedding")
        if isinstance(module, ConditionalNorm):
            names |= {f"{prefix}.weight", f"{prefix}.bias"}
        if isinstance(module, Head):
            for child in ("embedding", "classifier"):
                layer = module.get_submodule(child) if hasattr(module, child) else nn.Module()
                names |= {f"{prefix}.{child}.{name}" for name, _ in layer.named_parameters()}
    return names


def power_iterations(network: nn.Module) -> dict[str, SpectralNorm]:
    """The spectral norms of a network by their name, which begins those of `u` and `v` in the state.

    Args:
        network: a generator or a discriminator.
    """
    return {name: module for name, module in network.named_modules() if isinstance(module, SpectralNorm)}


def freeze(discriminator: nn.Module, num_blocks: int, shape: tuple[int, ...]) -> None:
    """Keep the weights of the blocks nearest the image (FreezeD, Mo et al. 2020, section 3).

    Their parameters get no gradient and no optimizer, and the running statistics of their batch norms and the power
    iterations of their spectral norms stay as they are. In training batch norm still normalizes by the batch's own
    statistics. A block is all layers whose outputs have one side; without maps, it begins with a layer of weights.

    Args:
        discriminator: changed in place.
        num_blocks: how many.
        shape: of one input.

    Raises:
        ValueError: it does not have so many.
    """
    sides = output_sides(discriminator, shape)
    blocks: list[list[nn.Module]] = []
    for name, chain in chains(discriminator).items():
        layers = [(sides.get(f"{name}.{index}"), layer) for index, layer in chain.named_children()]
        if any(side is not None for side, _ in layers):
            blocks += [[layer for _, layer in group] for _, group in groupby(layers, key=lambda pair: pair[0])]
        else:
            blocks += chain.blocks()[1:]
    if num_blocks > len(blocks):
        raise ValueError(f"D has {len(blocks)} blocks in a ganscale.models.layers.Chain")
    for layer in (layer for block in blocks[:num_blocks] for layer in block):
        layer.requires_grad_(False)
        for module in layer.modules():
            if isinstance(module, BatchNorm):
                module.frozen, module.update_statistics = True, False
