"""Where a process's time goes, on a clock that the test turns."""

import pytest
import torch

from ganscale.parallel import clock
from ganscale.parallel.clock import Lap, RankTimes, Stopwatch


class Now:
    """The time that the test wants it to be."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds

    def passes(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Now:
    made = Now()
    monkeypatch.setattr("time.perf_counter", made)
    monkeypatch.setattr(clock, "COMMUNICATION", Stopwatch())
    monkeypatch.setattr(clock, "READING", Stopwatch())
    return made


def test_a_lap_has_the_time_of_each_kind_since_it_began(now: Now) -> None:
    with clock.READING:
        now.passes(50.0)
    lap = Lap()
    for _ in range(2):
        now.passes(1.0)
        with clock.COMMUNICATION:
            now.passes(2.0)
        with clock.READING:
            now.passes(4.0)
    assert lap.seconds == 14.0
    assert lap.of_all_ranks(torch.tensor(3.0)).tolist() == [[2.0, 4.0, 8.0, 3.0]]


def test_a_pause_is_left_out(now: Now) -> None:
    lap = Lap()
    now.passes(1.0)
    pause = Lap()
    now.passes(16.0)
    with clock.COMMUNICATION:
        now.passes(32.0)
    lap.skip(pause)
    now.passes(2.0)
    assert lap.seconds == 3.0
    assert RankTimes(*lap.of_all_ranks(torch.tensor(1.0))[0].tolist()) == (3.0, 0.0, 0.0, 1.0)


def test_a_stopwatch_counts_a_block_that_fails(now: Now) -> None:
    watch = Stopwatch()

    def fail() -> None:
        with watch:
            now.passes(1.0)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert watch.seconds == 1.0


def test_shards_add_up_to_the_times_of_their_process(now: Now) -> None:
    lap = Lap()
    now.passes(1.0)
    table = lap.of_all_ranks(torch.tensor([3.0, 4.0]))
    assert table.shape == (2, 1, 4)
    assert table.sum(0).tolist() == [[1.0, 0.0, 0.0, 7.0]]
