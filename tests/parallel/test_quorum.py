"""Who trains together: ranks and the source of the state, from what the lighthouse says; what is refused."""

import threading
import time
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from ganscale.config import ConfigError
from ganscale.parallel import members
from ganscale.parallel import quorum as module
from ganscale.parallel.members import FOLDER, LIGHTHOUSE, Member, Quorum, assign
from ganscale.parallel.quorum import Membership, QuorumError, check_live

MEMBERS = {"d": (7, 2), "a": (0, None), "c": (8, 1), "b": (0, None)}
"""Count and earlier rank by id: two that stay, and two new ones."""
RUN = {FOLDER: "/runs/one", "run.seed": "0"}
ADDRESS = "http://host:1"


def found(members: dict[str, tuple[int, int | None]]) -> SimpleNamespace:
    participants = [
        SimpleNamespace(
            replica_id=name,
            store_address=f"{name}:1",
            step=count,
            data={"rank": rank, "group": 0 if rank is None else 2, "run": dict(RUN)},
        )
        for name, (count, rank) in members.items()
    ]
    return SimpleNamespace(quorum_id=3, created=SimpleNamespace(seconds=5, nanos=7), participants=participants)


def test_ranks_stay_in_their_order_and_the_newest_state_counts() -> None:
    quorum = assign(found(MEMBERS), "a", 4, ADDRESS)
    assert [member.id for member in quorum.members] == ["c", "d", "a", "b"]
    assert (quorum.rank, quorum.source, quorum.name) == (2, 0, "3-5-7")
    assert quorum.members[1] == Member("d", "d:1", 7, 2, 2, RUN)


def test_the_state_may_come_from_another_than_rank_0() -> None:
    quorum = assign(found({"a": (4, 0), "b": (5, 1)}), "a", 4, ADDRESS)
    assert (quorum.rank, quorum.source) == (0, 1)


def test_the_state_of_one_that_was_away_does_not_count() -> None:
    answer = found({"a": (9, 0), "b": (5, 1)})
    answer.participants[0].data["group"] = 1
    quorum = assign(answer, "b", 4, ADDRESS)
    assert (quorum.rank, quorum.source, quorum.time) == (1, 1, 5_000_000_007)


def test_the_newest_are_left_out_where_there_are_too_many() -> None:
    assert assign(found(MEMBERS), "b", 3, ADDRESS).rank is None
    assert len(assign(found(MEMBERS), "b", 3, ADDRESS).members) == 3


@pytest.mark.parametrize(
    ("changed", "key", "words"),
    [
        ({FOLDER: "/runs/two"}, LIGHTHOUSE, "the run in /runs/one"),
        ({"run.seed": "7"}, "run.seed", "other workers have 0"),
        ({"penalty.r1": "1.0"}, "penalty.r1", "other workers have None"),
    ],
)
def test_a_worker_of_another_run_stops_and_the_others_leave_it_out(changed: dict, key: str, words: str) -> None:
    answer = found(MEMBERS)
    answer.participants[3].data["run"] |= changed  # b, a new one
    with pytest.raises(ConfigError, match=words) as caught:
        assign(answer, "b", 4, ADDRESS)
    assert caught.value.key == key
    assert "same settings" in caught.value.remedy or "one lighthouse" in caught.value.remedy
    for own in "acd":
        quorum = assign(answer, own, 4, ADDRESS)
        assert [member.id for member in quorum.members] == ["c", "d", "a"]


def test_the_member_with_the_newest_state_says_which_run_it_is() -> None:
    answer = found(MEMBERS)
    for position in (1, 2, 3):  # all but c, which has the newest
        answer.participants[position].data["run"]["run.seed"] = "3"
    answer.participants[2].data["run"]["run.seed"] = "0"
    with pytest.raises(ConfigError, match="other workers have 0"):
        assign(answer, "a", 4, ADDRESS)
    assert [member.id for member in assign(answer, "c", 4, ADDRESS).members] == ["c", "d"]


def test_other_programs_are_left_out_but_no_run_begins_beside_them() -> None:
    answer = found(MEMBERS)
    answer.participants[1].data = {"loss": 3}
    assert [member.id for member in assign(answer, "d", 4, ADDRESS).members] == ["c", "d", "b"]
    answer = found({"a": (0, None), "b": (0, None)})
    answer.participants[1].data = None
    with pytest.raises(ConfigError, match="other programs use this lighthouse: b") as caught:
        assign(answer, "a", 4, ADDRESS)
    assert (caught.value.key, caught.value.value) == (LIGHTHOUSE, ADDRESS)


def test_a_loopback_address_is_refused_beside_another() -> None:
    answer = found({"a": (4, 0), "b": (0, None)})
    answer.participants[0].store_address, answer.participants[1].store_address = "10.0.0.1:5", "127.0.1.1:5"
    with pytest.raises(ConfigError, match=r"at 127.0.1.1:5, others at 10.0.0.1:5") as caught:
        assign(answer, "b", 4, ADDRESS)
    assert caught.value.key == LIGHTHOUSE
    assert len(assign(answer, "a", 4, ADDRESS).members) == 1
    answer.participants[0].store_address = "127.0.0.1:5"
    assert len(assign(answer, "a", 4, ADDRESS).members) == 2


@pytest.mark.parametrize("address", ["", "HOST", "http://host"])
def test_a_lighthouse_must_be_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "find_spec", lambda name: SimpleNamespace())
    with pytest.raises(ConfigError) as caught:
        check_live(address)
    assert (caught.value.key, caught.value.value) == ("cluster.recovery", "live")
    assert LIGHTHOUSE in str(caught.value)


def test_torchft_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "find_spec", lambda name: None)
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
    monkeypatch.setattr(module, "JOIN_AFTER", 0.1)
    monkeypatch.setattr(module, "POLL", 0.05)
    monkeypatch.setattr(Membership, "_client", lambda self: lighthouse)
    return lighthouse


def test_one_waits_for_a_lighthouse_that_is_away_and_for_enough_members(fake: FakeLighthouse) -> None:
    alone, both = found({"a": (4, 0)}), found({"a": (4, 0), "b": (5, 1)})
    fake.answers, requests = [RuntimeError("away"), alone, both], []
    with Membership(lambda: requests.append(1), RUN, "http://127.0.0.1:1") as membership:
        quorum = membership.quorum(4, 2, 0, least=2, most=8, timeout=60.0)
        assert isinstance(quorum, Quorum)
        assert len(quorum.members) == 2
        assert fake.asked == [(membership.id, 4, {"rank": 0, "group": 2, "run": RUN})] * 3
    assert requests
    assert fake.beats


def test_without_a_quorum_there_is_an_error_that_says_why(fake: FakeLighthouse) -> None:
    fake.answers = [found({"a": (4, 0)})]
    with (
        Membership(lambda: None, RUN, "http://127.0.0.1:1") as membership,
        pytest.raises(QuorumError, match=r"1 workers of 2 to 8 \(cluster.num_workers\)"),
    ):
        membership.quorum(0, 0, None, least=2, most=8, timeout=0.5)


def test_a_worker_that_waits_is_asked_whether_it_leaves(fake: FakeLighthouse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake, "quorum", lambda *_, **__: time.sleep(3600.0))

    def leave() -> None:
        polls.append(1)
        if len(polls) == 3:
            raise LeaveError

    class LeaveError(Exception):
        pass

    polls: list[int] = []
    with Membership(lambda: None, RUN, "http://127.0.0.1:1") as membership, pytest.raises(LeaveError):
        membership.quorum(0, 0, None, least=1, most=8, timeout=3600.0, poll=leave)


def test_a_spare_worker_waits_until_there_is_room(fake: FakeLighthouse) -> None:
    full = found({"z": (0, None), "a": (4, 0), "b": (4, 1)})
    fake.answers = [full, found({"z": (0, None), "b": (4, 1)})]
    with Membership(lambda: None, RUN, "http://127.0.0.1:1") as membership:
        quorum = membership.quorum(0, 0, None, least=1, most=2, timeout=60.0)
    assert [member.id for member in quorum.members] == ["b", membership.id]


def test_heartbeats_survive_errors_of_any_kind_and_join_requests_that_hang(
    fake: FakeLighthouse, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    beat, hangs = fake.heartbeat, threading.Event()
    errors: list[Exception] = [ValueError("surprise"), RuntimeError("away")]

    def heartbeat(*arguments: Any, **options: Any) -> None:
        if errors:
            raise errors.pop(0)
        assert hangs.wait(60.0)  # the storage hangs from now on
        beat(*arguments, **options)

    def request() -> None:
        hangs.set()
        time.sleep(3600.0)

    monkeypatch.setattr(fake, "heartbeat", heartbeat)
    monkeypatch.setattr(fake, "quorum", lambda *_, **__: time.sleep(3600.0))
    monkeypatch.setattr(module, "_RPC", timedelta(seconds=0.1))

    def leave() -> None:
        if fake.beats > 3:
            raise InterruptedError

    with Membership(request, RUN, "http://127.0.0.1:1") as membership, pytest.raises(InterruptedError):
        membership.quorum(0, 0, None, least=1, most=8, timeout=3600.0, poll=leave)
    assert "surprise" in caplog.text


def test_a_request_to_join_that_fails_is_made_again(fake: FakeLighthouse, caplog: pytest.LogCaptureFixture) -> None:
    requests: list[int] = []

    def request() -> None:
        requests.append(1)
        if len(requests) == 1:
            raise ValueError("surprise")

    def leave() -> None:
        if len(requests) > 1:
            raise InterruptedError

    fake.answers = [RuntimeError("away")]
    with Membership(request, RUN, "http://127.0.0.1:1") as membership, pytest.raises(InterruptedError):
        membership.quorum(0, 0, None, least=1, most=8, timeout=3600.0, poll=leave)
    assert "surprise" in caplog.text


def test_those_who_train_are_disturbed_less_and_less_often(
    fake: FakeLighthouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fake, "quorum", lambda *_, **__: time.sleep(3600.0))
    requests: list[int] = []
    until = time.monotonic() + 3.0

    def leave() -> None:
        if time.monotonic() > until:
            raise InterruptedError

    with Membership(lambda: requests.append(1), RUN, "http://127.0.0.1:1") as membership:
        with pytest.raises(InterruptedError):
            membership.quorum(0, 0, None, least=1, most=8, timeout=3600.0, poll=leave)
        assert 1 <= len(requests) <= 6  # after 0.1, 0.3, 0.7, 1.5 and 3.1 seconds


def test_a_group_is_later_than_those_before_though_another_lighthouse_has_a_clock_that_is_behind() -> None:
    answer = found(MEMBERS)
    answer.participants[2].data["group"] = 6_000_000_000
    assert assign(answer, "d", 4, ADDRESS).time == 6_000_000_001
