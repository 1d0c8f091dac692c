"""One picture's file to one image of bytes: upright, in sRGB, of a given size and number of channels."""

import io
import math
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.util import find_spec
from typing import IO, Literal

import numpy as np
from PIL import Image, ImageCms, features

from ganscale.config.datasets import Resolution, height_width, resolution_text

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF")
MAX_PIXELS = (1 << 30) // 12
"""Of a picture, as Pillow's own limit, at which Pillow only warns: 89 million."""

_GRAY = frozenset({"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
_COLOR = frozenset({"P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"})
_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""By EXIF's orientation; others, 1 among them, are upright."""
_HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
_AVIF = frozenset({b"avif", b"avis"})
_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"BM")

NEEDS_HEIF = "HEIC needs pillow-heif: pip install 'ganscale[heif]', or convert it to PNG or JPEG"
LFS_POINTER = b"version https://git-lfs"
IS_LFS_POINTER = "is a pointer of Git LFS, not the file: run git lfs pull"
NEEDS_AVIF = "this Pillow reads no AVIF: pip install 'pillow>=11.3', or convert it to PNG or JPEG"


@dataclass(frozen=True)
class Rules:
    """How pictures become images; section `data` of the config has the same settings.

    Attributes:
        channels: 1 (gray), 3 (RGB) or 4 (RGBA); None: as the pictures, by `FolderSource`.
        fit: keep the central square, add bars in the background's color, or change the aspect ratio.
        background: RGB, 0 to 255, behind transparent pixels and for bars.
        range: values that become 0 and 255 in pictures of more than 8 bits; None: the whole range of 16 bits.
    """

    channels: int | None = None
    fit: Literal["crop", "pad", "stretch"] = "crop"
    background: tuple[int, int, int] = (255, 255, 255)
    range: tuple[float, float] | None = None


DEFAULT = Rules()


@dataclass(frozen=True)
class Header:
    """What a picture's header shows.

    Attributes:
        width: in pixels, before it is turned upright.
        height: likewise.
        is_gray: whether it has no color.
        is_deep: whether it has 16 bits.
        remarks: what is worth a warning.
    """

    width: int
    height: int
    is_gray: bool
    is_deep: bool
    remarks: tuple[str, ...]


@cache
def has_heif() -> bool:
    """Whether HEIC can be read; from then on Pillow does."""
    if find_spec("pillow_heif") is None:
        return False
    import pillow_heif  # pyright: ignore[reportMissingImports]

    pillow_heif.register_heif_opener()
    return True


def has_avif() -> bool:
    """Whether AVIF can be read."""
    return bool(features.check("avif"))


def kind_of(beginning: bytes) -> str:
    """What a file is by its first bytes: "heic", "avif", "picture" of another kind, or "" for anything else.

    Args:
        beginning: at least 12 bytes, unless the file is shorter.
    """
    if beginning[4:8] == b"ftyp":
        return "heic" if beginning[8:12] in _HEIC else "avif" if beginning[8:12] in _AVIF else ""
    is_webp = beginning[:4] == b"RIFF" and beginning[8:12] == b"WEBP"
    return "picture" if is_webp or beginning.startswith(_BEGINNINGS) else ""


def read_header(file: IO[bytes], rules: Rules, resolution: Resolution) -> Header:
    """Examine a picture without decoding it.

    Args:
        file: of the picture, at its beginning.
        rules: by which it will be read.
        resolution: of the image that it will become, in pixels.

    Raises:
        ValueError: it cannot be read by these rules; the message is the reason.
    """
    with _open(file) as picture:
        _check(picture, rules)
        remarks = _remarks(picture, rules, resolution)
        return Header(picture.width, picture.height, picture.mode in _GRAY, _is_deep(picture), remarks)


def decode(content: bytes, resolution: Resolution, rules: Rules = DEFAULT) -> np.ndarray:
    """One picture as bytes `[C, H, W]`; the first frame of an animation.

    Resized by Lanczos' filter, which averages when it shrinks, after the crop, as in StyleGAN's dataset_tool.

    Args:
        content: of the picture's file.
        resolution: of the result in pixels.
        rules: how it is read; 3 channels if they name none.

    Raises:
        ValueError: it cannot be read by these rules; the message is the reason.
    """
    with _open(io.BytesIO(content)) as opened:
        _check(opened, rules)
        try:
            opened.load()
        except Exception as error:  # Pillow raises many kinds on damaged input
            raise ValueError(f"cannot be decoded: {error}") from error
        profile = opened.info.get("icc_profile")
        picture = _as_bytes(_upright(opened), rules)
    picture = _fit(_with_channels(_to_srgb(picture, profile), rules), resolution, rules)
    pixels = np.array(picture, dtype=np.uint8).reshape(*height_width(resolution), -1)
    if pixels.shape[2] == 4:  # no hidden colors
        pixels[pixels[..., 3] == 0, :3] = rules.background
    return pixels.transpose(2, 0, 1)


def _open(file: IO[bytes]) -> Image.Image:
    kinds = (*FORMATS, "HEIF") if has_heif() else FORMATS
    try:
        return Image.open(file, formats=kinds)
    except Image.DecompressionBombError:
        raise ValueError(f"has more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow raises many kinds on damaged input
        file.seek(0)
        raise ValueError(_why(file.read(64), error)) from error


def _why(beginning: bytes, error: Exception) -> str:
    """Why a file is no picture, from its first bytes."""
    kind = kind_of(beginning)
    if not beginning:
        return "is empty"
    if kind == "heic" and not has_heif():
        return NEEDS_HEIF
    if kind == "avif" and not has_avif():
        return NEEDS_AVIF
    if kind:
        return f"is damaged or incomplete ({type(error).__name__})"
    if beginning.startswith(LFS_POINTER):
        return IS_LFS_POINTER
    what = "text, such as HTML or SVG" if beginning.lstrip().startswith(b"<") else "of another kind"
    return f"is no picture but {what} (it begins with {beginning[:8]!r})"


def _check(picture: Image.Image, rules: Rules) -> None:
    """Refuse what cannot be read right."""
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(f"has {picture.width} x {picture.height} pixels, more than {MAX_PIXELS:,}")
    mode = picture.mode
    if mode not in _GRAY | _COLOR:
        raise ValueError(f"has the pixel format {mode}, which is not read; convert it to RGB")
    if mode in ("F", "I") and rules.range is None:
        kind = "real numbers" if mode == "F" else "32-bit or signed whole numbers"
        raise ValueError(f"holds {kind}: name the values of black and white, data.range=[LOW, HIGH]")
    is_deep = _is_deep(picture)
    if is_deep and mode in _COLOR | _ALPHA and rules.range is not None:
        raise ValueError("has 16-bit colors, of which Pillow reads 8 bits: data.range cannot apply; convert it to gray")
    if is_deep and "transparency" in picture.info:
        raise ValueError("names a transparent 16-bit value, which is not read; save it with an alpha channel")


def _is_deep(picture: Image.Image) -> bool:
    """Whether a channel has 16 bits."""
    raw = [str(tile[3]) for tile in getattr(picture, "tile", ())]
    return picture.format in ("PNG", "TIFF") and any(";16" in each for each in raw)


def _remarks(picture: Image.Image, rules: Rules, resolution: Resolution) -> tuple[str, ...]:
    found = []
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        found.append("with several frames or pages, of which the first is used")
    if rules.channels != 4 and picture.has_transparency_data:
        found.append(f"with an alpha channel, composed on data.background = {list(rules.background)}")
    height, width = height_width(resolution)
    shares = picture.width / width, picture.height / height
    if (max(shares) if rules.fit == "pad" else min(shares)) < 1.0:
        found.append(f"smaller than data.resolution = {resolution_text(resolution)}, and therefore enlarged")
    if picture.mode in _COLOR | _ALPHA and _is_deep(picture):
        found.append("with 16-bit colors, of which Pillow reads the upper 8 bits")
    profile = picture.info.get("icc_profile")
    if picture.mode == "CMYK" and not profile:
        found.append("in CMYK without a color profile, converted by the plain formula")
    if profile and (problem := _transform(profile, _base(picture.mode))[1]):
        found.append(f"with a color profile that {problem}, and therefore taken for sRGB")
    return tuple(found)


def _upright(picture: Image.Image) -> Image.Image:
    try:
        orientation = picture.getexif().get(0x0112)
    except Exception:  # damaged EXIF says nothing; Pillow raises many kinds
        return picture
    return picture.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else picture


def _as_bytes(picture: Image.Image, rules: Rules) -> Image.Image:
    """Any mode as L, RGB or CMYK, or as LA or RGBA where a pixel may be transparent."""
    if picture.mode in ("F", "I") or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float64)
        low, high = rules.range or (0.0, 65535.0)
        if not np.isfinite(values).all():
            raise ValueError("holds NaN or infinity")
        scaled = ((values - low) * (255.0 / (high - low))).clip(0.0, 255.0)
        return Image.fromarray(np.floor(scaled + 0.5).astype(np.uint8))
    if picture.mode in ("La", "RGBa"):
        return picture.convert("LA" if picture.mode == "La" else "RGBA")
    if picture.has_transparency_data and picture.mode not in ("LA", "RGBA"):
        return picture.convert("RGBA")
    if picture.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        return picture
    return picture.convert("L" if picture.mode == "1" else "RGB")


def _base(mode: str) -> str:
    """The mode in which `_to_srgb` sees a picture of a mode."""
    return "CMYK" if mode == "CMYK" else "L" if mode in _GRAY else "RGB"


def _to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert from the color space that the file names; alpha stays."""
    transform = _transform(profile, _base(picture.mode))[0] if profile else None
    if transform is None:
        return picture
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    base = picture.convert(_base(picture.mode)) if alpha else picture
    converted = transform.apply(base)
    if alpha:
        converted.putalpha(alpha)
    return converted


@lru_cache(maxsize=64)
def _transform(profile: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform | None, str]:
    """The conversion from a profile to sRGB, None if there is none to do; and what is wrong with the profile."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = getattr(source.profile, "xcolor_space", "").strip()
        if {"L": "GRAY"}.get(mode, mode) != space:
            return None, "is of another color space than its pixels"
        name = ImageCms.getProfileDescription(source).lower()
        if "srgb" in name and "linear" not in name:
            return None, ""
        return ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB"), ""
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None, "cannot be read"


def _with_channels(picture: Image.Image, rules: Rules) -> Image.Image:
    """As L, RGB or RGBA, without alpha composed on the background."""
    if rules.channels == 4:
        return picture.convert("RGBA")
    if picture.mode in ("LA", "RGBA"):
        behind = Image.new("RGBA", picture.size, (*rules.background, 255))
        picture = Image.alpha_composite(behind, picture.convert("RGBA")).convert("RGB")
    return (
        picture.convert("RGB").convert("L")
        if rules.channels == 1 and picture.mode != "L"
        else picture.convert("L" if rules.channels == 1 else "RGB")
    )


def _fit(picture: Image.Image, resolution: Resolution, rules: Rules) -> Image.Image:
    """Resize to the resolution."""
    (width, height), (rows, columns) = picture.size, height_width(resolution)
    size = (columns, rows)
    if rules.fit == "pad":
        # Fractions of whole numbers, so that they are rounded alike on any machine.
        top, bottom = (columns, width) if width * rows >= height * columns else (rows, height)
        size = (max(1, math.floor(width * top / bottom + 0.5)), max(1, math.floor(height * top / bottom + 0.5)))
    elif rules.fit == "crop":
        inside = min(width, height * columns // rows), min(height, width * rows // columns)
        inside = max(1, inside[0]), max(1, inside[1])
        left, above = (width - inside[0]) // 2, (height - inside[1]) // 2
        picture = picture.crop((left, above, left + inside[0], above + inside[1]))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    if rules.fit != "pad":
        return picture
    behind = Image.new("RGBA", (columns, rows), (*rules.background, 0))
    behind = behind if picture.mode == "RGBA" else behind.convert("RGB").convert(picture.mode)
    behind.paste(picture, ((columns - size[0]) // 2, (rows - size[1]) // 2))
    return behind
