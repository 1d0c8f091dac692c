"""Colors of the page: text and curves stand out from what is behind them (WCAG 2.2, AA), in light, dark and print."""

import re
from importlib.resources import files

import pytest

STYLE = files("ganscale.report").joinpath("assets", "style.css").read_text(encoding="utf-8")
SCHEMES = {
    "light": STYLE.split("@media")[0],
    "dark": STYLE.partition("prefers-color-scheme: dark")[2].partition("@media")[0].partition("* {")[0],
    "print": STYLE.partition("@media print")[2],
}
TEXT = ("ink", "quiet", "accent", "good", "bad")
CURVES = tuple(f"c{number}" for number in range(8))
PAPERS = ("paper", "card", "soft")


def colors(scheme: str) -> dict[str, tuple[int, ...]]:
    """Red, green and blue of each variable of a color scheme."""
    found = {}
    for name, digits in re.findall(r"--(\w+): #([0-9a-f]+);", SCHEMES[scheme]):
        full = digits if len(digits) == 6 else "".join(digit * 2 for digit in digits)
        found[name] = tuple(bytes.fromhex(full))
    return found


def luminance(color: tuple[int, ...]) -> float:
    """Relative luminance of an sRGB color (WCAG 2.2)."""
    parts = [value / 255 for value in color]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21.0)
    assert contrast((119, 119, 119), (255, 255, 255)) == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_text_and_curves_stand_out(scheme: str) -> None:
    known = colors(scheme)
    assert {*TEXT, *CURVES, *PAPERS} <= known.keys()
    for paper in PAPERS:
        low = {name: contrast(known[name], known[paper]) for name in TEXT}
        assert all(value >= 4.5 for value in low.values()), (paper, low)
    lines = {name: contrast(known[name], known["card"]) for name in CURVES}
    assert all(value >= 3.0 for value in lines.values()), lines


def test_no_color_is_written_outside_the_schemes() -> None:
    rest = re.sub(r":root \{.*?\}", "", STYLE, flags=re.DOTALL)
    assert re.findall(r"#[0-9a-f]{3,6}\b", rest) == ["#fff"], "behind pictures, which may be transparent"
