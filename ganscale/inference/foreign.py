"""Published networks of other code as networks of this package: pickles of R3GAN (github.com/brownvc) and StyleGAN2.

Only tensors are read from a pickle (`ganscale.storage.pickles`). The networks compute the same function in float32;
R3GAN's own code computes some stages in bfloat16, which differs by rounding.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.config import DISCRIMINATORS, GENERATORS, ConfigError
from ganscale.config.networks import named
from ganscale.inference import foreign_stylegan2 as stylegan2
from ganscale.inference.foreign_stylegan2 import Layout
from ganscale.models import Geometry
from ganscale.storage import pickles
from ganscale.storage.pickles import PickleError
from ganscale.storage.store import Place, size_of

SUFFIXES = (".pkl", ".pickle")
EMBEDDING = "Model.EmbeddingLayer.weight"
_REMEDY = "use a network-snapshot of R3GAN's or StyleGAN2-ADA's train.py, or one of their published pickles, downloaded"


@dataclass(frozen=True)
class ForeignNetworks:
    """Networks of this package with the weights of a file.

    Attributes:
        generator: with the weights that were trained.
        discriminator: with its own.
        ema: the generator's moving average.
        settings: of the generator, as in `model.generator`.
        geometry: shape of an image, length of z, number of classes.
        images: that training had seen.
        sha256: of the file.
    """

    generator: nn.Module
    discriminator: nn.Module
    ema: nn.Module
    settings: dict[str, Any]
    geometry: Geometry
    images: int
    sha256: str


def read_foreign(path: Place, *, key: str = "path") -> ForeignNetworks:
    """Read the networks of a pickle of R3GAN or StyleGAN2.

    Args:
        path: of the file.
        key: the setting that names it, for messages.

    Raises:
        ConfigError: it is damaged, another pickle, or has networks that the architecture r3gan or stylegan2 cannot be.
    """
    try:
        if size_of(path) > pickles.MAX_BYTES:
            raise PickleError(f"it is larger than {pickles.MAX_BYTES:,} bytes")
        content = path.read_bytes()
        root = pickles.parse(content)
        root = root.items if isinstance(root, pickles.Made) else root
        if not isinstance(root, dict) or not {"G", "D", "G_ema"} <= root.keys():
            raise PickleError("it does not hold G, D and G_ema")
        weights = {name: pickles.module_tensors(root[name], most=len(content)) for name in ("G", "D", "G_ema")}
        styles = stylegan2.is_stylegan2(weights["G"])
        if not styles and any(not name.startswith("Model.") for each in weights.values() for name in each):
            raise PickleError("its networks are neither R3GAN's nor StyleGAN2's")
        of_g, of_ema = (
            stylegan2.generator(weights[name], root[name]) if styles else _generator(weights[name])
            for name in ("G", "G_ema")
        )
        of_d = stylegan2.discriminator(weights["D"], root["D"]) if styles else _discriminator(weights["D"])
        if of_g[:2] != of_ema[:2]:
            raise PickleError("its generator and the average differ in shape")
        geometry = of_g.geometry
        if (of_d.geometry.shape, of_d.geometry.num_classes) != (geometry.shape, geometry.num_classes):
            raise PickleError("its generator and discriminator do not fit each other")
        generator, ema = (_build("generator", each) for each in (of_g, of_ema))
        discriminator = _build("discriminator", of_d)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        raise ConfigError(reason, key=key, value=str(path), remedy="name a file that can be read") from None
    except (PickleError, KeyError, IndexError, ValueError, RuntimeError) as error:
        reason = f"has no {error}" if isinstance(error, KeyError) else f"cannot be read: {str(error)[:300]}"
        raise ConfigError(f"the pickle {reason}", key=key, value=str(path), remedy=_REMEDY) from None
    images = root.get("cur_nimg")
    sha256 = hashlib.sha256(content).hexdigest()
    seen = images if type(images) is int and images >= 0 else 0
    return ForeignNetworks(generator, discriminator, ema, of_g.settings, geometry, seen, sha256)


def _blocks(weights: Mapping[str, Tensor], prefix: str, first: int) -> list[dict[str, Tensor]]:
    """Tensors of the residual blocks of a stage, by their names in `models.r3gan.Bottleneck`."""
    names = {
        "layers.0.weight": "LinearLayer1.Layer.weight",
        "layers.0.bias": "NonLinearity1.Bias",
        "layers.2.weight": "LinearLayer2.Layer.weight",
        "layers.2.bias": "NonLinearity2.Bias",
        "layers.4.weight": "LinearLayer3.Layer.weight",
    }
    blocks = []
    while f"{prefix}.{first + len(blocks)}.LinearLayer1.Layer.weight" in weights:
        place = f"{prefix}.{first + len(blocks)}"
        blocks.append({own: weights[f"{place}.{name}"] for own, name in names.items()})
    return blocks


def _num_stages(weights: Mapping[str, Tensor]) -> int:
    line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0
    for name, tensor in weights.items():
        if name.endswith(".Resampler.Kernel") and not torch.equal(tensor.float(), torch.outer(line, line)):
            raise PickleError("its filter for resampling is not [1, 2, 1]")
    numbers = {int(name.split(".")[2]) for name in weights if name.startswith("Model.MainLayers.")}
    if not numbers or numbers != set(range(len(numbers))) or len(numbers) > 12:
        raise PickleError("its stages are not numbered from 0")
    return len(numbers)


def _check_all_used(weights: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    used = {id(tensor) for tensor in own.values()}
    rest = [name for name, tensor in weights.items() if id(tensor) not in used and not name.endswith(".Kernel")]
    if set(rest) - {EMBEDDING}:
        raise PickleError(f"it has further tensors: {', '.join(rest[:5])}")


def _settings(stages: list[list[dict[str, Tensor]]]) -> dict[str, Any]:
    """Settings of the architecture from the blocks of each stage, largest map first."""
    depths = {len(blocks) for blocks in stages}
    if len(depths) != 1 or 0 in depths:
        raise PickleError("its stages have different numbers of blocks")
    shapes = [(each["layers.0.weight"].shape, each["layers.2.weight"].shape) for blocks in stages for each in blocks]
    if any(len(first) != 4 or len(grouped) != 4 or first[1] == 0 for first, grouped in shapes):
        raise PickleError("its blocks are not made of 2-D convolutions")
    widths = [blocks[0]["layers.0.weight"].shape[1] for blocks in stages]
    expected = [min(max(widths), widths[0] * 2**level) for level in range(len(widths))]
    if widths != expected:
        raise PickleError(f"its widths {widths} do not double from the image on up to a bound")
    expansions, groups = {f[0] / f[1] for f, _ in shapes}, {tuple(grouped[1:]) for _, grouped in shapes}
    if len(expansions) != 1 or len(groups) != 1 or min(expansions) % 1 or next(iter(groups))[1:] != (3, 3):
        raise PickleError("its blocks differ in expansion or group size, or have kernels other than 3 x 3")
    return {
        "name": "r3gan",
        "width": widths[0],
        "max_width": max(widths),
        "depth": depths.pop(),
        "expansion": int(expansions.pop()),
        "group_size": groups.pop()[0],
    }


def _build(side: str, layout: Layout) -> nn.Module:
    settings, geometry, weights = layout
    name = settings["name"]
    entry = {"generator": GENERATORS, "discriminator": DISCRIMINATORS}[side][name]
    with torch.random.fork_rng(devices=[]):
        network: nn.Module = entry.make(named(entry.settings, name).model_validate(settings), geometry)
    missing = network.state_dict().keys() ^ weights.keys()
    if missing:
        raise PickleError(f"its {side} and the architecture {name} differ in {', '.join(sorted(missing))}")
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    return network


def _generator(weights: Mapping[str, Tensor]) -> Layout:
    stages = _num_stages(weights)
    own: dict[str, Tensor] = {
        "basis": weights["Model.MainLayers.0.Layers.0.Basis"],
        "project.weight": weights["Model.MainLayers.0.Layers.0.LinearLayer.weight"],
    }
    blocks, index = [], 0
    for stage in range(stages):
        prefix = f"Model.MainLayers.{stage}.Layers"
        if stage:
            if f"{prefix}.0.LinearLayer.Layer.weight" in weights:
                own[f"layers.{index}.weight"] = weights[f"{prefix}.0.LinearLayer.Layer.weight"]
                index += 1
            index += 1  # doubling has no weights
        blocks.append(_blocks(weights, prefix, 1))
        for block in blocks[-1]:
            own |= {f"layers.{index}.{name}": tensor for name, tensor in block.items()}
            index += 1
    own[f"layers.{index}.weight"] = weights["Model.AggregationLayer.Layer.weight"]
    _check_all_used(weights, own)
    settings = _settings(blocks[::-1])
    latent_dim, num_classes = own["project.weight"].shape[1], 0
    if EMBEDDING in weights:
        own["class_embedding"] = weights[EMBEDDING].t()
        num_classes, class_dim = own["class_embedding"].shape
        latent_dim -= class_dim
        settings |= {"conditioning": "concat", "class_dim": class_dim}
    side = 4 * 2 ** (stages - 1)
    geometry = Geometry((own[f"layers.{index}.weight"].shape[0], side, side), latent_dim, num_classes)
    return Layout(settings, geometry, own)


def _discriminator(weights: Mapping[str, Tensor]) -> Layout:
    stages = _num_stages(weights)
    own: dict[str, Tensor] = {"layers.0.weight": weights["Model.ExtractionLayer.Layer.weight"]}
    blocks, index, place = [], 1, ""
    for stage in range(stages):
        prefix = f"Model.MainLayers.{stage}.Layers"
        blocks.append(_blocks(weights, prefix, 0))
        for block in blocks[-1]:
            own |= {f"layers.{index}.{name}": tensor for name, tensor in block.items()}
            index += 1
        place = f"{prefix}.{len(blocks[-1])}"
        if stage < stages - 1:
            index += 1  # halving has no weights
            if f"{place}.LinearLayer.Layer.weight" in weights:
                own[f"layers.{index}.weight"] = weights[f"{place}.LinearLayer.Layer.weight"]
                index += 1
        else:
            own[f"layers.{index}.weight"] = weights[f"{place}.Basis.weight"]
    settings, num_classes = _settings(blocks), 0
    own["head.logit.weight"] = weights[f"{place}.LinearLayer.weight"]
    _check_all_used(weights, own)
    if EMBEDDING in weights:
        own["head.embedding.weight"] = weights[EMBEDDING].t()
        num_classes, class_dim = own["head.embedding.weight"].shape
        settings |= {"conditioning": "bilinear", "class_dim": class_dim}
    side = 4 * 2 ** (stages - 1)
    shape = (own["layers.0.weight"].shape[1], side, side)
    return Layout(settings, Geometry(shape, 1, num_classes), own)
