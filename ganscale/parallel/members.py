"""Who may train together, and at which rank, from what torchft's lighthouse says of those that ask for it."""

import ipaddress
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from ganscale.config import ConfigError

LIGHTHOUSE = "TORCHFT_LIGHTHOUSE"
"""Environment variable with the lighthouse's address; Ray Train's `TorchftConfig` sets it too."""
FOLDER = "folder"
"""Name of the run's folder among the facts of a run (`Member.run`); the others are settings."""

_logger = logging.getLogger(__name__)


def check_torchft() -> None:
    """Refuse live recovery where torchft is not installed.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("torchft") is None:
        remedy = "pip install 'ganscale[live]' on all nodes (Linux x86-64, Python 3.11), or cluster.recovery = restart"
        raise ConfigError("torchft is not installed", key="cluster.recovery", value="live", remedy=remedy)


@dataclass(frozen=True)
class Member:
    """What a process tells the others when it asks for a quorum.

    Attributes:
        id: of the process, unique.
        store: `HOST:PORT` of its TCPStore.
        count: of the transactions that its state has behind it; 0 if it has no state.
        rank: in the group before; None for a new one.
        group: when the group was formed that its state is of (`Quorum.time` or later); 0 without a state.
        run: what must be the same on all members: the run's folder and its settings by dotted name, as JSON.
    """

    id: str
    store: str
    count: int
    rank: int | None
    group: int
    run: Mapping[str, str]

    def order(self) -> tuple[float, str]:
        """Ranks stay in their order, so that rank 0 stays where it is; new members come last."""
        return float("inf") if self.rank is None else self.rank, self.id

    @property
    def is_loopback(self) -> bool:
        """Whether processes of other machines cannot reach it."""
        try:
            return ipaddress.ip_address(self.store.rpartition(":")[0].strip("[]")).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True)
class Quorum:
    """The processes that train together from now on, the same on all of them.

    Attributes:
        name: of this quorum, unlike that of any other.
        members: by rank.
        rank: of this process; None if there are more than may take part and it is one of those left out.
        time: when it was formed, in nanoseconds by the lighthouse's clock; later than the groups that its members'
            states are of, as another lighthouse's clock may be behind.
    """

    name: str
    members: tuple[Member, ...]
    rank: int | None
    time: int

    @property
    def source(self) -> int:
        """Rank of the member with the newest state: of the newest group, as that of one that was away is of no use."""
        states = [(member.group, member.count) for member in self.members]
        return states.index(max(states))


def assign(found: object, own: str, most: int, lighthouse: str) -> Quorum:
    """Ranks of a lighthouse's quorum, without those that belong to another run; the same on all that remain.

    Args:
        found: the lighthouse's answer.
        own: id of this process, which is one of those in it.
        most: number of members; of more, those with the highest ranks are left out.
        lighthouse: its address, for messages.

    Raises:
        ConfigError: this process belongs to another run than the member with the newest state; or nobody has a state
            and other programs use the lighthouse.
    """
    members, others = [], []
    for each in found.participants:  # pyright: ignore[reportAttributeAccessIssue]
        try:
            members.append(Member(each.replica_id, each.store_address, each.step, **each.data))
        except TypeError:  # not ganscale's facts
            others.append(each.replica_id)
    members.sort(key=Member.order)
    newest = max(members, key=lambda member: (member.group, member.count))
    refusals = {member.id: refusal for member in members if (refusal := _refusal(member, newest, lighthouse))}
    if own in refusals:
        raise refusals[own]
    if others and not newest.count:
        problem = f"other programs use this lighthouse: {', '.join(sorted(others))}"
        raise ConfigError(problem, key=LIGHTHOUSE, value=lighthouse, remedy="start a lighthouse for this run alone")
    if others or refusals:
        _logger.warning("not of this run, and left out: %s", ", ".join(sorted([*others, *refusals])))
    members = [member for member in members if member.id not in refusals][:most]
    created = found.created  # pyright: ignore[reportAttributeAccessIssue]
    name = f"{found.quorum_id}-{created.seconds}-{created.nanos}"  # pyright: ignore[reportAttributeAccessIssue]
    rank = next((rank for rank, member in enumerate(members) if member.id == own), None)
    time = max(created.seconds * 10**9 + created.nanos, 1 + max(member.group for member in members))
    return Quorum(name, tuple(members), rank, time)


def _refusal(member: Member, newest: Member, lighthouse: str) -> ConfigError | None:
    """Why a process cannot train with the member that has the newest state, if so."""
    own, run = member.run, newest.run
    if own.get(FOLDER) != run.get(FOLDER):
        return ConfigError(
            f"this lighthouse is used by the run in {run.get(FOLDER)}; this worker's run is in {own.get(FOLDER)}",
            key=LIGHTHOUSE,
            value=lighthouse,
            remedy="start one lighthouse for each run, or correct run.dir and run.name",
        )
    if key := min((key for key in {*own, *run} if own.get(key) != run.get(key)), default=""):
        return ConfigError(
            f"the run's other workers have {run.get(key)}",
            key=key,
            value=json.loads(own.get(key, "null")),
            remedy="start all workers of a run with the same settings, or this one under another run.name",
        )
    if member.is_loopback != newest.is_loopback:
        return ConfigError(
            f"this worker is at {member.store}, others at {newest.store}: a loopback address cannot be reached",
            key=LIGHTHOUSE,
            value=lighthouse,
            remedy="name the lighthouse by an address that no machine has as a loopback one (see /etc/hosts)",
        )
    return None
