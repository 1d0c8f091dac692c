"""The cost of shards is measured, in processor time."""

import json
from pathlib import Path

from benchmarks.speed.__main__ import main
from tests.runs import MLP


def test_the_cost_of_shards_is_a_ratio_to_none(tmp_path: Path, capsys) -> None:
    file = tmp_path / "shards.json"
    chosen = ["--shards", "1,3", "--iterations", "1", "--rounds", "2", "--json", str(file)]
    assert main(["shards", "--presets", "mlp", *chosen, *MLP, "train.batch_size=6"]) == 0
    none, one, three = json.loads(file.read_text())["shards"]["mlp"]
    assert [each["name"] for each in (none, one, three)] == ["0 shards", "1 shards", "3 shards"]
    assert none["ratio"] is None
    assert len(three["ratios"]) == 2
    assert f"{three['ratio']['median']:.3f}" in capsys.readouterr().out
