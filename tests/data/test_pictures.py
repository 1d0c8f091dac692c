"""Pixels of single pictures, beside what test_odd_inputs.py has of them."""

import hashlib
import io
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from ganscale.data.pictures import Rules, decode, has_heif, kind_of, read_header


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def test_a_crop_is_that_of_stylegans_tool() -> None:
    """`center-crop` of dataset_tool.py: the array is cut, then resized."""
    pixels = noise(45, 70)
    cut = pixels[:, (70 - 45) // 2 :][:, :45]
    expected = np.asarray(Image.fromarray(cut).resize((16, 16), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(decode(encoded(pixels), 16), expected.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(45, 70), (70, 45), (9, 90)], ids=str)
@pytest.mark.parametrize("resolution", [(16, 24), (24, 16)], ids=str)
def test_a_crop_has_the_images_aspect_ratio(resolution: tuple[int, int], shape: tuple[int, int]) -> None:
    (height, width), (rows, columns), pixels = shape, resolution, noise(*shape)
    size = min(height, width * rows // columns), min(width, height * columns // rows)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    cut = Image.fromarray(pixels[top : top + size[0], left : left + size[1]])
    expected = np.asarray(cut.resize((columns, rows), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(decode(encoded(pixels), resolution), expected.transpose(2, 0, 1))


def test_bars_and_stretching_fill_the_image() -> None:
    pixels = np.zeros((20, 20, 3), np.uint8)
    wide = decode(encoded(pixels), (16, 24), Rules(fit="pad"))[0]
    np.testing.assert_array_equal(wide, np.where(abs(np.arange(24) - 11.5) < 8, 0, 255)[None].repeat(16, 0))
    tall = decode(encoded(pixels), (24, 16), Rules(fit="pad"))[0]
    np.testing.assert_array_equal(tall, wide.T)
    assert decode(encoded(pixels), (16, 24), Rules(fit="stretch")).max() == 0


def test_small_pictures_are_noted_by_the_side_that_decides() -> None:
    def remarks(shape: tuple[int, int], fit: Literal["crop", "pad"]) -> tuple[str, ...]:
        return read_header(io.BytesIO(encoded(noise(*shape))), Rules(fit=fit), (16, 32)).remarks

    assert remarks((16, 32), "crop") == remarks((10, 32), "pad") == ()
    for found in (remarks((16, 31), "crop"), remarks((15, 64), "crop"), remarks((15, 31), "pad")):
        assert found == ("smaller than data.resolution = 16x32, and therefore enlarged",)


@pytest.mark.parametrize(
    ("rules", "sha256"),
    [
        (Rules(), "3430180cf384ec38"),
        (Rules(fit="pad", channels=1), "a8de14e30f1b48da"),
        (Rules(fit="stretch", channels=4), "272a2c3bd6479072"),
    ],
)
def test_pixels_do_not_depend_on_the_machine(rules: Rules, sha256: str) -> None:
    pixels = np.dstack((noise(61, 40), noise(61, 40)[..., :1]))
    assert hashlib.sha256(decode(encoded(pixels), 16, rules).tobytes()).hexdigest()[:16] == sha256


def test_values_between_two_levels_are_rounded() -> None:
    values = np.array([[0, 128, 129, 65535 - 129, 65535 - 128, 65535]], np.uint16).repeat(6, 0)
    found = decode(encoded(values), 6, Rules(channels=1))[0, 0]
    np.testing.assert_array_equal(found, [0, 0, 1, 254, 255, 255])


def test_kinds_by_the_first_bytes() -> None:
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        assert kind_of(encoded(noise(8, 8), kind)[:16]) == "picture"
    assert kind_of(encoded(noise(8, 8), "AVIF")[:16]) == "avif"
    assert kind_of(b"a text that is longer than that") == kind_of(b"") == ""


def test_a_header_is_read_without_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda _: pytest.fail("decoded"))
    header = read_header(io.BytesIO(encoded(noise(12, 34))), Rules(), 8)
    assert (header.width, header.height, header.is_gray, header.is_deep, header.remarks) == (34, 12, False, False, ())


def test_heic_is_read_with_its_package() -> None:
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    assert has_heif()
    pixels = np.full((64, 64, 3), (200, 100, 50), np.uint8)
    found = decode(encoded(pixels, "HEIF"), 16)
    np.testing.assert_allclose(found, np.broadcast_to([[[200]], [[100]], [[50]]], found.shape), atol=6)
