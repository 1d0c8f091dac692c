"""What a replica's random numbers, sampler and log cost: counted operations do not grow with the world."""

import json

from ganscale.bench.__main__ import main
from ganscale.bench.growth import WORLDS, cost
from ganscale.config import Config, load
from tests.runs import MLP


def small(*overrides: str) -> Config:
    return load(None, ["train.batch_size=4", "train.device=cpu", *MLP, *overrides])


def test_operations_do_not_grow_with_the_world() -> None:
    costs = [cost(small("augment.noise=0.1"), world_size, repetitions=1) for world_size in WORLDS]
    assert [each.rows for each in costs] == [4] * len(WORLDS)
    assert len({(each.operators, each.numbers) for each in costs}) == 1
    assert len({each.log_operators for each in costs[1:]}) == 1
    assert costs[1].log_operators == costs[0].log_operators + 1, "the one all-reduce"


def test_a_larger_share_counts_more() -> None:
    """The counter sees what it should: twice the rows are about twice the numbers."""
    one, two = (cost(small(f"train.batch_size={batch}"), 16, repetitions=1) for batch in (64, 128))
    assert one.operators == two.operators
    assert 1.8 * one.numbers < two.numbers < 2.2 * one.numbers


def test_points_have_no_epochs() -> None:
    assert cost(small("data.name=ring", "model.latent_dim=2"), 16, repetitions=1).epochs == 0.0
    assert cost(small(), 16, repetitions=1).epochs > 0.0


def test_command(tmp_path, capsys) -> None:
    file = tmp_path / "figures.json"
    assert main(["growth", "--repetitions", "1", "--json", str(file), *MLP, "train.batch_size=4"]) == 0
    assert "| 1,024 |" in capsys.readouterr().out
    assert [row["world_size"] for row in json.loads(file.read_text())["growth"]["mlp"]] == list(WORLDS)
