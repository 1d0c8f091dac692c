"""Scaling: the model of all-reduces, points from a group's answer, and a real group of two."""

import json
from statistics import median
from typing import Any

import pytest

from benchmarks.speed import live
from benchmarks.speed.__main__ import main
from benchmarks.speed.command import BenchError
from benchmarks.speed.counting import count
from benchmarks.speed.group import measure_group
from benchmarks.speed.launching import on_torchrun
from benchmarks.speed.measure import summarize
from benchmarks.speed.plot import scaling_plot
from benchmarks.speed.predict import Link, Prediction, crowding, fit_link, predict
from benchmarks.speed.scaling import prediction_table, resized, scale, table
from ganscale.config import load
from tests.fleet import Fleet
from tests.runs import DCGAN, MLP

LINK = Link(latency=1e-4, bandwidth=1e9)
SMALL = ["train.batch_size=6", "train.device=cpu", *MLP]


def test_a_ring_sends_each_byte_twice_but_for_a_share() -> None:
    assert LINK.all_reduce(0, 4) == pytest.approx(6e-4)
    assert Link(0.0, 1e9).all_reduce(1e9, 2) == pytest.approx(1.0)
    assert Link(0.0, 1e9).all_reduce(1e9, 1000) == pytest.approx(2.0, rel=1e-2)
    assert LINK.all_reduce(1e9, 1) == 0.0


def test_prediction_adds_every_message() -> None:
    found = predict(0.1, [1e6, 1e6, 8.0], LINK, 2, crowding=2.0)
    assert found.compute == pytest.approx(0.2)
    assert found.communication == pytest.approx(2 * (1e-4 + 5e-4) * 2 + 2e-4, rel=1e-3)
    assert found.seconds == pytest.approx(found.compute + found.communication)
    assert found.at_best == pytest.approx(0.2)
    assert predict(0.1, [1e6], LINK, 1).seconds == pytest.approx(0.1)


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_the_link_is_found_from_its_own_times(workers: int) -> None:
    times = [(size, LINK.all_reduce(size, workers)) for size in (1e3, 1e5, 1e7)]
    found = fit_link(times, workers)
    assert found.latency == pytest.approx(LINK.latency)
    assert found.bandwidth == pytest.approx(LINK.bandwidth)


def test_a_link_has_no_negative_latency_or_bandwidth() -> None:
    assert fit_link([(1e3, 1e-7), (1e6, 1e-3)], 2).latency >= 0.0
    assert fit_link([(1e3, 2e-3), (1e6, 1e-3)], 2).bandwidth > 0.0


def test_workers_that_share_cores_are_slower() -> None:
    assert crowding(4, 1, 2) == 2.0
    assert crowding(2, 2, 8) == 1.0


def answer(request: dict[str, Any], workers: int, *, threads: int) -> dict[str, Any]:
    """The answer of a group whose iterations take 1 ms per image and 10 ms for the reduction."""
    assert threads == 1
    alone, share = (request[name]["train"]["batch_size"] / 1e3 for name in ("alone", "together"))
    silent = share / workers
    together = [silent + 0.01] * 3
    link = [(size, LINK.all_reduce(size, workers)) for size in (1e3, 1e6)]
    return {"alone": [alone] * 3, "together": together, "silent": [silent] * 3, "link": link}


def test_points_of_known_times() -> None:
    config = resized(load(None, [*SMALL, "train.batch_size=40"]), 40, 1, 1)
    points, link, alone = scale(config, [2, 4], iterations=1, rounds=3, launch=answer)
    assert alone == pytest.approx(0.04)
    assert link.latency == pytest.approx(LINK.latency)
    found = {(p.mode, p.workers): p for p in points}
    assert found["weak", 2].efficiency.median == pytest.approx(0.04 / 0.05)
    assert found["weak", 4].images_per_second == pytest.approx(160 / 0.05)
    assert found["strong", 4].efficiency.median == pytest.approx(0.04 / (4 * 0.02))
    assert found["strong", 4].communication == pytest.approx(0.5)
    assert found["weak", 2].communication == pytest.approx(0.2)
    assert found["weak", 2].predicted >= found["weak", 2].at_best >= 40.0
    assert len({len(line) for line in table(points).splitlines()}) == 1


def test_messages_are_all_that_is_sent() -> None:
    work = count(load(None, ["train.batch_size=6", "train.device=cpu", *DCGAN, "model.generator.norm=batch"]))
    assert sum(work.messages) == work.reduced_bytes + work.other_bytes
    assert len(work.messages) == work.reductions + work.other_collectives


def test_predictions_as_a_table_and_a_picture(tmp_path) -> None:
    config = resized(load(None, [*SMALL, "train.batch_size=40"]), 40, 1, 1)
    points, *_ = scale(config, [2], iterations=1, rounds=3, launch=answer)
    predictions = [Prediction(2, 0.1, 0.1), Prediction(8, 0.1, 0.3)]
    assert "| 8 " in prediction_table(predictions, 10)
    assert "400 (800)" in prediction_table([Prediction(8, 0.1, 0.1)], 10)
    scaling_plot(points, predictions, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def group(request: dict[str, Any]) -> dict[str, Any]:
    import torch

    return measure_group(request, torch.device("cpu"))


@pytest.mark.multiprocess
def test_a_group_measures_alone_and_together(fleet: Fleet) -> None:
    """With batch norm, whose collectives would hang if the single worker called them."""
    config = resized(
        load(None, ["train.batch_size=4", "train.device=cpu", *DCGAN, "model.generator.norm=batch"]), 4, 1, 1
    )
    plain = config.model_dump(mode="json")
    together = resized(config, 8, 2, 1).model_dump(mode="json")
    request = {"alone": plain, "together": together, "iterations": 1, "rounds": 1}
    first, second = fleet.run(group, 2, request)
    for kind in ("alone", "together", "silent"):
        assert len(first[kind]) == len(second[kind]) == 1
    assert median(first["alone"]) > 0
    assert [size for size, _ in first["link"]] == sorted(size for size, _ in first["link"])


@pytest.mark.multiprocess
def test_a_group_measures_live_recovery(fleet: Fleet) -> None:
    config = resized(load(None, ["train.batch_size=4", "train.device=cpu"]), 8, 2, 1)
    request = {"together": config.model_dump(mode="json"), "kinds": ["live", "together"]}
    for answer in fleet.run(group, 2, {**request, "iterations": 2, "rounds": 3}):
        assert [len(answer[kind]) for kind in ("live", "together")] == [3, 3]
        assert "alone" not in answer
    figures = {"restart": [0.1, 0.2], "live": [0.11, 0.21]}
    assert "| live             | 160.00           | 1.075 [1.055..1.095]" in live.table(
        summarize(figures, dict.fromkeys(figures, 8))
    )


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_failed_group_is_an_error_with_its_output() -> None:
    with pytest.raises(BenchError, match="KeyError"):
        on_torchrun({"nothing": 1}, 1, threads=1, timeout=120)


@pytest.mark.slow
@pytest.mark.multiprocess
def test_command(tmp_path, capsys) -> None:
    file, plot = tmp_path / "figures.json", tmp_path / "curve.png"
    arguments = ["scaling", "--presets", "mlp", "--iterations", "1", "--rounds", "1", "--json", str(file)]
    link = ["--latency", "20", "--bandwidth", "100", "--predict", "8"]
    assert main([*arguments, *link, "--plot", str(plot), *SMALL]) == 0
    assert "link as given: 20 us, 100.00 Gbit/s" in capsys.readouterr().out
    assert [p["mode"] for p in json.loads(file.read_text())["scaling"]["mlp"]["points"]] == ["weak", "strong"]
    assert (tmp_path / "curve-mlp.png").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [(["--workers", "1"], "--workers"), (["--predict", "many"], "--predict"), (["--latency", "5"], "--bandwidth")],
)
def test_mistakes_are_named(words: list[str], named: str, monkeypatch, capsys) -> None:
    monkeypatch.setattr("benchmarks.speed.scaling.scale", lambda *_, **__: ([], LINK, 0.1))
    monkeypatch.setattr("benchmarks.speed.scaling.table", lambda _: "")
    assert main(["scaling", "--presets", "mlp", *words, *SMALL]) == 2
    assert named in capsys.readouterr().err
