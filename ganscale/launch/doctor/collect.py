"""Collects the facts of a cluster: an actor on every node, each step with a time limit, so that no node delays it."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ganscale.config import Config
from ganscale.launch.cluster import connected
from ganscale.launch.doctor import probe
from ganscale.launch.doctor.checks import Facts, NodeReport
from ganscale.launch.doctor.links import LinkReport, assemble, rounds

logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # the table reports nodes that die meanwhile

MOST_WORKERS = 64
"""GPUs of which each pair is measured; with more, one of each node."""
PAIR_TIME = 5.0
"""Seconds that a round of pairs may take beside the timeout."""


class _Caller:
    """The actor: calls functions of `ganscale.launch.doctor.probe` by name."""

    def call(self, function: str, *arguments: Any) -> Any:
        """Return the function's result."""
        return getattr(probe, function)(*arguments)


class NodeProbe:
    """A node's report and the actor that fills it.

    Args:
        entry: the node, as `ray.nodes` describes it.
        name: of the node in the report.
        run: a unique text: gives the actor a fresh process, whatever idle ones the node has.
    """

    def __init__(self, entry: Mapping[str, Any], name: str, run: str) -> None:
        self.entry = entry
        cpus, gpus = (entry["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
        self.report = NodeReport(name, address=entry["NodeManagerAddress"], trains=cpus >= 1, ray_gpus=int(gpus))
        actor: Any = ray.remote(_Caller)
        node = NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False)
        env = {"env_vars": {"GANSCALE_DOCTOR": run}}
        # Several threads: a call that hangs blocks no other.
        self.actor = actor.options(num_cpus=0, max_concurrency=8, scheduling_strategy=node, runtime_env=env).remote()


Probes = Sequence[NodeProbe]
Arguments = Callable[[NodeReport], tuple[Any, ...]]
Answers = dict[str, Any]
Ask = Callable[..., Answers]  # `_ask` with the timeout filled in


def collect(config: Config, storage: Path | None, *, timeout: float, links: bool = False) -> Facts:
    """Examine every node of the cluster that `config` names, or this machine if there is no cluster.

    Args:
        config: for `cluster.address`, and `wandb.mode`, which decides whether W&B is tried.
        storage: an absolute folder that all nodes should share; made if it is missing, and left empty. None: none is
            examined.
        timeout: seconds that each step may take.
        links: whether to measure all-reduces of each pair of training workers.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    with connected(config):
        entries, run = ray.nodes(), uuid.uuid4().hex[:8]
        living = [entry for entry in entries if entry["Alive"]]
        names = [entry["NodeManagerHostname"] for entry in living]
        if len(set(names)) < len(names):
            names = [f"{entry['NodeManagerAddress']}:{entry['NodeManagerPort']}" for entry in living]
        probes = [NodeProbe(entry, name, run) for entry, name in zip(living, names, strict=True)]
        ask = partial(_ask, timeout)
        ask(probes, "nodes", "describe")
        reachable = [each for each in probes if each.report.reachable]
        training = [each for each in reachable if each.report.trains]
        for each in reachable:
            _compare_clock(ask, each)
        if storage:
            _try_storage(ask, reachable, storage / f".doctor-{run}")
        if config.wandb.mode in ("auto", "online"):
            ask([each for each in training if each.report.wandb_key], "W&B", "reach_wandb")
        if len(reachable) > 1:
            _try_links(ask, reachable)
        if len(training) > 1:
            _try_all_reduce(ask, training, timeout)
        measured = _try_pairs(training, run, timeout) if links else None
        dead = sorted({entry["NodeName"] for entry in entries if not entry["Alive"]})
        return Facts([each.report for each in probes], tuple(dead), str(storage or ""), measured)


def _ask(timeout: float, probes: Probes, check: str, function: str, arguments: Arguments = lambda _: ()) -> Answers:
    """Call a function of `probe` on all nodes at once; return results by node, without those that failed.

    Failures become problems of `check`; dicts are also written into the reports.
    """
    deadline = time.monotonic() + timeout
    calls = [(each.report, each.actor.call.remote(function, *arguments(each.report))) for each in probes]
    results = {}
    for report, call in calls:
        try:
            result: Any = ray.get(call, timeout=max(0.1, deadline - time.monotonic()))
        except GetTimeoutError:
            problems = [f"no answer within {timeout:g} s"]
        except (RayError, ImportError, AttributeError) as error:
            cause = getattr(error, "cause", None) or error
            text = (str(cause).strip() or type(error).__name__).splitlines()[-1]
            problems = [f"{type(cause).__name__}: {text[:200]}"]
        else:
            results[report.name] = result
            fields = result if isinstance(result, dict) else {}
            problems = fields.pop("problems", [])
            report.__dict__ |= fields
        if problems:
            report.problems.setdefault(check, []).extend(problems)
    return results


def _compare_clock(ask: Ask, each: NodeProbe) -> None:
    """Take the quickest of five answers, and subtract what its round trip may explain."""
    took, ahead = float("inf"), 0.0
    for _ in range(5):
        now, start = time.time(), time.monotonic()
        if not (answer := ask([each], "clocks", "clock")):
            return
        seconds = time.monotonic() - start
        took, ahead = min((took, ahead), (seconds, answer[each.report.name] - now - seconds / 2))
    each.report.clock = max(0.0, abs(ahead) - took / 2) * (1 if ahead > 0 else -1)


def _try_storage(ask: Ask, probes: Probes, folder: Path) -> None:
    files = {each.report.name: str(index) for index, each in enumerate(probes)}
    answered = ask(probes, "storage", "write", lambda report: (folder, files[report.name]))
    for each in probes:
        if each.report.name not in answered:
            each.report.problems["free space"] = ["unknown, see storage"]
    probes = [each for each in probes if each.report.name in answered]
    written = {files[each.report.name]: each.report.name for each in probes if "storage" not in each.report.problems}
    ask(probes, "storage", "find_unseen", lambda _: (folder, written))
    ask(probes, "storage", "clean", lambda _: (folder,))


def _try_links(ask: Ask, probes: Probes) -> None:
    """From every node to every other one; the bandwidth along a ring."""
    ports = ask(probes, "ports", "listen")
    names = list(ports)
    targets = [(r.name, r.address, ports[r.name]) for r in (each.report for each in probes) if r.name in ports]

    def arguments(report: NodeReport) -> tuple[Any, ...]:
        following = names[(names.index(report.name) + 1) % len(names)]
        return [target for target in targets if target[0] != report.name], following

    ask([each for each in probes if each.report.name in ports], "ports", "connect", arguments)
    if not any(each.report.bandwidth_mb for each in probes):
        probes[0].report.problems["links"] = ["not measured, see ports"]


def _try_all_reduce(ask: Ask, probes: Probes, timeout: float) -> None:
    names, first = [each.report.name for each in probes], probes[0].report
    if any("ports" in each.report.problems for each in probes):
        first.problems["all-reduce"] = ["not measured, see ports"]
        return
    backend = "nccl" if all(each.report.gpus for each in probes) else "gloo"
    if port := ask(probes[:1], "all-reduce", "open_store", lambda _: (len(names),)).get(first.name):
        group = (len(names), first.address, port, backend, timeout)
        ask(probes, "all-reduce", "all_reduce", lambda report: (names.index(report.name), *group))


def _try_pairs(probes: Probes, run: str, timeout: float) -> LinkReport:
    """A worker per GPU, or per node without GPUs or with more than `MOST_WORKERS` GPUs."""
    usable = [each for each in probes if not {"ports", "nodes"} & each.report.problems.keys()]
    gpus = [len(each.report.gpus) for each in usable]
    backend = "nccl" if usable and all(gpus) else "gloo"
    per_gpu = backend == "nccl" and sum(gpus) <= MOST_WORKERS
    workers: list[NodeProbe] = []
    devices: dict[str, int] = {}
    for each, count in zip(usable, gpus, strict=True):
        for index in range(count if per_gpu else 1):
            name = f"{each.report.name}:{index}" if per_gpu and count > 1 else each.report.name
            workers.append(NodeProbe(each.entry, name, f"{run}-{index}"))  # a process has one rank
            devices[name] = index
    names = list(devices)
    if len(names) < 2:
        return LinkReport(tuple(names), backend)
    seconds = timeout + PAIR_TIME * len(rounds(len(names)))
    ask = partial(_ask, seconds)
    port = ask(workers[:1], "pairs", "open_store", lambda _: (len(names),)).get(names[0])
    answers: Answers = {}
    if port:
        group = (names, workers[0].report.address, port, backend)
        answers = ask(
            workers,
            "pairs",
            "measure_links",
            lambda report: (names.index(report.name), *group, devices[report.name], timeout),
        )
    problems = {each.report.name: each.report.problems.get("pairs", ["no answer"])[0] for each in workers}
    nodes = [(name, each.entry["NodeID"]) for name, each in zip(names, workers, strict=True)]
    return assemble(nodes, backend, answers, problems)
