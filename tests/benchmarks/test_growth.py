"""Cost of random numbers, sampler and log of a replica: operations do not grow with the world size."""

import json

from benchmarks.speed.__main__ import main
from benchmarks.speed.growth import WORLDS, cost
from ganscale.config import Config, load
from ganscale.data.order import Shuffled
from tests.runs import MLP


def small(*overrides: str) -> Config:
    return load(None, ["train.batch_size=64", "train.device=cpu", *MLP, *overrides])


def test_operations_do_not_grow_with_the_world() -> None:
    costs = [cost(small("augment.noise=0.1"), world_size, repetitions=1) for world_size in WORLDS]
    assert [each.rows for each in costs] == [64] * len(WORLDS)
    assert len({(each.operators, each.numbers) for each in costs}) == 1
    assert len({each.log_operators for each in costs[1:]}) == 1
    assert costs[1].log_operators == costs[0].log_operators + 1, "the one all-reduce"


def test_a_larger_share_counts_more() -> None:
    """Twice the rows are about twice the numbers in about as many operators."""
    one, two = (cost(small(f"train.batch_size={batch}"), 16, repetitions=1) for batch in (64, 128))
    assert one.operators < two.operators < one.operators + 2, "order and z are made ahead, for so many rows at once"
    assert 1.8 * one.numbers < two.numbers < 2.2 * one.numbers


def test_the_order_is_counted(monkeypatch) -> None:
    with_order = cost(small(), 1024, repetitions=1)
    monkeypatch.setattr(Shuffled, "rows_at", lambda shuffled, positions: positions % shuffled._permutations.size)
    without = cost(small(), 1024, repetitions=1)
    assert with_order.numbers - without.numbers > 64 * 6 * 10, "ten operators in each of six rounds for 64 rows"


def test_command(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    assert main(["growth", "--repetitions", "1", "--json", str(file), *MLP, "train.batch_size=64"]) == 0
    assert "| 1,024 |" in capsys.readouterr().out
    assert [row["world_size"] for row in json.loads(file.read_text())["growth"]["mlp"]] == list(WORLDS)
