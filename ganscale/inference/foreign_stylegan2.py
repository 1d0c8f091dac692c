"""Names and shapes of StyleGAN2's pickles (github.com/NVlabs: stylegan2-ada-pytorch, and stylegan2 of stylegan3).

The original clamps activations at 256 where it computes in float16; here nothing is clamped.
"""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

from torch import Tensor

from ganscale.models import Geometry
from ganscale.storage import pickles
from ganscale.storage.pickles import PickleError

_MODULATED = ("weight", "affine.weight", "affine.bias")


class Layout(NamedTuple):
    """A network of this package.

    Attributes:
        settings: of the architecture.
        geometry: shape of an image, length of z (0 of a discriminator), number of classes.
        weights: by the names of the architecture's state.
    """

    settings: dict[str, Any]
    geometry: Geometry
    weights: dict[str, Tensor]


def is_stylegan2(weights: Mapping[str, Tensor]) -> bool:
    """Whether a generator's tensors are named as StyleGAN2's.

    Args:
        weights: parameters and buffers by name.
    """
    return "synthesis.b4.const" in weights


def generator(weights: Mapping[str, Tensor], module: Any) -> Layout:
    """The layout of a generator.

    Args:
        weights: parameters and buffers by name.
        module: the pickled module.

    Raises:
        PickleError: it is one that the architecture stylegan2 cannot be.
        KeyError: it lacks a tensor.
    """
    taken = _Taken(weights)
    sides, own = _sides(weights, "synthesis.b", "conv1.weight"), {}
    own["layers.constant"] = taken("synthesis.b4.const")
    widths = {}
    for block, side in enumerate(sides):
        place = f"synthesis.b{side}"
        for index, layer in enumerate(("conv0", "conv1") if block else ("conv1",)):
            target = f"layers.{block}.convolutions.{index}"
            own |= taken.layer(f"{place}.{layer}", f"{target}.convolution", _MODULATED)
            own[f"{target}.bias"] = taken(f"{place}.{layer}.bias")
            own[f"{target}.strength"] = taken(f"{place}.{layer}.noise_strength").reshape(1)
            own[f"{target}.constant"] = taken(f"{place}.{layer}.noise_const")
        own |= taken.layer(f"{place}.torgb", f"layers.{block}.to_image", _MODULATED)
        own[f"layers.{block}.image_bias"] = taken(f"{place}.torgb.bias")
        widths[side] = own[f"layers.{block}.to_image.weight"].shape[1]
    own["average.value"] = taken("mapping.w_avg")
    settings, num_layers = _channels(widths), _mapping(taken, own, "mapping.")
    latent_dim, num_classes = own["mapping.0.weight"].shape[1], 0
    if "mapping.embed.weight" in weights:
        own |= {"class_embedding": taken("mapping.embed.weight").t(), "class_bias": taken("mapping.embed.bias")}
        num_classes, class_dim = own["class_embedding"].shape
        latent_dim -= class_dim
        settings |= {"conditioning": "concat", "class_dim": class_dim}
    rate = _attribute(module, ("mapping", "fc0"), "bias_gain", 0.01)
    settings |= {"w_dim": own["average.value"].shape[0], "mapping_layers": num_layers, "mapping_rate": rate}
    colors = own["layers.0.to_image.weight"].shape[0]
    taken.check_rest()
    return Layout(settings, Geometry((colors, sides[-1], sides[-1]), latent_dim, num_classes), own)


def discriminator(weights: Mapping[str, Tensor], module: Any) -> Layout:
    """The layout of a discriminator. Arguments and errors: `generator`."""
    taken = _Taken(weights)
    sides, own, widths = _sides(weights, "b", "skip.weight")[::-1], {}, {4: weights["b4.fc.weight"].shape[0]}
    if f"b{sides[0]}.fromrgb.weight" not in weights or len(sides) < 2:
        raise PickleError("its discriminator is not residual")
    own |= taken.layer(f"b{sides[0]}.fromrgb", "layers.0")
    for block, side in enumerate(sides, 1):
        own |= taken.layer(f"b{side}.conv0", f"layers.{block}.first")
        own |= taken.layer(f"b{side}.conv1", f"layers.{block}.second")
        own |= taken.layer(f"b{side}.skip", f"layers.{block}.shortcut", ("weight",))
        widths[side] = weights[f"b{side}.conv0.weight"].shape[0]
    spread = weights["b4.conv.weight"].shape[1] - widths[4]
    if spread not in (0, 1):
        raise PickleError(f"its discriminator shows {spread} channels of the batch's spread")
    group = _attribute(module, ("b4", "mbstd"), "group_size", 4) if spread else 0
    after = len(sides) + 1 + spread
    own |= taken.layer("b4.conv", f"layers.{after}") | taken.layer("b4.fc", f"layers.{after + 2}")
    own |= taken.layer("b4.out", "head.logit")
    settings, num_classes = _channels(widths) | {"stddev_group": group}, 0
    if "mapping.embed.weight" in weights:
        own["head.embedding.weight"] = taken("mapping.embed.weight").t()
        own["head.class_bias"] = taken("mapping.embed.bias")
        num_classes = own["head.embedding.weight"].shape[0]
        settings |= {"conditioning": "projection", "mapping_layers": _mapping(taken, own, "head.mapping.")}
        settings["mapping_rate"] = _attribute(module, ("mapping", "fc0"), "bias_gain", 0.01)
    colors = own["layers.0.weight"].shape[1]
    taken.check_rest()
    return Layout(settings, Geometry((colors, sides[0], sides[0]), 0, num_classes), own)


class _Taken:
    """Tensors of a file, of which none but filters may be left."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights, self._left = weights, {name for name in weights if not name.endswith("resample_filter")}
        line = (1.0, 3.0, 3.0, 1.0)
        for name, tensor in weights.items():
            expected = tensor.new_tensor(line).outer(tensor.new_tensor(line)) / 64.0
            if name.endswith("resample_filter") and (tensor.shape != (4, 4) or not tensor.allclose(expected)):
                raise PickleError("its filter for resampling is not [1, 3, 3, 1]")

    def __call__(self, name: str) -> Tensor:
        self._left.discard(name)
        return self.weights[name]

    def layer(self, name: str, target: str, parts: tuple[str, ...] = ("weight", "bias")) -> dict[str, Tensor]:
        """The tensors of a layer by their names in this package."""
        return {f"{target}.{part}": self(f"{name}.{part}") for part in parts}

    def check_rest(self) -> None:
        if self._left:
            raise PickleError(f"it has further tensors: {', '.join(sorted(self._left)[:5])}")


def _sides(weights: Mapping[str, Tensor], prefix: str, suffix: str) -> list[int]:
    """Sides of the maps from small to large, which double; of a discriminator without the last."""
    names = (name.removeprefix(prefix).removesuffix(f".{suffix}") for name in weights if name.startswith(prefix))
    sides = sorted(int(name) for name in names if name.isdecimal())
    if not sides or len(sides) > 12 or any(other != 2 * one for one, other in pairwise(sides)):
        raise PickleError(f"its maps have sides {sides[:12]}, which do not double")
    return sides


def _mapping(taken: _Taken, own: dict[str, Tensor], target: str) -> int:
    """Add the layers of a mapping network; how many."""
    count = 0
    while f"mapping.fc{count}.weight" in taken.weights:
        own |= taken.layer(f"mapping.fc{count}", f"{target}{count}")
        count += 1
    return count


def _channels(widths: Mapping[int, int]) -> dict[str, Any]:
    """channel_base and channel_max from the channels by side."""
    most, largest = max(widths.values()), max(widths)
    settings = {"name": "stylegan2", "channel_base": widths[largest] * largest, "channel_max": most}
    if any(width != min(settings["channel_base"] // side, most) for side, width in widths.items()):
        raise PickleError(f"its channels {dict(widths)} do not halve where the side doubles, up to a bound")
    return settings


def _attribute(module: Any, path: tuple[str, ...], name: str, otherwise: Any) -> Any:
    """A number that a pickled submodule has as an attribute."""
    for part in path:
        state = pickles.module_state(module)
        module = None if state is None else state["_modules"].get(part)
    value = (pickles.module_state(module) or {}).get(name)
    return value if type(value) is type(otherwise) else otherwise
