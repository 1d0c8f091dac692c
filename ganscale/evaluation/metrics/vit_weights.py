"""Weights of vision transformers: the layouts in which they are published, and what a file must hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from ganscale.config import ConfigError
from ganscale.evaluation.metrics.vit import HEAD, WIDEST, Family, Size, VisionTransformer


@dataclass(frozen=True)
class Layout:
    """How a publication names the tensors of a network.

    Attributes:
        name: of the publication.
        names: beginning of a tensor's name here to its beginning there, `{}` for the number of a block; where there are
            several, the tensors are joined.
        ignored: beginnings of names that are no part of the network.
    """

    name: str
    names: Mapping[str, str | tuple[str, ...]]
    ignored: tuple[str, ...] = ()


_DINO: dict[str, str | tuple[str, ...]] = {
    "cls": "cls_token",
    "position": "pos_embed",
    "patch.": "patch_embed.proj.",
    "blocks.{}.norm1.": "blocks.{}.norm1.",
    "blocks.{}.qkv.": "blocks.{}.attn.qkv.",
    "blocks.{}.out.": "blocks.{}.attn.proj.",
    "blocks.{}.scale1": "blocks.{}.ls1.gamma",
    "blocks.{}.norm2.": "blocks.{}.norm2.",
    "blocks.{}.fc1.": "blocks.{}.mlp.fc1.",
    "blocks.{}.fc2.": "blocks.{}.mlp.fc2.",
    "blocks.{}.scale2": "blocks.{}.ls2.gamma",
    "norm.": "norm.",
}
_LAYER = "encoder.layer.{}."
_HF_DINO: dict[str, str | tuple[str, ...]] = {
    "cls": "embeddings.cls_token",
    "position": "embeddings.position_embeddings",
    "patch.": "embeddings.patch_embeddings.projection.",
    "blocks.{}.norm1.": f"{_LAYER}norm1.",
    "blocks.{}.qkv.": tuple(f"{_LAYER}attention.attention.{name}." for name in ("query", "key", "value")),
    "blocks.{}.out.": f"{_LAYER}attention.output.dense.",
    "blocks.{}.scale1": f"{_LAYER}layer_scale1.lambda1",
    "blocks.{}.norm2.": f"{_LAYER}norm2.",
    "blocks.{}.fc1.": f"{_LAYER}mlp.fc1.",
    "blocks.{}.fc2.": f"{_LAYER}mlp.fc2.",
    "blocks.{}.scale2": f"{_LAYER}layer_scale2.lambda1",
    "norm.": "layernorm.",
}
_RESBLOCK = "visual.transformer.resblocks.{}."
_CLIP: dict[str, str | tuple[str, ...]] = {
    "cls": "visual.class_embedding",
    "position": "visual.positional_embedding",
    "patch.": "visual.conv1.",
    "norm_pre.": "visual.ln_pre.",
    "blocks.{}.norm1.": f"{_RESBLOCK}ln_1.",
    "blocks.{}.qkv.": f"{_RESBLOCK}attn.in_proj_",
    "blocks.{}.out.": f"{_RESBLOCK}attn.out_proj.",
    "blocks.{}.norm2.": f"{_RESBLOCK}ln_2.",
    "blocks.{}.fc1.": f"{_RESBLOCK}mlp.c_fc.",
    "blocks.{}.fc2.": f"{_RESBLOCK}mlp.c_proj.",
    "norm.": "visual.ln_post.",
    "projection": "visual.proj",
}
_VISION = "vision_model."
_CLIP_LAYER = f"{_VISION}encoder.layers.{{}}."
_HF_CLIP: dict[str, str | tuple[str, ...]] = {
    "cls": f"{_VISION}embeddings.class_embedding",
    "position": f"{_VISION}embeddings.position_embedding.weight",
    "patch.": f"{_VISION}embeddings.patch_embedding.",
    "norm_pre.": f"{_VISION}pre_layrnorm.",
    "blocks.{}.norm1.": f"{_CLIP_LAYER}layer_norm1.",
    "blocks.{}.qkv.": tuple(f"{_CLIP_LAYER}self_attn.{name}_proj." for name in "qkv"),
    "blocks.{}.out.": f"{_CLIP_LAYER}self_attn.out_proj.",
    "blocks.{}.norm2.": f"{_CLIP_LAYER}layer_norm2.",
    "blocks.{}.fc1.": f"{_CLIP_LAYER}mlp.fc1.",
    "blocks.{}.fc2.": f"{_CLIP_LAYER}mlp.fc2.",
    "norm.": f"{_VISION}post_layernorm.",
    "projection": "visual_projection.weight",
}
_HF_TEXT = ("text_model.", "text_projection.", "logit_scale", f"{_VISION}embeddings.position_ids")
_TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "logit_", "text.")
_OTHER = ("input_resolution", "context_length", "vocab_size")
DINO_LAYOUTS = (
    Layout("facebookresearch/dinov2", _DINO, ("mask_token",)),
    Layout("transformers' Dinov2Model", _HF_DINO, ("embeddings.mask_token",)),
)
CLIP_LAYOUTS = (
    Layout("openai/CLIP or open_clip", _CLIP, (*_TEXT, *_OTHER)),
    Layout("transformers' CLIPModel", _HF_CLIP, _HF_TEXT),
)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: safetensors, or a state dict that torch.save wrote.

    Args:
        file: of the weights.

    Raises:
        ConfigError: it is neither.
    """
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip, TorchScript and safetensors have errors of their own
        remedy = "name a .safetensors file or a state dict of torch.save; docs/metrics.md says how to make one"
        text = (str(error) or "the file ends too early").splitlines()[0]
        problem = f"no weights can be read from it ({type(error).__name__}: {text})"
        raise ConfigError(problem, key="eval.weights", value=str(file), remedy=remedy) from None
    if isinstance(found, Mapping) and found and all(isinstance(part, Tensor) for part in found.values()):
        return dict(found)
    parts = ", ".join(map(str, found)) if isinstance(found, Mapping) else type(found).__name__
    remedy = "save the network's state dict alone, with torch.save or as safetensors"
    raise ConfigError(f"no state dict, but {parts}", key="eval.weights", value=str(file), remedy=remedy)


def load_network(file: Path, family: Family, layouts: tuple[Layout, ...]) -> VisionTransformer:
    """The network whose weights a file holds, of the size that its tensors have, in float32 on the CPU.

    Args:
        file: of the weights.
        family: what tensors do not show.
        layouts: in which they may be named.

    Raises:
        ConfigError: the file cannot be read, or a tensor is missing, unknown or of another shape.
    """
    tensors = read_tensors(file)
    layout = next((each for each in layouts if each.names["position"] in tensors), None)
    if layout is None:
        some = ", ".join(sorted(tensors)[:3])
        remedy = f"use weights as {' or '.join(each.name for each in layouts)} names them"
        raise _refused(file, f"unknown names of tensors ({some}, ...)", remedy)
    renamed, joined = _renamed(file, tensors, layout)
    size = _size(file, renamed, layout)
    with torch.device("meta"):
        network = VisionTransformer(size, family)
    expected = {name: tuple(part.shape) for name, part in network.state_dict().items()}
    remedy = f"use a complete file of {layout.name}; docs/metrics.md has the networks that fit"
    for name, shape in expected.items():
        theirs = joined.get(name) or " + ".join(_theirs(name, layout))
        if name not in renamed:
            raise _refused(file, f"{theirs} is missing", remedy)
        if renamed[name].shape != shape:
            raise _refused(file, f"{theirs} is {list(renamed[name].shape)}, not {list(shape)}", remedy)
    for name in renamed.keys() - expected.keys():
        raise _refused(file, f"{joined[name]} has no place in this network", remedy)
    network.load_state_dict(renamed, assign=True)
    return network.requires_grad_(False).eval()


def _refused(file: Path, problem: str, remedy: str) -> ConfigError:
    return ConfigError(problem, key="eval.weights", value=str(file), remedy=remedy)


def _theirs(name: str, layout: Layout) -> tuple[str, ...]:
    """Names in the file of a tensor here."""
    number = next(iter(re.findall(r"^blocks\.(\d+)\.", name)), "")
    own = re.sub(r"^blocks\.\d+\.", "blocks.{}.", name)
    start = next(start for start in layout.names if own == start or (start.endswith(".") and own.startswith(start)))
    theirs = layout.names[start]
    return tuple(
        f"{each.format(number)}{own[len(start) :]}" for each in ((theirs,) if isinstance(theirs, str) else theirs)
    )


def _renamed(file: Path, tensors: Mapping[str, Tensor], layout: Layout) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The network's tensors by their names here, as float32, and their names in the file."""
    depth = 1 + max((int(n) for n in re.findall(r"\.(\d+)\.", " ".join(tensors))), default=-1)
    starts = [start.format(block) for start in layout.names for block in (range(depth) if "{}" in start else (0,))]
    renamed, joined, left = dict[str, Tensor](), dict[str, str](), set(tensors)
    for name in (start + end for start in starts for end in (("weight", "bias") if start.endswith(".") else ("",))):
        theirs = _theirs(name, layout)
        if all(each in tensors for each in theirs):
            parts = [tensors[each].float() for each in theirs]
            if len({part.shape for part in parts}) > 1 or parts[0].dim() == 0:
                shapes = ", ".join(str(list(part.shape)) for part in parts)
                problem = f"{' + '.join(theirs)} cannot have the shape {shapes}"
                raise _refused(file, problem, f"use a complete file of {layout.name}")
            if name == "projection" and theirs[0].endswith(".weight"):  # of a linear layer
                parts = [parts[0].T]
            elif name in ("cls", "position"):
                parts = [parts[0].reshape(-1, parts[0].shape[-1]) if name == "position" else parts[0].flatten()]
            renamed[name], joined[name] = torch.cat(parts).contiguous(), " + ".join(theirs)
            left -= set(theirs)
    unknown = sorted(name for name in left if not name.startswith(layout.ignored))
    if unknown:
        known = "networks with registers or SwiGLU and residual networks are not supported"
        raise _refused(file, f"{unknown[0]} has no place in {layout.name}'s network", f"use another file: {known}")
    return renamed, joined


def _size(file: Path, tensors: Mapping[str, Tensor], layout: Layout) -> Size:
    """The size of the network, from its tensors."""
    for name, dims in (("cls", 1), ("position", 2), ("patch.weight", 4), ("blocks.0.fc1.weight", 2)):
        if name not in tensors or tensors[name].dim() != dims:
            theirs = " + ".join(_theirs(name, layout))
            raise _refused(file, f"{theirs} is missing or has another shape", f"use a complete file of {layout.name}")
    width, grid = len(tensors["cls"]), round((len(tensors["position"]) - 1) ** 0.5)
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    projection = tensors.get("projection")
    features = projection.shape[1] if projection is not None and projection.dim() == 2 else 1
    size = Size(width, depth, len(tensors["blocks.0.fc1.weight"]), tensors["patch.weight"].shape[3], grid, features)
    if width % HEAD or width > WIDEST or grid**2 + 1 != len(tensors["position"]):
        problem = f"a width of {width} and {len(tensors['position'])} positions are those of another network"
        remedy = f"use one of at most {WIDEST} (size S, B or L), with heads of {HEAD} and a square grid of patches"
        raise _refused(file, problem, remedy)
    return size
