"""What the facts that were collected on a cluster's nodes mean: a line per check, each a pure function of the facts."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

Status = Literal["green", "yellow", "red"]


@dataclass(frozen=True)
class Line:
    """A check's outcome: what was found, and what to do about it unless it is green."""

    check: str
    status: Status
    found: str
    remedy: str = ""


@dataclass(frozen=True)
class Storage:
    """A node's view of the storage.

    Attributes:
        problem: why it could not be written, or a step that went wrong; empty when all went well.
        free_gb: space left, in GB.
        seconds: of a write of 1 MiB with fsync and rename.
        missing: nodes whose files were not seen here.
    """

    problem: str = ""
    free_gb: float = 0.0
    seconds: float = 0.0
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """To another node: why no connection came about, or the round trip in milliseconds and the speed in MB/s.

    The speed is measured to one other node only, else None.
    """

    problem: str = ""
    milliseconds: float = 0.0
    megabytes: float | None = None


@dataclass
class Node:
    """What is known of a node; what could not be collected has its reason in `problems`, by the check's name.

    Attributes:
        name: host name, or address where two are alike.
        trains: whether Ray gives it training workers.
        ray_gpus: GPUs that Ray counts.
        silent: why it did not answer at all.
        gpus: names of those that torch sees.
        resolves: address of its own host name, empty when there is none.
        interface: what GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME names.
        clock: seconds that its clock is ahead of the driver's, less what the measurement leaves open.
        wandb_key: whether an API key for W&B is set up.
    """

    name: str
    address: str = ""
    trains: bool = True
    ray_gpus: int = 0
    silent: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    memory_gb: float = 0.0
    available_gb: float = 0.0
    shm_gb: float = 0.0
    resolves: str = ""
    interface: str = ""
    wandb_key: bool = False
    clock: float | None = None
    storage: Storage | None = None
    wandb: str | None = None
    links: dict[str, Link] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class AllReduce:
    """An all-reduce of all nodes: its time for one number in milliseconds, its bus bandwidth in MB/s, or a problem."""

    backend: str = ""
    milliseconds: float = 0.0
    megabytes: float = 0.0
    problem: str = ""


@dataclass(frozen=True)
class Facts:
    """Of the whole cluster; `dead` are nodes that Ray has lost, `storage` is the path that was tried."""

    nodes: Sequence[Node]
    dead: Sequence[str] = ()
    storage: str = ""
    all_reduce: AllReduce | None = None


@dataclass(frozen=True)
class Needs:
    """What a run asks of the cluster.

    Attributes:
        nodes: how many there should be; 0: as many as there are.
        device: train.device of its config.
        wandb: wandb.mode of its config.
        bandwidth_mb: MB/s between nodes below which training waits for the network; four times as much is comfortable.
        latency_ms: milliseconds of a round trip or of the smallest all-reduce that are too many.
        free_gb: of storage; four times as much is comfortable.
        shm_gb: of /dev/shm; four times as much is comfortable.
        memory_gb: free memory of each node.
        skew: seconds between two clocks.
    """

    nodes: int = 0
    device: str = "auto"
    wandb: str = "auto"
    bandwidth_mb: float = 25.0
    latency_ms: float = 50.0
    free_gb: float = 5.0
    shm_gb: float = 0.25
    memory_gb: float = 1.0
    skew: float = 2.0


def judge(facts: Facts, needs: Needs) -> list[Line]:
    """All lines, in the order in which they are to be mended."""
    lines = [_nodes(facts, needs)]
    if any(not node.silent for node in facts.nodes):
        lines += [check(facts, needs) for check in CHECKS]
    return lines


def _nodes(facts: Facts, needs: Needs) -> Line:
    silent = [f"{node.name}: {node.silent}" for node in facts.nodes if node.silent]
    here = len(facts.nodes)
    remedy = "look at the node and its raylet's log (/tmp/ray/session_latest/logs), restart it or take it out"
    if silent:
        return Line("nodes", "red", _some(silent), remedy)
    if here < needs.nodes:
        found = f"{here} of {needs.nodes}" + (f"; lost: {', '.join(facts.dead)}" if facts.dead else "")
        return Line(
            "nodes", "red", found, "start the others: `ray start --address=HEAD:6379`, or look why they are down"
        )
    if facts.dead:
        return Line(
            "nodes", "yellow", f"{here} answer; lost: {', '.join(facts.dead)}", "if they were not to go: " + remedy
        )
    return Line("nodes", "green", f"{here} answer: {', '.join(node.name for node in facts.nodes)}")


def _python(facts: Facts, needs: Needs) -> Line:
    return _alike("Python", facts, ("python",), "install the same Python everywhere: one image, or one `make setup`")


def _packages(facts: Facts, needs: Needs) -> Line:
    remedy = "install the packages of one requirements.lock and one checkout of ganscale on every node: one image"
    return _alike("packages", facts, ("ray", "torch", "ganscale"), remedy)


def _alike(check: str, facts: Facts, names: Sequence[str], remedy: str) -> Line:
    odd, usual = [], []
    for name in names:
        have = [(node.name, node.versions.get(name, "missing")) for node in _heard(facts)]
        most = Counter(version for _, version in have).most_common(1)[0][0]
        usual.append(most if len(names) == 1 else f"{name} {most}")
        odd += [f"{node} has {name} {version}, not {most}" for node, version in have if version != most]
        if most == "missing":
            odd.append(f"{name} is not installed")
    return Line(check, "red", _some(odd), remedy) if odd else Line(check, "green", ", ".join(usual))


def _gpus(facts: Facts, needs: Needs) -> Line:
    odd = [
        f"{node.name}: Ray counts {node.ray_gpus}, torch sees {len(node.gpus)}"
        for node in _heard(facts)
        if node.ray_gpus != len(node.gpus)
    ]
    if odd:
        remedy = (
            "look at nvidia-smi there: driver, container runtime or device plugin, a torch with CUDA, and whether "
            "CUDA_VISIBLE_DEVICES and `ray start --num-gpus` agree"
        )
        return Line("GPUs", "red", _some(odd), remedy)
    kinds = Counter(gpu for node in _heard(facts) for gpu in node.gpus)
    if not kinds and needs.device == "cuda":
        return Line(
            "GPUs", "red", "the run asks for GPUs, the cluster has none", "add nodes with GPUs, or train.device=cpu"
        )
    found = ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or "none, as Ray says"
    if len(kinds) > 1:
        return Line("GPUs", "yellow", found, "the slowest sets the pace: use nodes of one kind")
    return Line("GPUs", "green", found)


def _hostname(facts: Facts, needs: Needs) -> Line:
    odd = []
    for node in _heard(facts):
        if node.interface or len(facts.nodes) == 1:
            continue
        if not node.resolves:
            odd.append(f"{node.name} does not know the address of its own name")
        elif ip_address(node.resolves).is_loopback:
            odd.append(f"{node.name} takes itself for {node.resolves}")
    if odd:
        remedy = "mend /etc/hosts there, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the network's interface"
        return Line("host name", "red", _some(odd), remedy)
    return Line("host name", "green", "each node knows its address")


def _ports(facts: Facts, needs: Needs) -> Line:
    heard = _heard(facts)
    odd = _problems(heard, "ports")
    odd += [
        f"{node.name} -> {other}: {link.problem}"
        for node in heard
        for other, link in node.links.items()
        if link.problem
    ]
    if odd:
        remedy = (
            "let nodes reach each other on all TCP ports, or at least on /proc/sys/net/ipv4/ip_local_port_range: gloo "
            "and NCCL listen on random ones (firewall, security group, NetworkPolicy)"
        )
        return Line("ports", "red", _some(odd), remedy)
    return Line("ports", "green", f"{sum(len(node.links) for node in heard)} connections between nodes")


def _speed(facts: Facts, needs: Needs) -> Line:
    links = [
        (f"{node.name} -> {to}", link) for node in _heard(facts) for to, link in node.links.items() if not link.problem
    ]
    measured = [(name, link.megabytes) for name, link in links if link.megabytes is not None]
    if not measured:
        alone = len(facts.nodes) == 1
        return Line(
            "links",
            "green" if alone else "red",
            "one node" if alone else "none could be measured",
            "see ports" * (not alone),
        )
    late = [f"{name}: {link.milliseconds:.0f} ms" for name, link in links if link.milliseconds > needs.latency_ms]
    slow = [f"{name}: {speed:.1f} MB/s" for name, speed in measured if speed < needs.bandwidth_mb]
    remedy = "look at cable, switch and interface there (ethtool), put nodes into one zone, or raise train.accumulation"
    if slow or late:
        return Line("links", "red", _some(slow + late), remedy)
    least, worst = min(speed for _, speed in measured), max(link.milliseconds for _, link in links)
    found = f"at least {least:.0f} MB/s, at most {worst:.1f} ms"
    if least < 4 * needs.bandwidth_mb:
        return Line("links", "yellow", found, remedy)
    return Line("links", "green", found)


def _all_reduce(facts: Facts, needs: Needs) -> Line:
    result = facts.all_reduce
    if result is None:
        return Line("all-reduce", "green", "one training node: nothing to reduce")
    if result.problem:
        remedy = "mend nodes, host names and ports first; then look at NCCL_DEBUG=INFO and NCCL_SOCKET_IFNAME"
        return Line("all-reduce", "red", f"{result.backend}: {result.problem}", remedy)
    found = f"{result.backend}: {result.megabytes:.0f} MB/s, {result.milliseconds:.1f} ms"
    remedy = "see links; for GPUs also NCCL_IB_HCA and the topology (nvidia-smi topo -m)"
    if result.megabytes < needs.bandwidth_mb or result.milliseconds > needs.latency_ms:
        return Line("all-reduce", "red", found, remedy)
    comfortable = result.megabytes >= 2 * needs.bandwidth_mb
    return Line("all-reduce", "green" if comfortable else "yellow", found, "" if comfortable else remedy)


def _storage(facts: Facts, needs: Needs) -> Line:
    heard = _heard(facts)
    tried = [(node.name, node.storage) for node in heard if node.storage]
    odd = _problems(heard, "storage") + [f"{name}: {storage.problem}" for name, storage in tried if storage.problem]
    if odd:
        remedy = f"mount {facts.storage} on every node, writable for Ray's user, with fsync and rename (not a bucket)"
        full = all("No space left" in text or "quota" in text for text in odd)
        return Line("storage", "red", _some(odd), "make room: see free space" if full else remedy)
    apart = [f"{name} does not see the files of {', '.join(seen.missing)}" for name, seen in tried if seen.missing]
    if apart:
        remedy = f"mount the same storage at {facts.storage} on every node, or name another run.dir"
        return Line("storage", "red", _some(apart), remedy)
    slowest = max((storage.seconds for _, storage in tried), default=0.0)
    found = f"{facts.storage}: the same on all nodes, 1 MiB in {slowest:.2f} s"
    if slowest > 5:
        remedy = "checkpoints will take long: use faster storage, or a larger checkpoint.every"
        return Line("storage", "yellow", found, remedy)
    return Line("storage", "green", found)


def _space(facts: Facts, needs: Needs) -> Line:
    have = [(node.storage.free_gb, node.name) for node in _heard(facts) if node.storage]
    if not have:
        return Line("free space", "red", "unknown", "see storage")
    least, name = min(have)
    found = f"{least:.3g} GB in {facts.storage}" + (f", as {name} sees it" if least < needs.free_gb else "")
    remedy = "delete old runs, lower checkpoint.keep, or name another run.dir"
    if least < needs.free_gb:
        return Line("free space", "red", f"{found}; {needs.free_gb:g} GB are asked for", remedy)
    if least < 4 * needs.free_gb:
        return Line("free space", "yellow", found, remedy)
    return Line("free space", "green", found)


def _clock(facts: Facts, needs: Needs) -> Line:
    heard = _heard(facts)
    odd = _problems(heard, "clocks")
    clocks = {node.name: node.clock for node in heard if node.clock is not None}
    middle = sorted(clocks.values())[(len(clocks) - 1) // 2] if clocks else 0.0
    odd += [
        f"{name} is {clock - middle:+.1f} s off" for name, clock in clocks.items() if abs(clock - middle) > needs.skew
    ]
    if odd:
        return Line("clocks", "red", _some(odd), "run an NTP client there (chrony, systemd-timesyncd)")
    spread = max(clocks.values(), default=0.0) - min(clocks.values(), default=0.0)
    return Line("clocks", "green", f"within {spread:.2f} s")


def _wandb(facts: Facts, needs: Needs) -> Line:
    trains = [node for node in _heard(facts) if node.trains] or _heard(facts)
    keys = [node.wandb_key for node in trains]
    if needs.wandb in ("disabled", "offline"):
        return Line("W&B", "green", f"wandb.mode={needs.wandb}: not needed")
    if not any(keys) and needs.wandb == "auto":
        return Line("W&B", "green", "no API key: runs are kept offline")
    if not all(keys):
        without = ", ".join(node.name for node in trains if not node.wandb_key)
        return Line("W&B", "red", f"no API key on {without}", "set WANDB_API_KEY on every node, or wandb.mode=offline")
    odd = _problems(trains, "W&B") + [f"{node.name}: {node.wandb}" for node in trains if node.wandb]
    if odd:
        remedy = "open HTTPS to it, set HTTPS_PROXY or WANDB_BASE_URL, or keep runs offline: wandb.mode=offline"
        return Line("W&B", "red", _some(odd), remedy)
    return Line("W&B", "green", "reachable")


def _shm(facts: Facts, needs: Needs) -> Line:
    remedy = "docker run --shm-size=4g; Kubernetes: emptyDir of medium Memory; else mount -o remount,size=4g /dev/shm"
    return _least("/dev/shm", facts, lambda node: node.shm_gb, needs.shm_gb, 4 * needs.shm_gb, remedy)


def _memory(facts: Facts, needs: Needs) -> Line:
    remedy = "end what else runs there, use larger nodes, or fewer workers per node"
    return _least("memory", facts, lambda node: node.available_gb, needs.memory_gb, 2 * needs.memory_gb, remedy)


def _least(check: str, facts: Facts, of: Callable[[Node], float], red: float, yellow: float, remedy: str) -> Line:
    """A line about an amount in GB, of which each node should have `yellow` and must have `red`."""
    short = [f"{node.name}: {of(node):.3g} GB" for node in _heard(facts) if of(node) < yellow]
    if not short:
        return Line(check, "green", f"at least {min(of(node) for node in _heard(facts)):.3g} GB")
    status: Status = "red" if any(of(node) < red for node in _heard(facts)) else "yellow"
    return Line(check, status, _some(short), remedy)


CHECKS = (
    _python,
    _packages,
    _gpus,
    _hostname,
    _ports,
    _speed,
    _all_reduce,
    _storage,
    _space,
    _clock,
    _wandb,
    _shm,
    _memory,
)


def _heard(facts: Facts) -> list[Node]:
    return [node for node in facts.nodes if not node.silent]


def _problems(nodes: Iterable[Node], check: str) -> list[str]:
    return [f"{node.name}: {node.problems[check]}" for node in nodes if check in node.problems]


def _some(texts: Sequence[str], most: int = 4) -> str:
    """The first few, and how many more there are."""
    rest = len(texts) - most
    return "; ".join(texts[:most]) + (f"; and {rest} more" if rest > 0 else "")
