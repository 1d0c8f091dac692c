"""Variants: their settings, equal results, and the command."""

import json

import pytest

from benchmarks.speed.__main__ import main
from benchmarks.speed.measure import Result, Spread
from benchmarks.speed.variants import VARIANTS, Variant, compare, recommendation, table, variant
from ganscale.config import load
from tests.runs import DCGAN

SMALL = ["train.batch_size=6", "train.device=cpu", *DCGAN]


def test_variants_set_what_they_say() -> None:
    train = variant(load(None, SMALL), "bf16+channels_last").train
    assert (train.precision, train.channels_last, train.compile) == ("bfloat16", True, False)
    assert len({tuple(settings.values()) for settings in VARIANTS.values()}) == len(VARIANTS)


def test_variants_compute_the_same_but_for_rounding() -> None:
    base, layout, half = compare(load(None, SMALL), ["float32", "channels_last", "bf16"], iterations=1, rounds=1)
    assert layout.loss_d == pytest.approx(base.loss_d, rel=1e-4)
    assert half.loss_d == pytest.approx(base.loss_d, rel=2e-2)
    assert half.loss_g != base.loss_g
    assert base.result.ratio is None
    assert base.utilization is None


def test_ratios_are_inverted() -> None:
    """A base with half the speed means faster by 2."""
    times = Spread(1.0, 1.0, 1.0, 1.0, 1.0)
    text = table([Variant(Result("x", 10.0, times, Spread(0.5, 0.4, 0.8, 0.4, 0.8)), 1.0, 2.0, 0.25)])
    assert "2.000 [1.250..2.500]" in text
    assert "25.0 %" in text


FAST, FASTER = [1.2 + 0.01 * number for number in range(10)], [1.6 + 0.01 * number for number in range(10)]
NOISY, SLOW, EQUAL = [0.5, 0.6, *[2.0] * 8], [0.8, 0.9] * 5, [1.0] * 10


@pytest.mark.parametrize(
    ("speedups", "expected"),
    [
        ({}, "float32"),
        ({"bf16": SLOW}, "float32"),
        ({"bf16": EQUAL}, "float32"),
        ({"bf16": NOISY}, "float32"),
        ({"bf16": FASTER[:5]}, "float32"),
        ({"bf16": FASTER[:6]}, "bf16"),
        ({"bf16": [0.03, *FASTER[1:]]}, "bf16"),
        ({"channels_last": FAST, "bf16": FASTER, "compile": SLOW}, "bf16"),
        ({"channels_last": FAST, "bf16": FAST}, "channels_last"),
        ({"channels_last": FAST, "bf16": NOISY}, "channels_last"),
    ],
    ids=[
        *("alone", "slower", "equal", "noisy", "too-few-rounds", "enough-rounds", "one-disturbed-round"),
        *("fastest", "tie-first", "fastest-not-certain"),
    ],
)
def test_the_fastest_variant_that_is_faster_for_certain_is_recommended(
    speedups: dict[str, list[float]], expected: str
) -> None:
    *_, text = recommendation("float32", speedups).split(": ")
    train = load(None, text.split()).train
    assert {name: getattr(train, name) for name in VARIANTS[expected]} == VARIANTS[expected]


def test_the_base_need_not_be_float32() -> None:
    assert recommendation("bf16", {"float32": SLOW}).endswith(recommendation("x", {"bf16": FAST}).split(": ")[-1])


def test_command(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    chosen = ["--variants", "float32,bf16", "--iterations", "1", "--rounds", "1", "--json", str(file)]
    assert main(["variants", "--presets", "mlp", *chosen, *SMALL]) == 0
    printed = capsys.readouterr().out
    assert "| bf16 " in printed
    assert "train.precision=float32" in printed, "one round proves nothing"
    assert [row["result"]["name"] for row in json.loads(file.read_text())["variants"]["mlp"]] == ["float32", "bf16"]
