"""What the facts collected on a cluster's nodes mean: one result per check, each a pure function of the facts."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import ip_address
from typing import Literal

from ganscale.launch.doctor.links import LinkReport, slow_links

Status = Literal["green", "yellow", "red"]
STATUSES: tuple[Status, ...] = ("green", "yellow", "red")


@dataclass(frozen=True)
class CheckResult:
    """The result of a check: what was found, and what to do about it unless it is green."""

    check: str
    status: Status
    found: str
    remedy: str = ""


@dataclass
class NodeReport:
    """What is known of a node. `problems` says, by the check's name, why something failed or could not be measured."""

    name: str  # host name, or address and port where two nodes share a host name
    address: str = ""
    trains: bool = True  # whether Ray places training workers on it
    ray_gpus: int = 0  # number of GPUs that Ray counts
    versions: dict[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()  # names of the GPUs that torch sees
    memory_gb: float = 0.0  # available
    shm_gb: float = 0.0  # size of /dev/shm
    resolves: str = ""  # address of its own host name; empty: none
    interface: str = ""  # GLOO_SOCKET_IFNAME or NCCL_SOCKET_IFNAME
    wandb_key: bool = False  # whether an API key for W&B is set up
    clock: float | None = None  # seconds ahead of the driver's clock, less the uncertainty of the measurement
    free_gb: float | None = None  # free space of the storage
    write_seconds: float = 0.0  # of a write of 1 MiB to the storage with fsync and rename
    unseen: tuple[str, ...] = ()  # nodes whose files in the storage this node does not see
    latency_ms: dict[str, float] = field(default_factory=dict)  # of a round trip to each other node
    bandwidth_mb: dict[str, float] = field(default_factory=dict)  # MB/s to the next node
    backend: str = ""  # of the all-reduce of all training nodes: gloo or nccl
    all_reduce_ms: float | None = None  # of one number
    all_reduce_mb: float | None = None  # bus bandwidth in MB/s
    problems: dict[str, list[str]] = field(default_factory=dict)

    @property
    def reachable(self) -> bool:
        """Whether the node answers at all."""
        return "nodes" not in self.problems


@dataclass(frozen=True)
class Facts:
    """What is known of a cluster: its nodes, names of nodes that Ray declared dead, the storage folder, the links."""

    nodes: Sequence[NodeReport]
    dead: Sequence[str] = ()
    storage: str = ""  # empty: a bucket, which is not examined
    links: LinkReport | None = None  # all-reduces by pair and message size, where they were measured


@dataclass(frozen=True)
class Requirements:
    """What a run needs."""

    nodes: int = 0  # 0: any number
    device: str = "auto"  # train.device of its config
    wandb: str = "auto"  # wandb.mode of its config
    bandwidth_mb: float = 25.0  # least MB/s; yellow: links below four times, an all-reduce below twice as much
    latency_ms: float = 50.0  # longest round trip, or all-reduce of one number
    free_gb: float = 5.0  # least free space of the storage; yellow: below four times as much
    shm_gb: float = 0.25  # least size of /dev/shm; yellow: below four times as much
    memory_gb: float = 1.0  # least available memory of a node; yellow: below twice as much
    skew: float = 2.0  # most seconds between a clock and the median


Finding = tuple[Status, str] | tuple[Status, str, str]
"""A status, what was found, and a remedy if it is not the check's own."""
Check = Callable[[Facts, Requirements], Iterator[Finding]]
"""Yields findings, finally the one that is shown if all are green. All checks but "nodes" see reachable nodes only."""
Limit = tuple[str, str, str, float]
"""A field, its requirement, its unit; below `factor` times the requirement it is yellow. 0: it is an upper limit."""


def run_checks(facts: Facts, requirements: Requirements) -> list[CheckResult]:
    """Run all checks; only "nodes" if no node is reachable.

    Args:
        facts: what `collect` found.
        requirements: what the run needs.

    Returns:
        Results in the order in which problems should be fixed.
    """
    reachable = replace(facts, nodes=[node for node in facts.nodes if node.reachable])
    results = []
    for name, (check, remedy) in CHECKS.items():
        if name != "nodes" and not reachable.nodes:
            break
        seen = facts if name == "nodes" else reachable
        findings: list[Finding] = [
            ("red", f"{node.name}: {text}") for node in seen.nodes for text in node.problems.get(name, ())
        ]
        findings += check(seen, requirements)
        status = STATUSES[max(STATUSES.index(finding[0]) for finding in findings)]
        worst = [finding for finding in findings if finding[0] == status] if status != "green" else findings[-1:]
        found = "; ".join(finding[1] for finding in worst[:4])
        rest = f"; and {len(worst) - 4} more" if len(worst) > 4 else ""
        advice = "".join(worst[0][2:]) or remedy.format(storage=facts.storage)
        results.append(CheckResult(name, status, found + rest, "" if status == "green" else advice))
    return results


def _nodes(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    number = len(facts.nodes)
    dead = f"; declared dead: {', '.join(facts.dead)}" if facts.dead else ""
    if number < requirements.nodes:
        remedy = "start the others (`ray start --address=HEAD:6379`), or find out why they are down"
        yield "red", f"{number} of {requirements.nodes}{dead}", remedy
    if facts.dead:
        yield "yellow", f"{number} answer{dead}"
    yield "green", f"{number} answer: {', '.join(node.name for node in facts.nodes)}"


def _same_versions(packages: Sequence[str], facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    usual = {}
    for package in packages:
        versions = {node.name: node.versions.get(package, "missing") for node in facts.nodes}
        usual[package] = Counter(versions.values()).most_common(1)[0][0]
        if usual[package] == "missing":
            yield "red", f"{package} is not installed"
        for node, version in versions.items():
            status = "green" if version == usual[package] else "red"
            yield status, f"{node} has {package} {version}, not {usual[package]}"
    yield "green", ", ".join(f"{package} {version}" for package, version in usual.items())


def _gpu_software(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    with_gpus = [node for node in facts.nodes if node.gpus]
    if not with_gpus:
        yield "green", "no GPU"
        return
    known = [package for package in GPU_SOFTWARE if any(package in node.versions for node in with_gpus)]
    yield from _same_versions(known, replace(facts, nodes=with_gpus), requirements)


def _pairs(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    links = facts.links
    if links is None:
        yield "green", "not measured; --links measures them"
        return
    for pair in links.pairs:
        if pair.problem:
            yield "red", f"{pair.first} - {pair.second}: {pair.problem}"
    for text in slow_links(links.pairs):
        yield "red", text
    measured = [pair for pair in links.pairs if pair.milliseconds]
    slowest = min((pair.bandwidth for pair in measured), default=0.0)
    yield "green", f"{len(measured)} pairs of workers, at least {slowest:.3g} MB/s" if measured else "one worker"


def _limits(limits: Sequence[Limit], facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    summary = []
    for name, requirement, unit, factor in limits:
        values: dict[str, float] = {}
        for node in facts.nodes:
            value = getattr(node, name)
            links = value if isinstance(value, dict) else {}
            values |= {f"{node.name} -> {other}": each for other, each in links.items()}
            values |= {node.name: value} if isinstance(value, float) else {}
        needed = getattr(requirements, requirement)
        side, worst = ("least", min) if factor else ("most", max)
        for label, value in values.items():
            status: Status = (
                "red" if worst(value, needed) != needed else "yellow" if value < factor * needed else "green"
            )
            yield status, f"{label}: {value:.3g} {unit}, {side}: {needed:g} {unit}"
        if values:
            summary.append(f"at {side} {worst(values.values()):.3g} {unit}")
    yield "green", ", ".join(summary) or "nothing to measure"


def _gpus(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    for node in facts.nodes:
        if node.ray_gpus != len(node.gpus):
            yield "red", f"{node.name}: Ray counts {node.ray_gpus}, torch sees {len(node.gpus)}"
    kinds = Counter(gpu for node in facts.nodes for gpu in node.gpus)
    if not kinds and requirements.device == "cuda":
        yield "red", "train.device=cuda, but no node has a GPU", "add nodes with GPUs, or set train.device=cpu"
    found = ", ".join(f"{count} x {kind}" for kind, count in kinds.items())
    if len(kinds) > 1:
        yield "yellow", found, "the slowest GPU sets the pace: use nodes of one kind"
    yield "green", found or "none"


def _host_name(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    for node in facts.nodes if len(facts.nodes) > 1 else ():
        if not node.interface and (not node.resolves or ip_address(node.resolves).is_loopback):
            yield "red", f"{node.name} resolves its own name to {node.resolves or 'no address'}"
    yield "green", "each node knows its address"


def _ports(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    yield "green", f"{sum(len(node.latency_ms) for node in facts.nodes)} connections between nodes"


def _storage(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    for node in facts.nodes:
        if node.unseen:
            remedy = f"mount the same storage at {facts.storage} on every node, or set another run.dir"
            yield "red", f"{node.name} does not see the files of {', '.join(node.unseen)}", remedy
    if not facts.storage:
        yield "green", "a bucket, which is checked when a run starts"
        return
    slowest = max(node.write_seconds for node in facts.nodes)
    if slowest > 5:
        remedy = "checkpoints will take long: use faster storage, or a larger checkpoint.every"
        yield "yellow", f"1 MiB in {slowest:.2f} s", remedy
    yield "green", f"{facts.storage}: the same on all nodes, 1 MiB in {slowest:.2f} s"


def _clocks(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    clocks = {node.name: node.clock for node in facts.nodes if node.clock is not None}
    ordered = sorted(clocks.values()) or [0.0]
    median = ordered[(len(ordered) - 1) // 2]
    for name, clock in clocks.items():
        status = "red" if abs(clock - median) > requirements.skew else "green"
        yield status, f"{name} is {clock - median:+.1f} s off"
    yield "green", f"within {ordered[-1] - ordered[0]:.2f} s"


def _wandb(facts: Facts, requirements: Requirements) -> Iterator[Finding]:
    training = [node for node in facts.nodes if node.trains] or facts.nodes
    without = ", ".join(node.name for node in training if not node.wandb_key)
    if requirements.wandb in ("disabled", "offline"):
        yield "green", f"not needed: wandb.mode={requirements.wandb}"
    elif requirements.wandb == "auto" and not any(node.wandb_key for node in training):
        yield "green", "no API key: runs are recorded offline"
    elif without:
        yield "red", f"no API key on {without}", "set WANDB_API_KEY on every node, or wandb.mode=offline"
    else:
        yield "green", "reachable"


PACKAGES = ("ray", "torch", "ganscale")
GPU_SOFTWARE = ("driver", "cuda", "nccl")
LINKS: list[Limit] = [("bandwidth_mb", "bandwidth_mb", "MB/s", 4), ("latency_ms", "latency_ms", "ms", 0)]
GROUP: list[Limit] = [("all_reduce_mb", "bandwidth_mb", "MB/s", 2), ("all_reduce_ms", "latency_ms", "ms", 0)]
FREE, SHM, MEMORY = (
    ("free_gb", "free_gb", "GB", 4),
    ("shm_gb", "shm_gb", "GB", 4),
    ("memory_gb", "memory_gb", "GB", 2),
)

CHECKS: dict[str, tuple[Check, str]] = {
    "nodes": (_nodes, "see the raylet's log there (/tmp/ray/session_latest/logs), then restart or remove the node"),
    "Python": (partial(_same_versions, ["python"]), "install the same Python everywhere: one image, one `make setup`"),
    "packages": (partial(_same_versions, PACKAGES), "use one image: one requirements.lock, one checkout of ganscale"),
    "GPUs": (_gpus, "check nvidia-smi, container runtime, torch.version.cuda, CUDA_VISIBLE_DEVICES, ray's --num-gpus"),
    "GPU software": (
        _gpu_software,
        "use one image, and one driver on all nodes (nvidia-smi; the GPU operator's version)",
    ),
    "host name": (_host_name, "fix /etc/hosts, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to the interface"),
    "ports": (_ports, "open all TCP ports between nodes or ip_local_port_range (firewall, NetworkPolicy, cloud rules)"),
    "links": (partial(_limits, LINKS), "check cable, switch and ethtool; use one zone; or raise train.accumulation"),
    "all-reduce": (partial(_limits, GROUP), "fix the above; then NCCL_DEBUG=INFO, NCCL_IB_HCA, nvidia-smi topo -m"),
    "pairs": (
        _pairs,
        "drain the slow worker's node, or compare its cable, switch port, NIC (ethtool -S), zone and PCIe width",
    ),
    "storage": (
        _storage,
        "mount {storage} on every node, writable for Ray's user, with fsync and rename (not a bucket); if it is full, "
        "see free space",
    ),
    "free space": (partial(_limits, [FREE]), "delete old runs, lower checkpoint.keep, or set another run.dir"),
    "clocks": (_clocks, "run an NTP client there (chrony, systemd-timesyncd)"),
    "W&B": (_wandb, "allow HTTPS to it, set HTTPS_PROXY or WANDB_BASE_URL, or record offline: wandb.mode=offline"),
    "/dev/shm": (
        partial(_limits, [SHM]),
        "docker --shm-size=4g, emptyDir of medium Memory, or mount -o remount,size=4g",
    ),
    "memory": (partial(_limits, [MEMORY]), "stop other processes there, use larger nodes, or fewer workers per node"),
}
