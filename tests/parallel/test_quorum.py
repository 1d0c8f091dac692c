"""Who trains together: ranks and the source of the state, from what the lighthouse says; what is refused."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from ganscale.config import ConfigError
from ganscale.parallel import quorum as module
from ganscale.parallel.quorum import LIGHTHOUSE, Member, Membership, Quorum, QuorumError, check_live

MEMBERS = {"d": (7, 2), "a": (0, None), "c": (8, 1), "b": (0, None)}
"""Count and earlier rank by id: two that stay, and two new ones."""


def found(members: dict[str, tuple[int, int | None]]) -> SimpleNamespace:
    participants = [
        SimpleNamespace(
            replica_id=name,
            store_address=f"{name}:1",
            step=count,
            data={"rank": rank, "group": 0 if rank is None else 2},
        )
        for name, (count, rank) in members.items()
    ]
    return SimpleNamespace(quorum_id=3, created=SimpleNamespace(seconds=5, nanos=7), participants=participants)


def test_ranks_stay_in_their_order_and_the_newest_state_counts() -> None:
    quorum = module._assign(found(MEMBERS), "a", 4)
    assert [member.id for member in quorum.members] == ["c", "d", "a", "b"]
    assert (quorum.rank, quorum.source, quorum.name) == (2, 0, "3-5-7")
    assert quorum.members[1] == Member("d", "d:1", 7, 2, 2)


def test_the_state_may_come_from_another_than_rank_0() -> None:
    quorum = module._assign(found({"a": (4, 0), "b": (5, 1)}), "a", 4)
    assert (quorum.rank, quorum.source) == (0, 1)


def test_the_state_of_one_that_was_away_does_not_count() -> None:
    answer = found({"a": (9, 0), "b": (5, 1)})
    answer.participants[0].data["group"] = 1
    quorum = module._assign(answer, "b", 4)
    assert (quorum.rank, quorum.source, quorum.time) == (1, 1, 5_000_000_007)


def test_the_newest_are_left_out_where_there_are_too_many() -> None:
    assert module._assign(found(MEMBERS), "b", 3).rank is None
    assert len(module._assign(found(MEMBERS), "b", 3).members) == 3


@pytest.mark.parametrize("address", ["", "HOST", "http://host"])
def test_a_lighthouse_must_be_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: SimpleNamespace())
    with pytest.raises(ConfigError) as caught:
        check_live(address)
    assert (caught.value.key, caught.value.value) == ("cluster.recovery", "live")
    assert LIGHTHOUSE in str(caught.value)


def test_torchft_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as caught:
        check_live("http://host:1")
    assert "ganscale[live]" in caught.value.remedy


class FakeLighthouse:
    """Answers requests for a quorum with what it was given, in turn."""

    def __init__(self, *answers: SimpleNamespace | Exception) -> None:
        self.answers: list[Any] = [*answers]
        self.asked: list[tuple[str, int, dict[str, Any]]] = []
        self.beats = 0

    def quorum(self, replica_id: str, **facts: Any) -> SimpleNamespace:
        self.asked.append((replica_id, facts["step"], facts["data"]))
        time.sleep(0.3)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        answer.participants[0].replica_id = replica_id
        return answer

    def heartbeat(self, replica_id: str, timeout: object) -> None:
        self.beats += 1


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeLighthouse:
    lighthouse = FakeLighthouse()
    monkeypatch.setattr(module, "check_live", lambda address: None)
    monkeypatch.setattr(module, "HEARTBEAT", 0.02)
    monkeypatch.setattr(module, "RING_AFTER", 0.1)
    monkeypatch.setattr(Membership, "_client", lambda self: lighthouse)
    return lighthouse


def test_one_waits_for_a_lighthouse_that_is_away_and_for_enough_members(fake: FakeLighthouse) -> None:
    alone, both = found({"a": (4, 0)}), found({"a": (4, 0), "b": (5, 1)})
    fake.answers, rings = [RuntimeError("away"), alone, both], []
    with Membership(lambda: rings.append(1), "http://127.0.0.1:1") as membership:
        quorum = membership.quorum(4, 2, 0, least=2, most=8, timeout=60.0)
        assert isinstance(quorum, Quorum)
        assert len(quorum.members) == 2
        assert fake.asked == [(membership.id, 4, {"rank": 0, "group": 2})] * 3
    assert rings
    assert fake.beats


def test_without_a_quorum_there_is_an_error_that_says_why(fake: FakeLighthouse) -> None:
    fake.answers = [found({"a": (4, 0)})]
    with (
        Membership(lambda: None, "http://127.0.0.1:1") as membership,
        pytest.raises(QuorumError, match=r"1 workers of at least 2 \(cluster.num_workers\)"),
    ):
        membership.quorum(0, 0, None, least=2, most=8, timeout=0.5)
