"""DINOv2 and CLIP as extractors, beside Inception: their weights are named in `eval.weights`, none are downloaded."""

import hashlib
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ganscale.config import Dataset
from ganscale.evaluation.metrics.extractors import Observed, rgb_bytes
from ganscale.evaluation.metrics.vit import Family
from ganscale.evaluation.metrics.vit_weights import CLIP_LAYOUTS, DINO_LAYOUTS, Layout, load_network

TOGETHER = 50
"""Images that go through the network at once: of ViT-L's perceptrons, 210 MB."""

_IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FAMILIES = {
    "dinov2": Family(False, 1e-6, True, False, 0.1, 224, *_IMAGENET),
    "clip": Family(True, 1e-5, False, True, 0.0, 0, *_CLIP),
    "openclip": Family(False, 1e-5, False, True, 0.0, 0, *_CLIP),
}
"""By extractor. OpenAI trained CLIP with another activation than LAION, which their tensors do not show."""
LAYOUTS: dict[str, tuple[Layout, ...]] = {"dinov2": DINO_LAYOUTS, "clip": CLIP_LAYOUTS, "openclip": CLIP_LAYOUTS}
FILES = {
    "dinov2": "DINOv2's weights (such as dinov2_vitl14_pretrain.pth)",
    "clip": "OpenAI's CLIP (such as openai/clip-vit-base-patch32's model.safetensors)",
    "openclip": "a CLIP of LAION or DataComp (such as open_clip_model.safetensors)",
}


class TransformerExtractor:
    """A vision transformer's features: DINOv2's class token, or CLIP's embedding of the image, not normalized.

    Args:
        name: of the extractor.
        weights: their file.
        device: where it computes.

    Raises:
        ConfigError: the file holds no weights of such a network.
        FileNotFoundError: there is no file.
    """

    num_modes = 0

    def __init__(self, name: str, weights: Path, *, device: torch.device | str = "cpu") -> None:
        self.name, self._family = name, FAMILIES[name]
        with weights.open("rb") as file:
            self.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self.network = load_network(weights, self._family, LAYOUTS[name]).to(device)

    @torch.no_grad()
    def __call__(self, examples: Tensor) -> Observed:
        """Features `[N, D]`, of images as bytes (`rgb_bytes`), resized as Pillow's bicubic does and normalized."""
        return Observed(torch.cat([self.network(self._prepared(some)) for some in examples.split(TOGETHER)]))

    def _prepared(self, examples: Tensor) -> Tensor:
        images, side = rgb_bytes(examples).float(), self.network.side
        for size in ((images.shape[2], side), (side, side)):  # Pillow rounds to bytes after each direction
            if images.shape[2:] != size:
                images = interpolate(images, size, mode="bicubic", antialias=True).round().clamp(0.0, 255.0)
        mean, deviation = (
            images.new_tensor(each).view(3, 1, 1) for each in (self._family.mean, self._family.deviation)
        )
        return (images / 255.0 - mean) / deviation


def _missing(name: str, weights: str) -> str | None:
    """Why an extractor cannot be used on this machine; raises ConfigError if the weights are not its network's."""
    remedy = f"name a file of {FILES[name]} in eval.weights, see docs/metrics.md, or use eval.extractor=patches"
    if not weights:
        return f"no weights are named for eval.extractor = {name}; {remedy}"
    file = Path(weights).expanduser()
    if not file.is_file():
        return f"no weights at {file}; {remedy}"
    load_network(file, FAMILIES[name], LAYOUTS[name])
    return None


def _open(name: str, data: Dataset, shape: tuple[int, ...], weights: str, device: torch.device) -> TransformerExtractor:
    if not weights:
        raise FileNotFoundError(_missing(name, weights))
    return TransformerExtractor(name, Path(weights).expanduser(), device=device)


open_dinov2, open_clip, open_openclip = (partial(_open, name) for name in FAMILIES)
missing_dinov2, missing_clip, missing_openclip = (partial(_missing, name) for name in FAMILIES)
