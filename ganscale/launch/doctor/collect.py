"""Collects the facts of a cluster: an actor on every node, each step with a time limit, so that no node delays it."""

import logging
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ganscale.config import Config
from ganscale.launch.cluster import connected
from ganscale.launch.doctor import probe
from ganscale.launch.doctor.checks import Facts, NodeReport

logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # the table reports nodes that die meanwhile


class _Caller:
    """The actor: calls functions of `ganscale.launch.doctor.probe` by name."""

    def call(self, function: str, *arguments: Any) -> Any:
        """Return the function's result."""
        return getattr(probe, function)(*arguments)


class NodeProbe:
    """A node's report and the actor on the node that fills it.

    Args:
        entry: the node, as `ray.nodes` describes it.
        name: of the node in the report.
        run: unique name of this check: gives the actor a fresh process, whatever idle ones the node has.
    """

    def __init__(self, entry: Mapping[str, Any], name: str, run: str) -> None:
        cpus, gpus = (entry["Resources"].get(kind, 0) for kind in ("CPU", "GPU"))
        self.report = NodeReport(name, address=entry["NodeManagerAddress"], trains=cpus >= 1, ray_gpus=int(gpus))
        actor: Any = ray.remote(_Caller)
        self.actor = actor.options(
            num_cpus=0,
            max_concurrency=8,  # a call that hangs blocks no other
            scheduling_strategy=NodeAffinitySchedulingStrategy(entry["NodeID"], soft=False),
            runtime_env={"env_vars": {"GANSCALE_DOCTOR": run}},
        ).remote()


def collect(config: Config, storage: Path, *, timeout: float) -> Facts:
    """Examine every node of the cluster that `config` names, or this machine if there is no cluster.

    Args:
        config: for `cluster.address`, and `wandb.mode`, which decides whether W&B is tried.
        storage: an absolute folder that all nodes should share; made if it is missing, and left empty.
        timeout: seconds that each step may take.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    with connected(config):
        entries, run = ray.nodes(), uuid.uuid4().hex[:8]
        alive = [entry for entry in entries if entry["Alive"]]
        hosts = [entry["NodeManagerHostname"] for entry in alive]
        probes = []
        for entry, host in zip(alive, hosts, strict=True):
            address = f"{entry['NodeManagerAddress']}:{entry['NodeManagerPort']}"
            probes.append(NodeProbe(entry, host if hosts.count(host) == 1 else address, run))
        try:
            _Collector(timeout).run(probes, storage / f".doctor-{run}", wandb=config.wandb.mode in ("auto", "online"))
        finally:
            for each in probes:
                with suppress(RayError):
                    ray.kill(each.actor)
    dead = sorted({entry["NodeName"] for entry in entries if not entry["Alive"]})
    return Facts([each.report for each in probes], tuple(dead), str(storage))


class _Collector:
    """Fills the reports step by step, each within `timeout` seconds."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout

    def run(self, probes: Sequence[NodeProbe], folder: Path, *, wandb: bool) -> None:
        """Run all steps; a node that does not answer the first one is left out of the others."""
        self._ask(probes, "nodes", "describe")
        probes = [each for each in probes if each.report.reachable]
        for each in probes:
            self._compare_clock(each)
        self._try_storage(probes, folder)
        training = [each for each in probes if each.report.trains]
        if wandb:
            self._ask([each for each in training if each.report.wandb_key], "W&B", "reach_wandb")
        if len(probes) > 1:
            self._try_links(probes)
        if len(training) > 1 and not any("ports" in each.report.problems for each in training):
            self._try_all_reduce(training)

    def _ask(
        self,
        probes: Sequence[NodeProbe],
        check: str,
        function: str,
        arguments: Callable[[NodeReport], tuple[Any, ...]] = lambda _: (),
    ) -> dict[str, Any]:
        """Call a function of `probe` on all nodes at once; failures become problems of `check`.

        Returns:
            The results by node, without the nodes that failed; dicts are also written into the reports.
        """
        deadline = time.monotonic() + self._timeout
        calls = [(each.report, each.actor.call.remote(function, *arguments(each.report))) for each in probes]
        results = {}
        for report, call in calls:
            problems: list[str] = []
            try:
                result = ray.get(call, timeout=max(0.1, deadline - time.monotonic()))
            except GetTimeoutError:
                problems = [f"no answer within {self._timeout:g} s"]
            except (RayError, ImportError, AttributeError) as error:
                cause = getattr(error, "cause", None) or error
                text = (str(cause).strip() or type(error).__name__).splitlines()[-1]
                problems = [f"{type(cause).__name__}: {text[:200]}"]
            else:
                results[report.name] = result
                if isinstance(result, dict):
                    problems = result.pop("problems", [])
                    report.__dict__ |= result
            if problems:
                report.problems.setdefault(check, []).extend(problems)
        return results

    def _compare_clock(self, each: NodeProbe) -> None:
        """Take the quickest of five answers, and subtract what its round trip may explain."""
        best = (float("inf"), 0.0)
        for _ in range(5):
            now, start = time.time(), time.monotonic()
            answers = self._ask([each], "clocks", "clock")
            if not answers:
                return
            took = time.monotonic() - start
            best = min(best, (took, answers[each.report.name] - now - took / 2))
        took, ahead = best
        each.report.clock = max(0.0, abs(ahead) - took / 2) * (1 if ahead > 0 else -1)

    def _try_storage(self, probes: Sequence[NodeProbe], folder: Path) -> None:
        files = {each.report.name: str(index) for index, each in enumerate(probes)}
        answered = self._ask(probes, "storage", "write", lambda report: (folder, files[report.name]))
        probes = [each for each in probes if each.report.name in answered]
        written = {
            files[each.report.name]: each.report.name for each in probes if "storage" not in each.report.problems
        }
        self._ask(probes, "storage", "find_unseen", lambda _: (folder, written))
        self._ask(probes, "storage", "clean", lambda _: (folder,))

    def _try_links(self, probes: Sequence[NodeProbe]) -> None:
        """From every node to every other one; the bandwidth along a ring."""
        ports = self._ask(probes, "ports", "listen")
        probes = [each for each in probes if each.report.name in ports]
        targets = [(each.report.name, each.report.address, ports[each.report.name]) for each in probes]

        def arguments(report: NodeReport) -> tuple[Any, ...]:
            following = list(ports)[(list(ports).index(report.name) + 1) % len(ports)]
            return [target for target in targets if target[0] != report.name], following

        self._ask(probes, "ports", "connect", arguments)

    def _try_all_reduce(self, probes: Sequence[NodeProbe]) -> None:
        names, first = [each.report.name for each in probes], probes[0].report
        backend = "nccl" if all(each.report.gpus for each in probes) else "gloo"
        port = self._ask(probes[:1], "all-reduce", "open_store", lambda _: (len(names),)).get(first.name)
        if port:
            group = (len(names), first.address, port, backend, self._timeout)
            self._ask(probes, "all-reduce", "all_reduce", lambda report: (names.index(report.name), *group))
