"""Inputs that are out of the ordinary, with what must become of each; `odd_shards` has tars and parquet files."""

import io
import json
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

SIDE = 8
Color = Sequence[float]


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        text: what it is, for the table.
        build: writes it into a folder; the path that it returns is `data.path`, by default the folder.
        outcome: for the table; "refused: ..." if no run may start.
        first: of the picture that sorts first: its color, or its pixels `[C, H, W]`, 0 to 255.
        tolerance: of pixels, for lossy formats.
        labels: classes in the order of names; None if there are none.
        num_classes: if not the number of different labels.
        names: what the error must name.
        settings: overrides.
        without: names of functions that find no reader, so that one is missing whatever is installed.
    """

    text: str
    build: Callable[[Path], Path | None]
    outcome: str
    first: Color | np.ndarray | None = None
    tolerance: int = 0
    labels: Sequence[int] | None = None
    num_classes: int | None = None
    names: str = "a.png"
    settings: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


def encoded(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The picture's file."""
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(color: Any, mode: str = "RGB", size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """A picture of one color."""
    return Image.new(mode, size, color)


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


ORDINARY = encoded(plain((10, 20, 30)))
GRAY = encoded(plain(40, "L"))
RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)


def one(content: bytes, name: str = "a.png", other: bytes = ORDINARY) -> Callable[[Path], None]:
    """A folder with this file, and an ordinary picture that sorts after it."""

    def build(folder: Path) -> None:
        (folder / name).write_bytes(content)
        (folder / "z.png").write_bytes(other)

    return build


def tree(*names: str, files: Mapping[str, bytes] | None = None) -> Callable[[Path], None]:
    """A folder with ordinary pictures at these names, and other files."""

    def build(folder: Path) -> None:
        for index, name in enumerate(names):
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(plain((index, 0, 0))))
        write(folder, files or {})

    return build


def labeled(labels: Any, *names: str, at: str = "") -> Callable[[Path], None]:
    """A folder with ordinary pictures and a dataset.json: of labels, or with this text."""
    text = labels if isinstance(labels, bytes) else json.dumps({"labels": labels}).encode()
    return tree(*(names or ("a.png", "b.png", "c.png")), files={f"{at}dataset.json": text})


def zipped(build: Callable[[Path], object], change: Callable[[bytes], bytes] = bytes, **options: Any) -> Any:
    """What `build` writes, as a zip."""

    def pack(folder: Path) -> Path:
        content, path = folder / "content", folder / "pictures.zip"
        content.mkdir()
        build(content)
        with zipfile.ZipFile(path, "w", **options) as archive:
            for file in sorted(content.rglob("*")):
                if file.is_file():
                    archive.write(file, file.relative_to(content))
        path.write_bytes(change(path.read_bytes()))
        return path

    return pack


def packed(*entries: tuple[str, bytes]) -> Callable[[Path], Path]:
    """A zip with these entries, whatever their names."""

    def build(folder: Path) -> Path:
        with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
            for name, content in entries:
                archive.writestr(zipfile.ZipInfo(name), content)
        return folder / "pictures.zip"

    return build


def linked_entry(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "pictures.zip", "w") as archive:
        entry = zipfile.ZipInfo("a.png")
        entry.external_attr = 0o120777 << 16
        archive.writestr(entry, b"elsewhere/b.png")
        archive.writestr("b.png", ORDINARY)
    return folder / "pictures.zip"


def png(rows: Sequence[bytes], width: int, depth: int, color_type: int, extra: bytes = b"") -> bytes:
    """A PNG of raw rows, for what Pillow does not write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = (chunk(b"IHDR", header), extra and chunk(b"tRNS", extra), chunk(b"IDAT", body), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def deep(values: Any, kind: str = "PNG", dtype: str = "uint16", **options: Any) -> bytes:
    return encoded(Image.fromarray(np.broadcast_to(values, (SIDE, SIDE)).astype(dtype)), kind, **options)


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))


def truncated(kind: str) -> bytes:
    content = encoded(NOISE, kind)
    return content[: len(content) * 2 // 3]


QUARTERS = np.zeros((SIDE, SIDE, 3), np.uint8)
"""Red, green, blue and white quarters: all eight orientations differ."""
QUARTERS[:4, :4], QUARTERS[:4, 4:], QUARTERS[4:, :4], QUARTERS[4:, 4:] = RED, GREEN, BLUE, WHITE
UPRIGHT = QUARTERS.transpose(2, 0, 1)


def turned(orientation: int, kind: str = "PNG", **options: Any) -> bytes:
    """The quarters, stored in this orientation of EXIF."""
    stored = {
        2: QUARTERS[:, ::-1],
        3: QUARTERS[::-1, ::-1],
        4: QUARTERS[::-1],
        5: QUARTERS.transpose(1, 0, 2),
        6: np.rot90(QUARTERS, 1),
        7: np.rot90(QUARTERS, 2).transpose(1, 0, 2),
        8: np.rot90(QUARTERS, -1),
    }.get(orientation, QUARTERS)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)


def swapped_profile() -> bytes:
    """A color profile like sRGB, but with red and green exchanged, so that red pixels mean green."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {
        bytes(content[at : at + 4]): at for at in range(132, 132 + 12 * int.from_bytes(content[128:132], "big"), 12)
    }
    red, green = tags[b"rXYZ"], tags[b"gXYZ"]
    content[red + 4 : red + 12], content[green + 4 : green + 12] = (
        content[green + 4 : green + 12],
        content[red + 4 : red + 12],
    )
    return bytes(content).replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be")).replace(b"sRGB", b"test")


def gray_profile() -> bytes:
    """A color profile of gray pixels that are linear in light."""
    white = b"XYZ \0\0\0\0" + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, 0x100, 0)
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"gray\0" + bytes(79)
    start = 128 + 4 + 3 * 12
    table, body = b"", b""
    for tag, data in ((b"desc", name), (b"wtpt", white), (b"kTRC", curve)):
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"lcms", 0x02100000, b"mntr", b"GRAY", b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + struct.pack(">3I", 0xF6D6, 0x10000, 0xD32D)
    return head + bytes(128 - len(head)) + struct.pack(">I", 3) + table + body


def stripes(width: int, height: int, *, along: int) -> Image.Image:
    """Three stripes of red, green and blue along an axis (0: from top to bottom)."""
    pixels = np.zeros((height, width, 3), np.uint8)
    at = np.arange(pixels.shape[along]) * 3 // pixels.shape[along]
    pixels[:] = np.array([RED, GREEN, BLUE], np.uint8)[at[:, None] if along == 0 else at[None, :]]
    return Image.fromarray(pixels)


def padded(bar: Color, inner: Color) -> np.ndarray:
    """What becomes of a 16 x 8 picture with `data.fit = pad`."""
    pixels = np.empty((len(bar), SIDE, SIDE))
    pixels[:] = np.array(bar).reshape(-1, 1, 1)
    pixels[:, 2:6] = np.array(inner).reshape(-1, 1, 1)
    return pixels


def transparent(color: Color, alpha: int) -> bytes:
    return encoded(plain((*map(int, color), alpha), "RGBA"))


def palette(**options: Any) -> bytes:
    picture = plain(0, "P")
    picture.putpalette([200, 30, 40, 0, 255, 0])
    return encoded(picture, **options)


def frames(kind: str) -> bytes:
    options = {"lossless": True} if kind == "WEBP" else {}
    return encoded(plain(RED), kind, save_all=True, append_images=[plain(BLUE)], **options)


def link_in(make: Callable[[Path, Path], object]) -> Callable[[Path], Path]:
    """A folder `data` with two pictures in which `make(data, elsewhere)` makes something."""

    def build(folder: Path) -> Path:
        write(folder, {"elsewhere/1.png": encoded(plain(RED)), "data/y.png": ORDINARY, "data/z.png": ORDINARY})
        make(folder / "data", folder / "elsewhere")
        return folder / "data"

    return build


def at(name: str, content: bytes = b"") -> Callable[[Path], Path]:
    """A file that is `data.path` itself, or a path without a file."""

    def build(folder: Path) -> Path:
        if content:
            (folder / name).write_bytes(content)
        return folder / name

    return build


def strange_name(folder: Path) -> None:
    write(folder, {"z.png": ORDINARY})
    with open(os.fsencode(folder) + b"/a\xff\n.png", "wb") as file:
        file.write(b"")


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CHECKERS = Image.fromarray((np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8))

COLORS = [
    Case("8-bit RGB", one(encoded(plain((1, 2, 3)))), "as it is", (1, 2, 3)),
    Case("gray beside RGB", one(encoded(plain(77, "L"))), "three equal channels", (77, 77, 77)),
    Case("gray only", one(GRAY, other=GRAY), "one channel", (40,)),
    Case(
        "gray only, `data.channels=3`",
        one(GRAY, other=GRAY),
        "three equal channels",
        (40, 40, 40),
        settings=("data.channels=3",),
    ),
    Case(
        "RGB, `data.channels=1`", one(encoded(plain(GREEN))), "luma (ITU-R 601)", (150,), settings=("data.channels=1",)
    ),
    Case("1 bit (PNG)", one(encoded(plain(1, "1"))), "black is 0, white is 255", WHITE),
    Case("1 bit (TIFF)", one(encoded(plain(1, "1"), "TIFF"), "a.tif"), "black is 0, white is 255", WHITE),
    Case("palette", one(palette()), "its colors", (200, 30, 40)),
    Case("palette with a transparent color", one(palette(transparency=0)), "on `data.background`", WHITE),
    Case("YCbCr (TIFF)", one(encoded(plain((90, 128, 128), "YCbCr"), "TIFF"), "a.tif"), "RGB", (90, 90, 90), 1),
    Case("gray JPEG", one(encoded(plain(99, "L"), "JPEG"), "a.jpg"), "three equal channels", (99, 99, 99), 1),
    Case(
        "CMYK without a profile (JPEG)",
        one(encoded(plain((0, 255, 255, 0), "CMYK"), "JPEG"), "a.jpg"),
        "plain formula, with a warning",
        RED,
        3,
    ),
    Case(
        "CMYK without a profile (TIFF)",
        one(encoded(plain((0, 255, 255, 0), "CMYK"), "TIFF"), "a.tif"),
        "plain formula, with a warning",
        RED,
    ),
    Case("CIELAB (TIFF)", one(encoded(plain(0, "LAB"), "TIFF"), "a.tif"), "refused: convert it", names="a.tif"),
    Case("16-bit gray (PNG)", one(deep(257 * 77 + 100)), "divided by 257, rounded", (77, 77, 77)),
    Case(
        "16-bit gray (TIFF, big-endian)",
        one(deep(257 * 77, "TIFF", ">u2"), "a.tif"),
        "divided by 257, rounded",
        (77, 77, 77),
    ),
    Case(
        "16-bit gray, `data.range=[0, 4095]`",
        one(deep(4095)),
        "4095 is white",
        WHITE,
        settings=("data.range=[0, 4095]",),
    ),
    Case(
        "16-bit RGB (PNG)",
        one(png([struct.pack(">3H", 65535, 32768, 300) * SIDE] * SIDE, SIDE, 16, 2)),
        "upper 8 bits, with a warning",
        (255, 128, 1),
    ),
    Case(
        "16-bit RGB, `data.range=[0, 4095]`",
        one(png([struct.pack(">3H", 1, 2, 3) * SIDE] * SIDE, SIDE, 16, 2)),
        "refused: Pillow reads 8 bits of them",
        settings=("data.range=[0, 4095]",),
    ),
    Case(
        "16-bit gray with a transparent value",
        one(png([struct.pack(">H", 99) * SIDE] * SIDE, SIDE, 16, 0, struct.pack(">H", 99))),
        "refused: save it with an alpha channel",
    ),
    Case(
        "float TIFF, `data.range=[-1, 1]`",
        one(deep(0.5, "TIFF", "float32"), "a.tif"),
        "scaled to the range",
        (191, 191, 191),
        settings=("data.range=[-1, 1]",),
    ),
    Case(
        "float TIFF beyond `data.range`",
        one(deep(7.0, "TIFF", "float32"), "a.tif"),
        "clipped to the range",
        WHITE,
        settings=("data.range=[-1, 1]",),
    ),
    Case("float TIFF", one(deep(0.5, "TIFF", "float32"), "a.tif"), "refused: name `data.range`", names="a.tif"),
    Case(
        "float TIFF with NaN",
        one(deep(np.nan, "TIFF", "float32"), "a.tif"),
        "refused",
        names="a.tif",
        settings=("data.range=[0, 1]",),
    ),
    Case(
        "32-bit integers (TIFF)",
        one(deep(70000, "TIFF", "int32"), "a.tif"),
        "refused: name `data.range`",
        names="a.tif",
    ),
    Case(
        "32-bit integers, `data.range=[0, 70000]`",
        one(deep(70000, "TIFF", "int32"), "a.tif"),
        "scaled to the range",
        WHITE,
        settings=("data.range=[0, 70000]",),
    ),
    Case("RGBA", one(transparent(RED, 0)), "on `data.background`, white by default, with a warning", WHITE),
    Case("RGBA, half transparent", one(transparent(BLACK, 51)), "on `data.background`", (204, 204, 204)),
    Case(
        "RGBA, `data.background=[0, 0, 255]`",
        one(transparent(RED, 0)),
        "on blue",
        BLUE,
        settings=("data.background=[0, 0, 255]",),
    ),
    Case(
        "RGBA, `data.channels=4`",
        one(transparent((9, 8, 7), 100)),
        "four channels",
        (9, 8, 7, 100),
        settings=("data.channels=4",),
    ),
    Case(
        "hidden colors, `data.channels=4`",
        one(transparent(RED, 0)),
        "wholly transparent pixels have the background's color",
        (255, 255, 255, 0),
        settings=("data.channels=4",),
    ),
    Case("RGB, `data.channels=4`", one(encoded(plain(RED))), "opaque", (255, 0, 0, 255), settings=("data.channels=4",)),
    Case("gray with alpha", one(encoded(plain((0, 0), "LA"))), "on `data.background`", WHITE),
    Case(
        "gray with alpha only", one(encoded(plain((0, 51), "LA")), other=GRAY), "one channel, on the background", (204,)
    ),
    Case("RGB with a transparent color", one(encoded(plain(RED), transparency=RED)), "on `data.background`", WHITE),
    Case("gray with a transparent value", one(encoded(plain(9, "L"), transparency=9)), "on `data.background`", WHITE),
    Case(
        "sRGB profile",
        one(
            encoded(plain((1, 99, 200)), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        ),
        "as it is",
        (1, 99, 200),
    ),
    Case("another RGB profile", one(encoded(plain(RED), icc_profile=swapped_profile())), "converted to sRGB", GREEN, 1),
    Case(
        "another RGB profile, RGBA, `data.channels=4`",
        one(encoded(plain((255, 0, 0, 100), "RGBA"), icc_profile=swapped_profile())),
        "converted to sRGB, alpha stays",
        (0, 255, 0, 100),
        1,
        settings=("data.channels=4",),
    ),
    Case(
        "gray profile, linear",
        one(encoded(plain(55, "L"), icc_profile=gray_profile())),
        "converted to sRGB",
        (128, 128, 128),
        1,
    ),
    Case(
        "damaged profile", one(encoded(plain(RED), icc_profile=b"not a profile")), "taken for sRGB, with a warning", RED
    ),
    Case(
        "profile of another color space",
        one(encoded(plain(99, "L"), icc_profile=swapped_profile())),
        "taken for sRGB, with a warning",
        (99, 99, 99),
    ),
]

SHAPES = [
    *(Case(f"EXIF orientation {number}", one(turned(number)), "upright", UPRIGHT) for number in range(1, 9)),
    Case("EXIF orientation (JPEG)", one(turned(6, "JPEG", quality=100, subsampling=0), "a.jpg"), "upright", UPRIGHT, 3),
    Case("EXIF orientation (TIFF)", one(turned(6, "TIFF"), "a.tif"), "upright", UPRIGHT),
    Case("EXIF orientation (WebP)", one(turned(8, "WEBP", lossless=True), "a.webp"), "upright", UPRIGHT),
    Case(
        "EXIF orientation (AVIF)",
        one(turned(6, "AVIF", quality=100, subsampling="4:4:4"), "a.avif"),
        "upright",
        UPRIGHT,
        8,
    ),
    Case("EXIF orientation 9", one(turned(9)), "as it is", UPRIGHT),
    Case(
        "damaged EXIF",
        one(encoded(Image.fromarray(QUARTERS), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")),
        "as it is",
        UPRIGHT,
    ),
    Case("wide", one(encoded(stripes(24, 8, along=1))), "central square", GREEN),
    Case("tall", one(encoded(stripes(8, 24, along=0))), "central square", GREEN),
    Case(
        "wide, shrunk", one(encoded(stripes(192, 64, along=1))), "cropped first: nothing from outside the square", GREEN
    ),
    Case(
        "wide, `data.fit=pad`",
        one(encoded(plain(RED, size=(16, 8)))),
        "bars in `data.background`",
        padded(WHITE, RED),
        settings=("data.fit=pad",),
    ),
    Case(
        "wide, `data.fit=pad`, `data.channels=4`",
        one(encoded(plain(RED, size=(16, 8)))),
        "transparent bars",
        padded((*WHITE, 0), (*RED, 255)),
        settings=("data.fit=pad", "data.channels=4"),
    ),
    Case(
        "wide, `data.fit=stretch`",
        one(encoded(plain(RED, size=(16, 8)))),
        "stretched",
        RED,
        settings=("data.fit=stretch",),
    ),
    Case("larger than `data.resolution`", one(encoded(CHECKERS)), "averaged, no aliasing", (128, 128, 128), 1),
    Case("1 x 1 pixel", one(encoded(plain(RED, size=(1, 1)))), "enlarged, with a warning", RED),
    Case("90 million pixels", one(encoded(plain(0, "1", (10_000, 9_000)))), "refused"),
    Case("180 million pixels", one(encoded(plain(0, "1", (20_000, 9_000)))), "refused"),
]

CONTENTS = [
    Case("GIF", one(encoded(plain(RED), "GIF"), "a.gif"), "its colors", RED),
    Case("animated GIF", one(frames("GIF"), "a.gif"), "first frame, with a warning", RED),
    Case("animated PNG", one(frames("PNG")), "first frame, with a warning", RED),
    Case("animated WebP", one(frames("WEBP"), "a.webp"), "first frame, with a warning", RED),
    Case("TIFF with several pages", one(frames("TIFF"), "a.tiff"), "first page, with a warning", RED),
    Case("BMP", one(encoded(plain(RED), "BMP"), "a.bmp"), "as it is", RED),
    Case("AVIF", one(encoded(plain(RED), "AVIF"), "a.avif"), "as Pillow decodes it", RED, 4),
    Case(
        "AVIF, old Pillow",
        one(encoded(plain(RED), "AVIF"), "a.avif"),
        "refused: install a newer Pillow",
        names="a.avif",
        without=("has_avif",),
    ),
    Case(
        "HEIC without pillow-heif",
        one(HEIC, "a.heic"),
        "refused: install `ganscale[heif]`",
        names="a.heic",
        without=("has_heif",),
    ),
    Case(
        "HEIC named .jpg without pillow-heif",
        one(HEIC, "a.jpg"),
        "refused: install `ganscale[heif]`",
        names="a.jpg",
        without=("has_heif",),
    ),
    Case("JPEG named .png", one(encoded(plain(RED), "JPEG")), "by its content", RED, 3),
    Case("PNG named .JPG", one(encoded(plain(RED)), "a.JPG"), "by its content", RED),
    Case(".jfif, .jpe", one(encoded(plain(RED), "JPEG"), "a.jfif"), "JPEG", RED, 3),
    Case("PNG without an ending", one(ORDINARY, "a"), "refused: rename it", names="a "),
    Case("JPEG named .dat", one(encoded(plain(RED), "JPEG"), "a.dat"), "refused: rename it", names="a.dat"),
    *(
        Case(f"{ending} ({kind})", one(b"anything", f"a{ending}"), "refused: convert it", names=f"a{ending}")
        for ending, kind in (
            (".svg", "SVG"),
            (".psd", "Photoshop"),
            (".dng", "raw"),
            (".jp2", "JPEG 2000"),
            (".ppm", "Netpbm"),
            (".exr", "OpenEXR"),
        )
    ),
    Case("empty file", one(b""), "refused"),
    *(
        Case(f"truncated {kind}", one(truncated(kind), f"a.{kind.lower()}"), "refused", names=f"a.{kind.lower()}")
        for kind in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
    ),
    Case("text named .png", one(b"not a png"), "refused"),
    Case("web page named .jpg", one(b"<!DOCTYPE html><html>404</html>", "a.jpg"), "refused", names="a.jpg"),
    Case("pointer of Git LFS", one(LFS), "refused: run git lfs pull"),
    Case("PNG with damaged pixels", one(ORDINARY[:-20] + bytes(4) + ORDINARY[-16:]), "refused"),
]

FILES = [
    Case(
        "hidden files (`._a.png`, `.DS_Store`, `Thumbs.db`)",
        tree("b.png", "c.png", files={"._a.png": b"", ".DS_Store": b"", "Thumbs.db": b""}),
        "left out",
        BLACK,
    ),
    Case(
        "hidden folders (`.ipynb_checkpoints`, `__MACOSX`, `@eaDir`)",
        tree("b.png", "c.png", files={".ipynb_checkpoints/a.png": b"", "@eaDir/b.png": b"", "__MACOSX/c.png": b""}),
        "left out",
        BLACK,
    ),
    Case(
        "texts beside pictures",
        tree("a.png", "b.png", files={"a.txt": b"a caption", "table.csv": b"1,2"}),
        "left out, with a line in the log",
        BLACK,
    ),
    Case(
        "link to a picture", link_in(lambda data, other: (data / "a.png").symlink_to(other / "1.png")), "followed", RED
    ),
    Case(
        "linked folder",
        link_in(
            lambda data, other: (
                (data / "a").symlink_to(other)
                or [(data / "b").mkdir(), *((data / name).rename(data / "b" / name) for name in ("y.png", "z.png"))]
            )
        ),
        "followed; the link's name is the class",
        RED,
        labels=(0, 1, 1),
    ),
    Case("link to nothing", link_in(lambda data, other: (data / "a.png").symlink_to(other / "2.png")), "refused"),
    Case(
        "link to a folder that holds it",
        link_in(lambda data, _: (data / "loop").symlink_to(data)),
        "refused",
        names="loop",
    ),
    Case("named pipe", link_in(lambda data, _: os.mkfifo(data / "a.png")), "refused"),
    Case("folder called `a.png`", tree("a.png/1.png", "b/2.png"), "a class as any other", BLACK, labels=(0, 1)),
    Case("names with spaces and accents", tree("ä b.png", "日.png"), "as any other", BLACK),
    Case(
        "name that is not UTF-8, of an empty file", strange_name, "refused: escaped in the message", names=r"a\udcff\n"
    ),
    Case("one picture", tree("a.png"), "refused: name a folder with many", names="single picture"),
    Case("two pictures", tree("a.png", "b.png"), "with a warning that they are few", BLACK),
    Case("folder without pictures", lambda folder: write(folder, {"a.txt": b"text"}), "refused", names="a.txt"),
    Case(
        "folder that holds a zip",
        lambda folder: write(folder, {"a.zip": b"PK"}),
        "refused: unpack it, or name the zip",
        names="a.zip",
    ),
    Case("no such path", at("a"), "refused", names="/a"),
    Case("a picture as `data.path`", at("a.png", ORDINARY), "refused"),
    Case("a tar as `data.path`", at("a.tar", bytes(1024)), "refused", names="a.tar"),
    Case("NumPy arrays", lambda folder: write(folder, {"a.npy": b"\x93NUMPY"}), "refused", names="a.npy"),
]

LABELS = [
    Case("folders, one deep", tree("a/1.png", "b/1.png", "b/2.png"), "classes in the order of names", labels=(0, 1, 1)),
    Case("one folder for all", tree("a/1.png", "a/2.png"), "no classes"),
    Case("folders in a folder that holds all", tree("all/a/1.png", "all/b/1.png"), "classes", labels=(0, 1)),
    Case("folders, two deep", tree("a/x/1.png", "b/x/1.png"), "refused: choose `data.labels`", names="a/x/1.png"),
    Case(
        "folders, two deep, `data.labels=top`",
        tree("a/x/1.png", "a/y/1.png", "b/x/1.png"),
        "first folder",
        labels=(0, 0, 1),
        settings=("data.labels=top",),
    ),
    Case(
        "folders, two deep, `data.labels=path`",
        tree("a/x/1.png", "a/y/1.png", "b/x/1.png"),
        "every folder",
        labels=(0, 1, 2),
        settings=("data.labels=path",),
    ),
    Case("folders, `data.labels=none`", tree("a/x/1.png", "b/1.png"), "no classes", settings=("data.labels=none",)),
    Case("pictures beside folders of classes", tree("1.png", "a/1.png"), "refused: move them", names="1.png"),
    Case("`dataset.json`", labeled([["a.png", 1], ["c.png", 0], ["b.png", 1]]), "its classes", labels=(1, 1, 0)),
    Case(
        "`dataset.json` with folders",
        labeled([["0/a.png", 1], ["1/b.png", 0], ["1/c.png", 1]], "0/a.png", "1/b.png", "1/c.png"),
        "its classes, not the folders",
        labels=(1, 0, 1),
    ),
    Case(
        "`dataset.json` with names of classes",
        labeled([["a.png", "dog"], ["b.png", "cat"], ["c.png", "dog"]]),
        "in the order of names",
        labels=(1, 0, 1),
    ),
    Case(
        "`dataset.json` with one-hot vectors",
        labeled([["a.png", [0, 1, 0]], ["b.png", [1, 0, 0]], ["c.png", [0, 1, 0]]]),
        "their places",
        labels=(1, 0, 1),
        num_classes=3,
    ),
    Case("`dataset.json` as a mapping", labeled({"a.png": 0, "b.png": 1, "c.png": 1}), "its classes", labels=(0, 1, 1)),
    Case("`dataset.json` with labels null", labeled(None, "0/a.png", "1/b.png"), "no classes"),
    Case(
        "`dataset.json` with null for every picture",
        labeled([["a.png", None], ["b.png", None], ["c.png", None]]),
        "no classes",
    ),
    Case(
        "`dataset.json` that skips a class",
        labeled([["a.png", 0], ["b.png", 2], ["c.png", 2]]),
        "with a warning",
        labels=(0, 2, 2),
        num_classes=3,
    ),
    Case(
        "`dataset.json` in the folder that holds all",
        labeled([["a.png", 1], ["b.png", 0]], "all/a.png", "all/b.png", at="all/"),
        "its classes",
        labels=(1, 0),
    ),
    Case(
        "`dataset.json` in one of the folders",
        labeled([["a.png", 1]], "x/a.png", "y/b.png", at="x/"),
        "refused: name that folder",
        names="x/dataset.json",
    ),
    Case(
        "`dataset.json`, `data.labels=top`",
        labeled(b"{", "x/a.png", "y/b.png"),
        "the folders, not the file",
        labels=(0, 1),
        settings=("data.labels=top",),
    ),
    Case("picture that `dataset.json` does not list", labeled([["a.png", 0], ["b.png", 1]]), "refused", names="c.png"),
    Case(
        "`dataset.json` lists a missing picture",
        labeled([["a.png", 0], ["b.png", 0], ["c.png", 0], ["d.png", 1]]),
        "refused",
        names="d.png",
    ),
    Case(
        "`dataset.json` lists a picture twice",
        labeled([["a.png", 0], ["b.png", 0], ["c.png", 0], ["a.png", 1]]),
        "refused",
    ),
    *(
        Case(f"`dataset.json` with {text}", labeled([["a.png", value], ["b.png", 0], ["c.png", 1]]), "refused")
        for text, value in (
            ("a negative class", -1),
            ("the class 1.5", 1.5),
            ("the class true", True),
            ("null among numbers", None),
            ("a name among numbers", "cat"),
            ("a vector among numbers", [0, 1]),
            ("the class 1,000,000", 1_000_000),
        )
    ),
    Case(
        "`dataset.json` with attributes", labeled([["a.png", [1, 1]], ["b.png", [0, 1]], ["c.png", [1, 0]]]), "refused"
    ),
    Case("`dataset.json` that is no JSON", labeled(b"{"), "refused", names="dataset.json"),
    Case("`dataset.json` without labels", labeled(b'{"images": []}'), "refused", names="dataset.json"),
    Case("`dataset.json` with other entries", labeled([["a.png"], ["b.png"]]), "refused", names="dataset.json"),
    Case(
        "conditional networks, no classes",
        tree("a.png", "b.png"),
        "refused: use none, or make folders",
        names="no classes",
        settings=("model.generator.conditioning=concat", "model.discriminator.conditioning=projection"),
    ),
]

ZIPS = [
    Case("zip of folders", zipped(tree("a/1.png", "b/1.png")), "as the folder", labels=(0, 1)),
    Case(
        "zip of StyleGAN's dataset_tool, with labels",
        zipped(
            labeled(
                [["00000/img00000000.png", 1], ["00000/img00000001.png", 0]],
                "00000/img00000000.png",
                "00000/img00000001.png",
            )
        ),
        "its classes",
        labels=(1, 0),
    ),
    Case(
        "zip of StyleGAN's dataset_tool, without labels",
        zipped(labeled(None, "00000/img00000000.png", "00001/img00001000.png")),
        "no classes: folders are shards",
    ),
    Case(
        "zip with the system's files",
        packed(("__MACOSX/._a.png", b""), ("b.png", ORDINARY), ("c.png", ORDINARY)),
        "left out",
        (10, 20, 30),
    ),
    Case("zip with backslashes", packed(("a\\1.png", ORDINARY), ("b\\1.png", ORDINARY)), "folders", labels=(0, 1)),
    Case(
        "zip with ./ before names", packed(("./a/1.png", ORDINARY), ("./b/1.png", ORDINARY)), "folders", labels=(0, 1)
    ),
    Case(
        "encrypted zip",
        zipped(tree("a.png", "b.png"), lambda c: c.replace(b"PK\1\2\x14\3\x14\0\0\0", b"PK\1\2\x14\3\x14\0\1\0")),
        "refused",
    ),
    Case("zip with bzip2", zipped(tree("a.png", "b.png"), compression=zipfile.ZIP_BZIP2), "refused: pack it again"),
    Case(
        "zip with a damaged entry",
        zipped(tree("a.png", "b.png"), lambda c: c.replace(b"IDATx", b"IDATy", 1)),
        "refused",
    ),
    Case("zip with a name twice", packed(("a.png", ORDINARY), ("a.png", GRAY)), "refused"),
    Case("zip with a link", linked_entry, "refused"),
    Case("truncated zip", zipped(tree("a.png", "b.png"), lambda c: c[:-30]), "refused", names="pictures.zip"),
    Case("empty zip file", at("pictures.zip", b" "), "refused", names="pictures.zip"),
    Case("zip without pictures", packed(("a.txt", b"text")), "refused", names="a.txt"),
]
