"""StyleGAN2's pickles: a stand-in with the original's names and persistence becomes the networks that it holds."""

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ganscale.config import ConfigError
from ganscale.inference.foreign import read_foreign
from ganscale.inference.load import load_generator
from ganscale.models.layers import latent_averages
from tests.models.nets import CONDITIONAL, latents, pair

LINE = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8.0


class Persistent(nn.Module):
    """As the original's modules, which pickle their source code and their attributes."""

    def __reduce__(self) -> Any:
        code = {"type": "class", "version": 6, "module_src": "raise SystemExit", "class_name": "Network"}
        function = sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj
        return function, (code | {"state": self.__dict__},)


def put(root: nn.Module, name: str, tensor: Tensor, *, buffer: bool = False) -> None:
    """Set a tensor at a dotted name."""
    *parents, last = name.split(".")
    for part in parents:
        if part not in root._modules:
            root.add_module(part, Persistent())
        root = root.get_submodule(part)
    if buffer:
        root.register_buffer(last, tensor.detach().float())
    else:
        root.register_parameter(last, nn.Parameter(tensor.detach().float()))


def mapping_of(root: Persistent, state: dict[str, Tensor], prefix: str, rate: float) -> None:
    for layer in range(2):
        for name in ("weight", "bias"):
            put(root, f"mapping.fc{layer}.{name}", state[f"{prefix}mapping.{layer}.{name}"])
        root.get_submodule(f"mapping.fc{layer}").bias_gain = rate  # pyright: ignore[reportArgumentType]


def generator_of(state: dict[str, Tensor], rate: float) -> Persistent:
    root = Persistent()
    mapping_of(root, state, "", rate)
    put(root, "mapping.w_avg", state["average.value"], buffer=True)
    if "class_embedding" in state:
        put(root, "mapping.embed.weight", state["class_embedding"].t())
        put(root, "mapping.embed.bias", state["class_bias"])
    put(root, "synthesis.b4.const", state["layers.constant"])
    for block, side in enumerate((4, 8, 16)):
        put(root, f"synthesis.b{side}.resample_filter", torch.outer(LINE, LINE), buffer=True)
        for index, layer in enumerate(("conv0", "conv1") if block else ("conv1",)):
            source, place = f"layers.{block}.convolutions.{index}", f"synthesis.b{side}.{layer}"
            for name in ("weight", "affine.weight", "affine.bias"):
                put(root, f"{place}.{name}", state[f"{source}.convolution.{name}"])
            put(root, f"{place}.bias", state[f"{source}.bias"])
            put(root, f"{place}.noise_strength", state[f"{source}.strength"].squeeze())
            put(root, f"{place}.noise_const", state[f"{source}.constant"], buffer=True)
        for name in ("weight", "affine.weight", "affine.bias"):
            put(root, f"synthesis.b{side}.torgb.{name}", state[f"layers.{block}.to_image.{name}"])
        put(root, f"synthesis.b{side}.torgb.bias", state[f"layers.{block}.image_bias"])
    return root


def discriminator_of(state: dict[str, Tensor], group: int, rate: float) -> Persistent:
    root = Persistent()
    names = {"layers.0": "b16.fromrgb", "layers.4": "b4.conv", "layers.6": "b4.fc", "head.logit": "b4.out"}
    for block, side in ((1, 16), (2, 8)):
        parts = {"first": "conv0", "second": "conv1", "shortcut": "skip"}
        names |= {f"layers.{block}.{own}": f"b{side}.{theirs}" for own, theirs in parts.items()}
    for own, theirs in names.items():
        for name in ("weight", "bias"):
            if f"{own}.{name}" in state:
                put(root, f"{theirs}.{name}", state[f"{own}.{name}"])
    put(root, "b16.resample_filter", torch.outer(LINE, LINE), buffer=True)
    if group:
        root.get_submodule("b4").add_module("mbstd", Persistent())
        root.get_submodule("b4.mbstd").group_size = group  # pyright: ignore[reportArgumentType]
    if "head.embedding.weight" in state:
        mapping_of(root, state, "head.", rate)
        put(root, "mapping.embed.weight", state["head.embedding.weight"].t())
        put(root, "mapping.embed.bias", state["head.class_bias"])
    return root


def stand_in(conditional: bool = False) -> tuple[Any, Any, dict[str, Any]]:
    """Networks of the package, and the same as the original would pickle them."""
    more = ("mapping_rate=0.1", "model.discriminator.stddev_group=2")
    networks = pair("stylegan2", *more, *(CONDITIONAL if conditional else ()))
    generator, discriminator = networks[0].float(), networks[1].float()
    averages = [average.value for average in latent_averages(generator)]
    with torch.no_grad():
        for tensor in (*generator.parameters(), *discriminator.parameters(), *averages):
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    average = generator_of(generator.state_dict(), 0.1)
    content = {"G": average, "G_ema": average, "training_set_kwargs": {"path": "x"}, "augment_pipe": None}
    return generator, discriminator, content | {"D": discriminator_of(discriminator.state_dict(), 2, 0.1)}


def write(path: Path, content: dict[str, Any]) -> None:
    names = ("torch_utils", "torch_utils.persistence")
    sys.modules |= {name: ModuleType(name) for name in names}
    try:

        def _reconstruct_persistent_obj(meta: Any) -> None:
            """Only named in a pickle."""

        _reconstruct_persistent_obj.__module__ = names[1]
        _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
        sys.modules[names[1]]._reconstruct_persistent_obj = _reconstruct_persistent_obj  # pyright: ignore
        path.write_bytes(pickle.dumps(content))
    finally:
        for name in names:
            del sys.modules[name]


@pytest.mark.parametrize("conditional", [False, True], ids=["plain", "classes"])
def test_outputs_are_those_of_the_original(conditional: bool, tmp_path: Path) -> None:
    generator, discriminator, content = stand_in(conditional)
    write(tmp_path / "afhq.pkl", content)
    found = read_foreign(tmp_path / "afhq.pkl")
    assert found.geometry.shape == (3, 16, 16)
    assert found.settings["mapping_rate"] == 0.1
    labels = torch.tensor([0, 3, 3, 4]) if conditional else None
    z, x = latents().float(), torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for own, theirs in ((found.generator, generator), (found.ema, generator)):
            torch.testing.assert_close(own(z, labels), theirs(z, labels), rtol=0.0, atol=0.0)
        torch.testing.assert_close(found.discriminator(x, labels), discriminator(x, labels), rtol=0.0, atol=0.0)
    assert {name for name, _ in found.ema.named_parameters()} == {name for name, _ in generator.named_parameters()}


def test_it_is_sampled_with_truncation_in_w(tmp_path: Path) -> None:
    generator, _, content = stand_in()
    write(tmp_path / "ffhq.pkl", content)
    loaded = load_generator(tmp_path / "ffhq.pkl")
    with torch.no_grad():
        expected = generator.eval()(loaded.latents(range(3)), truncation=0.5).clamp(-1.0, 1.0)
    torch.testing.assert_close(loaded.sample(3, truncation=0.5), expected, rtol=0.0, atol=1e-5)


def _other_filter(content: dict[str, Any]) -> None:
    content["G"].synthesis.b8.resample_filter.fill_(1 / 16)


def _further_tensor(content: dict[str, Any]) -> None:
    put(content["D"], "b8.extra.weight", torch.ones(2))


def _no_skip(content: dict[str, Any]) -> None:
    del content["D"].b16.skip


def _no_image(content: dict[str, Any]) -> None:
    del content["G"].synthesis.b8.torgb


def _other_channels(content: dict[str, Any]) -> None:
    content["G_ema"].synthesis.b16.torgb.weight = nn.Parameter(torch.ones(3, 7, 1, 1))


@pytest.mark.parametrize(
    "change", [_other_filter, _further_tensor, _no_skip, _no_image, _other_channels], ids=lambda change: change.__name__
)
def test_what_the_architecture_cannot_be_is_refused(change: Any, tmp_path: Path) -> None:
    content = stand_in()[2]
    change(content)
    write(tmp_path / "a.pkl", content)
    with pytest.raises(ConfigError, match=r"a\.pkl"):
        read_foreign(tmp_path / "a.pkl")
