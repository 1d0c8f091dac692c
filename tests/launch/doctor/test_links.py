"""Links between workers: every pair is measured once, slow ones and slow workers are named, and it runs over gloo."""

import multiprocessing
from collections import Counter
from itertools import combinations
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ganscale.launch.doctor import collect, probe
from ganscale.launch.doctor.checks import NodeReport
from ganscale.launch.doctor.links import LinkReport, PairReport, assemble, bus_bandwidth, rounds, slow_links
from ganscale.launch.doctor.pairs import SIZES

MIB = 1 << 20


def report(workers: int, *, slow: tuple[str, ...] = (), local: tuple[str, ...] = ()) -> LinkReport:
    """Pairs at 1 GB/s and 0.3 ms; those of a slow worker, or a slow `A - B`, at a tenth of it."""
    names = [f"w{index}" for index in range(workers)]
    pairs = []
    for first, second in combinations(names, 2):
        factor = 10.0 if {first, second, f"{first} - {second}"} & {*slow} else 1.0
        pairs.append(PairReport(first, second, {first, second} <= {*local}, {4: 0.3 * factor, MIB: 1.05 * factor}))
    return LinkReport(tuple(names), "gloo", {4: 1.0, MIB: 4.0}, pairs)


@pytest.mark.parametrize("workers", range(9))
def test_all_pairs_are_measured_once_and_no_worker_twice_at_a_time(workers: int) -> None:
    found = rounds(workers)
    assert Counter(pair for each in found for pair in each) == Counter(combinations(range(workers), 2))
    for each in found:
        assert max(Counter(rank for pair in each for rank in pair).values(), default=1) == 1
    assert len(found) <= workers


@pytest.mark.parametrize("workers", [0, 1, 2, 3, 4, 8])
def test_equal_links_are_not_slow(workers: int) -> None:
    assert list(slow_links(report(workers).pairs)) == []


@pytest.mark.parametrize("workers", [3, 4, 5, 8])
def test_a_slow_worker_is_named(workers: int) -> None:
    first, *pairs = slow_links(report(workers, slow=("w2",)).pairs)
    assert first == "all links of w2 are slow"
    assert len(pairs) == workers - 1
    assert all("w2" in text for text in pairs)


@pytest.mark.parametrize("workers", [3, 5, 8])
def test_a_slow_pair_is_named(workers: int) -> None:
    (text,) = slow_links(report(workers, slow=("w0 - w1",)).pairs)
    assert text.startswith("w0 - w1: 99.9 MB/s and 3 ms, usual: 999 MB/s")


def test_links_between_nodes_are_compared_with_their_like() -> None:
    """NVLink inside a node is faster than the network between two."""
    measured = report(4, slow=("w0", "w1"), local=("w2", "w3"))
    assert list(slow_links(measured.pairs)) == []


def test_a_latency_is_compared_as_well() -> None:
    measured = report(3)
    measured.pairs[0].milliseconds[4] = 1.3
    assert [text.partition(":")[0] for text in slow_links(measured.pairs)] == ["w0 - w1"]
    for pair in measured.pairs:
        pair.milliseconds[4] /= 100
    assert list(slow_links(measured.pairs)) == [], "microseconds are noise"


def test_bus_bandwidth() -> None:
    assert bus_bandwidth(2, 10_000_000, 10.0) == pytest.approx(1000.0)
    assert bus_bandwidth(4, 10_000_000, 10.0) == pytest.approx(1500.0)


def test_what_one_worker_has_measured_is_enough() -> None:
    workers = [("a", "1"), ("b", "1"), ("c", "2")]
    times = {4: 1.0}
    made = assemble(workers, "gloo", {"b": {"group": times, "pairs": {0: times}}}, {"a": "hangs", "c": "gone"})
    assert [(pair.first, pair.second, pair.is_local, pair.problem) for pair in made.pairs] == [
        ("a", "b", True, ""),
        ("a", "c", False, "hangs"),
        ("b", "c", False, "gone"),
    ]
    lines = list(made.lines())
    assert lines[-1].startswith("a - b: ")
    assert "hangs" in "".join(lines)


def measure(rank: int, port: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    return probe.measure_links(rank, ["a", "b", "c"], "127.0.0.1", port, "gloo", 0, 100.0)


@pytest.mark.multiprocess
def test_three_workers_measure_their_links() -> None:
    port = probe.open_store(3)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        results = pool.starmap(measure, [(rank, port) for rank in range(3)], chunksize=1)
    for rank, result in enumerate(results):
        assert result["pairs"].keys() == {0, 1, 2} - {rank}
        for times in (result["group"], *result["pairs"].values()):
            assert tuple(times) == SIZES
            assert all(value > 0 for value in times.values())


@pytest.mark.parametrize(
    ("gpus", "workers", "backend"),
    [
        ((2, 2), ["n0:0", "n0:1", "n1:0", "n1:1"], "nccl"),
        ((1, 1), ["n0", "n1"], "nccl"),
        ((40, 40), ["n0", "n1"], "nccl"),
        ((2, 0), ["n0", "n1"], "gloo"),
        ((0,), ["n0"], "gloo"),
    ],
)
def test_a_worker_per_gpu(
    gpus: tuple[int, ...], workers: list[str], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def ask(_: float, probes: Any, check: str, function: str, arguments: Any) -> dict[str, Any]:
        asked.extend((function, *arguments(each.report)) for each in probes)
        return {each.report.name: 1 if function == "open_store" else {"group": {}, "pairs": {}} for each in probes}

    def made(entry: dict[str, str], name: str, run: str) -> Any:
        return SimpleNamespace(entry=entry, report=NodeReport(name, address=entry["NodeID"]))

    monkeypatch.setattr(collect, "_ask", ask)
    monkeypatch.setattr(collect, "NodeProbe", made)
    probes: Any = [
        SimpleNamespace(entry={"NodeID": f"n{index}"}, report=NodeReport(f"n{index}", gpus=("H200",) * count))
        for index, count in enumerate(gpus)
    ]
    found = collect._try_pairs(probes, "run", 10.0)
    assert (list(found.workers), found.backend) == (workers, backend)
    ranks = [(each[1], each[6]) for each in asked if each[0] == "measure_links"]
    expected = [(rank, int(name.partition(":")[2] or 0)) for rank, name in enumerate(workers)]
    assert ranks == (expected if len(workers) > 1 else []), "rank and device"
    assert [pair.is_local for pair in found.pairs if pair.first[:2] == pair.second[:2]] == [True] * (
        2 if len(workers) == 4 else 0
    )
