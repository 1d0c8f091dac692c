"""The folder of a sweep and its table."""

import math
import shutil
from pathlib import Path

import pytest
import yaml

from ganscale.config import ConfigError
from ganscale.storage.store import LocalStore, StorePath
from ganscale.sweep.plan import make_plan
from ganscale.sweep.results import Entry, SweepFolder, leaderboard, prepare, ranked, read_entries, short_names, title
from tests.sweep.made_up import made_up
from tests.sweep.sweeps import RATES, RING, sweep


def test_complete_trials_come_first(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    entries = ranked(read_entries(folder.trials, plan.metrics, plan.sweep.sweep))
    states = [entry.status for entry in entries]
    assert states == sorted(states)
    scores = [entry.standing.score for entry in entries if entry.status == "complete"]
    assert scores == sorted(scores, reverse=True)
    assert all(math.isfinite(score) for score in scores)
    table = leaderboard(entries, plan.metrics, plan.names, seeds=3, most=4)
    assert len(table.splitlines()) == 5


def test_a_folder_that_is_no_trial_is_left_out(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    before = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    shutil.copytree(folder.path / "trials" / "0001", folder.path / "trials" / "0001.bak")
    assert read_entries(folder.trials, plan.metrics, plan.sweep.sweep) == before


def test_short_names_are_distinct() -> None:
    names = ["optim.lr_g", "model.generator.depth", "model.discriminator.depth", "a.b, c.d", "objective"]
    assert short_names(names) == ["lr_g", "generator.depth", "discriminator.depth", "b", "objective"]


def test_another_sweep_of_the_same_name_is_refused(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    more = make_plan(
        plan.sweep.model_copy(update={"sweep": plan.sweep.sweep.model_copy(update={"num_configs": 99})}), {}
    )
    prepare(folder, more.sweep, more.base)
    with pytest.raises(ConfigError) as caught:
        prepare(folder, sweep(RATES, run=RING, name="made"), {})
    assert caught.value.key == "sweep.name"
    assert "space" in str(caught.value)


def test_a_title_shows_the_applicable_settings(tmp_path: Path) -> None:
    plan, folder = made_up(tmp_path)
    entries = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    titles = [title(entry.index, entry.drawn, plan.names) for entry in entries]
    assert len(set(titles)) == len(entries)
    for entry, text in zip(entries, titles, strict=True):
        number, *pairs = text.split(" ")
        assert number == f"{entry.index:04d}"
        short = dict(zip(plan.names, short_names(plan.names), strict=True))
        assert [pair.partition("=")[0] for pair in pairs] == [short[name] for name in plan.names if name in entry.drawn]


def test_a_sweep_of_an_earlier_version_resumes(tmp_path: Path) -> None:
    """Settings that did not exist then had their default; more metrics than the sweep's change nothing."""
    plan = make_plan(sweep(RATES, run={**RING, "cluster.address": "local"}, name="old", metrics=["modes"]), {})
    folder = SweepFolder(tmp_path)
    prepare(folder, plan.sweep, plan.base)
    old = yaml.safe_load(folder.sweep.read_text(encoding="utf-8"))
    del old["sweep"]["brackets"]
    folder.sweep.write_text(yaml.safe_dump(old), encoding="utf-8")
    prepare(folder, plan.sweep, {"eval": {"metrics": ["modes"]}})
    elsewhere = sweep(RATES, run={**RING, "cluster.node_wait": 9.0}, name="old", metrics=["modes"])
    prepare(folder, elsewhere, {"eval": {"metrics": ["modes"]}})
    with pytest.raises(ConfigError, match=r"base\.eval\.metrics differ"):
        prepare(folder, plan.sweep, {"eval": {"metrics": ["modes", "frechet"]}})
    halved = sweep(RATES, run=RING, name="old", metrics=["modes"], scheduler="asha", brackets=2)
    with pytest.raises(ConfigError, match=r"sweep\.brackets"):
        prepare(folder, halved, {})


def test_a_bucket_holds_the_same_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, folder = made_up(tmp_path)
    (folder.trials / "0005" / "end.json").unlink()
    (folder.trials / "0006" / "rows.jsonl").write_text("{", encoding="utf-8")
    expected = read_entries(folder.trials, plan.metrics, plan.sweep.sweep)
    trials, ended = StorePath(LocalStore(tmp_path), "made/trials"), dict[str, Entry]()
    assert read_entries(trials, plan.metrics, plan.sweep.sweep, ended=ended) == expected
    assert "0005" not in ended
    read: list[str] = []
    get = LocalStore.get
    monkeypatch.setattr(LocalStore, "get", lambda store, key: (read.append(key), get(store, key))[1])
    assert read_entries(trials, plan.metrics, plan.sweep.sweep, ended=ended) == expected
    assert {key.split("/")[2] for key in read} == {"0005"}, "what has ended is not read again"
