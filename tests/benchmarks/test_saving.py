"""The cost of saving: storage of a given speed, blocks in turn, and what follows from them."""

import io

import pytest

from benchmarks.speed import saving
from benchmarks.speed.__main__ import main
from benchmarks.speed.saving import Block, SlowFile, table
from tests.runs import MLP


def test_storage_of_a_given_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(saving.time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    inner = io.BytesIO()
    file = SlowFile(inner, 100.0)
    assert file.write(b"x" * 50) == 50
    assert now[0] == pytest.approx(0.5)
    now[0] += 10.0
    file.write(memoryview(b"y" * 200))
    assert now[0] == pytest.approx(12.5)
    assert inner.getvalue() == b"x" * 50 + b"y" * 200


def test_blocks_are_compared_within_their_round() -> None:
    none = [Block(10.0, 8.0, 0.0, 0.0), Block(20.0, 8.0, 0.0, 0.0)]
    other = [Block(15.0, 8.8, 5.0, 0.8), Block(30.0, 8.8, 10.0, 0.8)]
    _, _, first, second = table({"none": none, "inline": other}, 2, 8.0).splitlines()
    assert first.split("|")[2].strip() == "0.00 [0.00..0.00]"
    cells = [cell.strip().split()[0] for cell in second.strip("|").split("|")]
    assert cells == ["inline", "3.75", "0.400", "5.00", "4.40", "50"]


def test_the_command_measures_every_way(capsys: pytest.CaptureFixture[str]) -> None:
    small = [*MLP, "train.batch_size=8", "train.device=cpu"]
    words = ["--presets", "mlp", "--seconds", "0.05", "--rate", "1000", "--rounds", "1", "--intervals", "2", *small]
    assert main(["saving", *words]) == 0
    said = capsys.readouterr().out
    assert [line.split("|")[1].strip() for line in said.splitlines()[-3:]] == ["none", "inline", "async"]
