"""DINOv2 and CLIP: small random weights in each published layout, against a network of torch's own attention."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.testing import assert_close

from ganscale.config import ConfigError, load
from ganscale.config.checks import extractor_name, metric_names
from ganscale.evaluation.metrics.extractors import make_extractor
from ganscale.evaluation.metrics.vit_extractors import TransformerExtractor

WIDTH, DEPTH, HIDDEN, FEATURES = 128, 2, 192, 40
State = dict[str, Tensor]


def drawn(shapes: dict[str, tuple[int, ...]]) -> State:
    random = torch.Generator().manual_seed(len(shapes))
    return {name: 0.2 * torch.randn(shape, generator=random) for name, shape in shapes.items()}


def block(
    start: str, qkv: str, out: str, norms: tuple[str, str], layers: tuple[str, str]
) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {f"{start}{qkv}weight": (3 * WIDTH, WIDTH), f"{start}{qkv}bias": (3 * WIDTH,)}
    for name, sizes in ((out, (WIDTH, WIDTH)), (layers[0], (HIDDEN, WIDTH)), (layers[1], (WIDTH, HIDDEN))):
        shapes |= {f"{start}{name}.weight": sizes, f"{start}{name}.bias": sizes[:1]}
    return shapes | {f"{start}{norm}.{part}": (WIDTH,) for norm in norms for part in ("weight", "bias")}


def dino() -> State:
    """As facebookresearch/dinov2 names them: a grid of 5 x 5 patches of 14 pixels."""
    shapes = {"cls_token": (1, 1, WIDTH), "pos_embed": (1, 26, WIDTH), "mask_token": (1, WIDTH)}
    shapes |= {"patch_embed.proj.weight": (WIDTH, 3, 14, 14), "patch_embed.proj.bias": (WIDTH,)}
    shapes |= {"norm.weight": (WIDTH,), "norm.bias": (WIDTH,)}
    for at in range(DEPTH):
        shapes |= block(f"blocks.{at}.", "attn.qkv.", "attn.proj", ("norm1", "norm2"), ("mlp.fc1", "mlp.fc2"))
        shapes |= {f"blocks.{at}.ls1.gamma": (WIDTH,), f"blocks.{at}.ls2.gamma": (WIDTH,)}
    return drawn(shapes)


def clip() -> State:
    """As openai/CLIP names them, with some of the text's network: a grid of 3 x 3 patches of 16 pixels."""
    shapes = {"visual.class_embedding": (WIDTH,), "visual.positional_embedding": (10, WIDTH)}
    shapes |= {"visual.conv1.weight": (WIDTH, 3, 16, 16), "visual.proj": (WIDTH, FEATURES)}
    shapes |= {f"visual.{n}.{part}": (WIDTH,) for n in ("ln_pre", "ln_post") for part in ("weight", "bias")}
    names = ("attn.in_proj_", "attn.out_proj", ("ln_1", "ln_2"), ("mlp.c_fc", "mlp.c_proj"))
    for at in range(DEPTH):
        shapes |= block(f"visual.transformer.resblocks.{at}.", *names)
    shapes |= {"positional_embedding": (7, 5), "transformer.resblocks.7.ln_1.weight": (5,), "logit_scale": ()}
    return drawn(shapes)


def blocks(
    state: State, start: str, names: tuple[str, ...], x: Tensor, activation: Callable[[Tensor], Tensor]
) -> Tensor:
    """The residual blocks, by torch's own MultiheadAttention."""
    norm1, qkv, out, norm2, fc1, fc2, scale1, scale2 = names
    epsilon = 1e-6 if scale1 else 1e-5
    for at in range(DEPTH):
        part = {name.removeprefix(f"{start}{at}."): value for name, value in state.items() if f"{start}{at}." in name}
        attention = nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True)
        own = {"in_proj_weight": f"{qkv}weight", "in_proj_bias": f"{qkv}bias"}
        own |= {"out_proj.weight": f"{out}.weight", "out_proj.bias": f"{out}.bias"}
        attention.load_state_dict({name: part[theirs] for name, theirs in own.items()})

        def norm(y: Tensor, name: str, part: State = part) -> Tensor:
            return functional.layer_norm(y, (WIDTH,), part[f"{name}.weight"], part[f"{name}.bias"], epsilon)

        y = norm(x, norm1)
        x = x + part.get(scale1, torch.ones(1)) * attention(y, y, y)[0]
        y = activation(functional.linear(norm(x, norm2), part[f"{fc1}.weight"], part[f"{fc1}.bias"]))
        x = x + part.get(scale2, torch.ones(1)) * functional.linear(y, part[f"{fc2}.weight"], part[f"{fc2}.bias"])
    return x


def dino_features(state: State, images: Tensor) -> Tensor:
    plane = state["pos_embed"][:, 1:].view(1, 5, 5, WIDTH).permute(0, 3, 1, 2)
    larger = functional.interpolate(plane, scale_factor=(16.1 / 5, 16.1 / 5), mode="bicubic")
    patches = functional.conv2d(images, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], 14)
    tokens = torch.cat((state["cls_token"].expand(len(images), -1, -1), patches.flatten(2).mT), 1)
    x = tokens + torch.cat((state["pos_embed"][:, :1], larger.flatten(2).mT), 1)
    names = ("norm1", "attn.qkv.", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2", "ls1.gamma", "ls2.gamma")
    x = blocks(state, "blocks.", names, x, functional.gelu)
    return functional.layer_norm(x[:, 0], (WIDTH,), state["norm.weight"], state["norm.bias"], 1e-6)


def clip_features(state: State, images: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    state = {name.removeprefix("visual."): value for name, value in state.items() if name.startswith("visual.")}
    patches = functional.conv2d(images, state["conv1.weight"], None, 16).flatten(2).mT
    x = torch.cat((state["class_embedding"].expand(len(images), 1, -1), patches), 1) + state["positional_embedding"]
    x = functional.layer_norm(x, (WIDTH,), state["ln_pre.weight"], state["ln_pre.bias"])
    names = ("ln_1", "attn.in_proj_", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj", "", "")
    x = blocks(state, "transformer.resblocks.", names, x, activation)
    return functional.layer_norm(x[:, 0], (WIDTH,), state["ln_post.weight"], state["ln_post.bias"]) @ state["proj"]


def split(value: Tensor, start: str, names: tuple[str, ...], end: str) -> State:
    return {f"{start}{name}{end}": part for name, part in zip(names, value.split(WIDTH), strict=True)}


def as_hugging_face(state: State) -> State:
    """The same weights as transformers names them."""
    found: State = {}
    is_clip = "visual.proj" in state
    dinos = {"attn.proj": "attention.output.dense", "ls1.gamma": "layer_scale1.lambda1"}
    dinos |= {"ls2.gamma": "layer_scale2.lambda1", "blocks.": "encoder.layer.", "cls_token": "embeddings.cls_token"}
    dinos |= {"mask_token": "embeddings.mask_token", "pos_embed": "embeddings.position_embeddings"}
    dinos |= {"patch_embed.proj": "embeddings.patch_embeddings.projection"}
    clips = {"visual.transformer.resblocks": "vision_model.encoder.layers", "attn.out_proj": "self_attn.out_proj"}
    clips |= {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2"}
    clips |= {"visual.class_embedding": "vision_model.embeddings.class_embedding"}
    clips |= {"visual.positional_embedding": "vision_model.embeddings.position_embedding.weight"}
    clips |= {"visual.conv1": "vision_model.embeddings.patch_embedding", "visual.ln_pre": "vision_model.pre_layrnorm"}
    clips |= {"visual.ln_post": "vision_model.post_layernorm"}
    for name, value in state.items():
        if is_clip and not name.startswith("visual."):
            found[f"text_model.{name}"] = value
            continue
        theirs = "layernorm" + name[4:] if name.startswith("norm.") else name
        for old, new in (clips if is_clip else dinos).items():
            theirs = theirs.replace(old, new)
        if "attn.qkv." in theirs:
            start, end = theirs.split("attn.qkv")
            found |= split(value, f"{start}attention.attention.", ("query", "key", "value"), end)
        elif "attn.in_proj_" in theirs:
            start, end = theirs.split("attn.in_proj_")
            found |= split(value, f"{start}self_attn.", ("q_proj", "k_proj", "v_proj"), f".{end}")
        else:
            found |= {"visual_projection.weight": value.T} if name == "visual.proj" else {theirs: value}
    return {name: value.contiguous() for name, value in found.items()}


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


PICTURES = torch.rand(3, 3, 48, 48, generator=torch.Generator().manual_seed(3)) * 2 - 1


@pytest.mark.parametrize("layout", ["published", "transformers"])
@pytest.mark.parametrize("name", ["dinov2", "clip", "openclip"])
def test_features_are_those_of_torchs_own_attention(tmp_path: Path, name: str, layout: str) -> None:
    state = dino() if name == "dinov2" else clip()
    file = tmp_path / ("weights.pth" if layout == "published" else "model.safetensors")
    if layout == "published":
        torch.save(state, file)
    else:
        safetensors.torch.save_file(as_hugging_face(state), file)
    extractor = make_extractor(name, "cifar10", (3, 48, 48), weights=str(file))
    assert isinstance(extractor, TransformerExtractor)
    assert (extractor.name, extractor.num_modes) == (name, 0)
    assert extractor.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    given = extractor._prepared(PICTURES)
    side = 224 if name == "dinov2" else 48
    assert given.shape == (3, 3, side, side)
    activation = quick_gelu if name == "clip" else functional.gelu
    expected = dino_features(state, given) if name == "dinov2" else clip_features(state, given, activation)
    found = extractor(PICTURES).features
    assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-2
    assert_close(extractor(PICTURES[:1, :1]).features, extractor(PICTURES[:1, :1].expand(-1, 3, -1, -1)).features)


def test_images_are_resized_as_pillow_does_and_normalized(tmp_path: Path) -> None:
    torch.save(dino(), tmp_path / "w.pth")
    look = TransformerExtractor("dinov2", tmp_path / "w.pth")
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    for side in (32, 300):
        pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        wanted = np.asarray(Image.fromarray(pixels).resize((224, 224), Image.Resampling.BICUBIC))
        given = look._prepared((torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1)[None])
        found = (given[0].permute(1, 2, 0).numpy() * deviation + mean) * 255
        assert np.abs(found - wanted).max() < 1.01
        assert np.abs(found - wanted).mean() < 0.01


def changed(state: State, **changes: Tensor | None) -> State:
    given = {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in (state | given).items() if value is not None}  # pyright: ignore


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (changed(dino(), blocks__1__ls2__gamma=None), "blocks.1.ls2.gamma"),
        (changed(dino(), blocks__0__mlp__fc1__weight=None), "blocks.0.mlp.fc1.weight"),
        (changed(dino(), register_tokens=torch.zeros(1, 4, WIDTH)), "register_tokens"),
        (changed(dino(), blocks__1__mlp__fc1__weight=torch.zeros(HIDDEN + 1, WIDTH)), "blocks.1.mlp.fc1.weight"),
        (changed(dino(), pos_embed=torch.zeros(1, 28, WIDTH)), "28 positions"),
        (changed(dino(), norm__weight=torch.tensor(1.0)), "norm.weight"),
        (clip(), "logit_scale"),
        ({"model": dino()}, "model"),
        (b"no weights", "Error"),
        (b"", "EOFError"),
        (torch.nn.Linear(2, 2), "Error"),
    ],
)
def test_other_files_are_refused_with_key_and_remedy(tmp_path: Path, content: object, named: str) -> None:
    file = tmp_path / "w.pth"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ConfigError) as caught:
        make_extractor("dinov2", "cifar10", (3, 32, 32), weights=str(file))
    assert (caught.value.key, caught.value.value) == ("eval.weights", str(file))
    assert named in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize("width", [1280, 1408, 1664])
def test_networks_with_wider_heads_are_refused(tmp_path: Path, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """H/14, g/14 and bigG/14 have heads of 80, 88 and 104 numbers, which the tensors do not show."""
    monkeypatch.setattr("tests.evaluation.metrics.test_vit.WIDTH", width)
    monkeypatch.setattr("tests.evaluation.metrics.test_vit.DEPTH", 1)
    torch.save(clip(), tmp_path / "w.pth")
    with pytest.raises(ConfigError) as caught:
        make_extractor("openclip", "cifar10", (3, 32, 32), weights=str(tmp_path / "w.pth"))
    assert (caught.value.key, caught.value.value) == ("eval.weights", str(tmp_path / "w.pth"))
    assert f"width of {width}" in str(caught.value)
    assert "1024" in caught.value.remedy


@pytest.mark.filterwarnings("ignore")
def test_torchscript_is_refused_with_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "ViT-B-32.pt"
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), file)
    with pytest.raises(ConfigError) as caught:
        make_extractor("clip", "cifar10", (3, 32, 32), weights=str(file))
    assert caught.value.key == "eval.weights"


def test_pictures_may_be_seen_through_them_and_digits_too() -> None:
    for data in (["data.name=folder", "data.path=x"], []):
        config = load(overrides=[*data, "eval.extractor=dinov2", "eval.metrics=[frechet, memorization]"])
        assert extractor_name(config) == "dinov2"
        assert metric_names(config) == ("frechet", "memorization")
