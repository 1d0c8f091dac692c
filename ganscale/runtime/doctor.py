"""Collects the facts of a cluster: an actor on every node, each step with a time limit, so that no node holds it up."""

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
from ganscale.diagnosis import AllReduce, Facts, Link, Node, Storage
from ganscale.launch.cluster import connected
from ganscale.runtime import probe

logging.getLogger("ray._private.worker").setLevel(logging.ERROR)  # of nodes that die meanwhile the table speaks


class Probe:
    """On one node: calls functions of `ganscale.runtime.probe` by name."""

    def __init__(self) -> None:
        self._kept: list[Any] = []

    def call(self, function: str, *arguments: Any) -> Any:
        """The result of a function; of a pair, the first part stays here for as long as the actor lives."""
        result = getattr(probe, function)(*arguments)
        if isinstance(result, tuple):
            kept, result = result
            self._kept.append(kept)
        return result

    def clock(self) -> float:
        """What the time is here."""
        return time.time()


class Patient:
    """A node with its probe."""

    def __init__(self, node: Node, ray_id: str, run: str) -> None:
        self.node = node
        where = NodeAffinitySchedulingStrategy(ray_id, soft=False)
        own = {"env_vars": {"GANSCALE_DOCTOR": run}}  # a new process, whatever idle ones the node has
        actor: Any = ray.remote(Probe)
        self.actor = actor.options(num_cpus=0, max_concurrency=8, scheduling_strategy=where, runtime_env=own).remote()


def collect(config: Config, storage: Path, *, patience: float) -> Facts:
    """Look at every node of the cluster that `config` names, or at this machine where there is none.

    Args:
        config: for `cluster.address`; whether W&B is tried follows `wandb.mode`.
        storage: an absolute folder that all nodes should share; made where it is not there, and left empty.
        patience: seconds that each step may take.

    Raises:
        ConfigError: the cluster cannot be reached.
    """
    with connected(config):
        found = ray.nodes()
        run = uuid.uuid4().hex[:8]
        living = [entry for entry in found if entry["Alive"]]
        patients = [Patient(node, entry["NodeID"], run) for node, entry in zip(_named(living), living, strict=True)]
        try:
            all_reduce = _examine(patients, config, storage, run, patience)
        finally:
            for patient in patients:
                with suppress(RayError):
                    ray.kill(patient.actor)
        dead = sorted({entry["NodeName"] for entry in found if not entry["Alive"]})
        return Facts([patient.node for patient in patients], tuple(dead), str(storage), all_reduce)


def _named(entries: Sequence[Mapping[str, Any]]) -> list[Node]:
    """What Ray knows of living nodes; they go by their host names where these differ."""
    hosts = [entry["NodeManagerHostname"] for entry in entries]
    return [
        Node(
            name=host if hosts.count(host) == 1 else f"{entry['NodeManagerAddress']}:{entry['NodeManagerPort']}",
            address=entry["NodeManagerAddress"],
            trains=entry["Resources"].get("CPU", 0) >= 1,
            ray_gpus=int(entry["Resources"].get("GPU", 0)),
        )
        for host, entry in zip(hosts, entries, strict=True)
    ]


def _examine(patients: list[Patient], config: Config, storage: Path, run: str, patience: float) -> AllReduce | None:
    """Fill in the nodes, step by step; a node that does not answer to the first is left out of the others."""
    for patient, answer in _ask(patients, lambda p: p.actor.call.remote("describe"), patience):
        if isinstance(answer, str):
            patient.node.silent = answer
        else:
            patient.node.__dict__ |= answer
    heard = [patient for patient in patients if not patient.node.silent]
    _clocks(heard, patience)
    _storage(heard, storage / f".doctor-{run}", patience)
    if config.wandb.mode in ("auto", "online"):
        _wandb([patient for patient in heard if patient.node.trains and patient.node.wandb_key], patience)
    _links(heard, patience)
    return _all_reduce([patient for patient in heard if patient.node.trains], patience)


def _ask(patients: Sequence[Patient], question: Callable[[Patient], Any], patience: float) -> list[tuple[Patient, Any]]:
    """Ask all at once; an answer that did not come is the reason why, as text."""
    until = time.monotonic() + patience
    asked = [(patient, question(patient)) for patient in patients]
    answers = []
    for patient, reference in asked:
        try:
            answer = ray.get(reference, timeout=max(0.1, until - time.monotonic()))
        except GetTimeoutError:
            answer = f"no answer within {patience:g} s"
        except (RayError, ImportError, AttributeError) as error:
            cause = getattr(error, "cause", None) or error
            answer = f"{type(cause).__name__}: {(str(cause).strip() or type(error).__name__).splitlines()[-1][:200]}"
        answers.append((patient, answer))
    return answers


def _clocks(patients: Sequence[Patient], patience: float) -> None:
    """How far each clock is ahead of this one: of five answers the quickest, without what its way may explain."""
    for patient in patients:
        best = (float("inf"), 0.0)
        for _ in range(5):
            start, tick = time.time(), time.monotonic()
            ((_, answer),) = _ask([patient], lambda p: p.actor.clock.remote(), patience)
            if isinstance(answer, str):
                patient.node.problems["clocks"] = answer
                break
            took = time.monotonic() - tick
            best = min(best, (took, answer - start - took / 2))
        else:
            took, ahead = best
            patient.node.clock = max(0.0, abs(ahead) - took / 2) * (1 if ahead > 0 else -1)


def _storage(patients: Sequence[Patient], folder: Path, patience: float) -> None:
    names = {patient.node.name: f"{index}" for index, patient in enumerate(patients)}
    numbers = {number: name for name, number in names.items()}
    wrote = {}
    for patient, answer in _ask(patients, lambda p: p.actor.call.remote("write", folder, names[p.node.name]), patience):
        if isinstance(answer, str):
            patient.node.problems["storage"] = answer
        else:
            wrote[patient.node.name] = answer
    well = [patient for patient in patients if patient.node.name in wrote]
    here = [names[name] for name, answer in wrote.items() if "problem" not in answer]
    for patient, answer in _ask(well, lambda p: p.actor.call.remote("look", folder, here), patience):
        fields = wrote[patient.node.name]
        missing = () if isinstance(answer, str) else tuple(numbers[number] for number in answer)
        patient.node.storage = Storage(**fields, missing=missing)
        if isinstance(answer, str):
            patient.node.problems["storage"] = answer
    _ask(well, lambda p: p.actor.call.remote("clean", folder), patience)


def _wandb(patients: Sequence[Patient], patience: float) -> None:
    for patient, answer in _ask(patients, lambda p: p.actor.call.remote("reach_wandb"), patience):
        patient.node.wandb = answer


def _links(patients: Sequence[Patient], patience: float) -> None:
    """From every node to every other one; the speed along a ring."""
    if len(patients) < 2:
        return
    ports = {}
    for patient, answer in _ask(patients, lambda p: p.actor.call.remote("listen"), patience):
        if isinstance(answer, str):
            patient.node.problems["ports"] = answer
        else:
            ports[patient.node.name] = answer
    listening = [patient for patient in patients if patient.node.name in ports]

    def connect(patient: Patient) -> Any:
        others = [other.node for other in listening if other is not patient]
        after = listening[(listening.index(patient) + 1) % len(listening)].node.name
        return patient.actor.call.remote("connect", [(o.name, o.address, ports[o.name]) for o in others], after)

    for patient, answer in _ask(listening, connect, patience):
        if isinstance(answer, str):
            patient.node.problems["ports"] = answer
        else:
            patient.node.links = {name: Link(**fields) for name, fields in answer.items()}


def _all_reduce(patients: Sequence[Patient], patience: float) -> AllReduce | None:
    if len(patients) < 2:
        return None
    backend = "nccl" if all(patient.node.gpus for patient in patients) else "gloo"
    links = [link for patient in patients for link in patient.node.links.values()]
    if any(link.problem for link in links) or any("ports" in patient.node.problems for patient in patients):
        return AllReduce(backend, problem="not tried, see ports")
    first, size = patients[0], len(patients)
    ((_, port),) = _ask([first], lambda p: p.actor.call.remote("open_store", size), patience)
    if isinstance(port, str):
        return AllReduce(backend, problem=port)
    ranks = {patient.node.name: rank for rank, patient in enumerate(patients)}

    def reduce(patient: Patient) -> Any:
        rank = ranks[patient.node.name]
        return patient.actor.call.remote("all_reduce", rank, size, first.node.address, port, backend, patience)

    answers = [(patient.node.name, answer) for patient, answer in _ask(patients, reduce, patience)]
    problems = [f"{name}: {answer}" for name, answer in answers if isinstance(answer, str)]
    if problems:
        return AllReduce(backend, problem="; ".join(problems[:3]))
    slowest = max((answer for _, answer in answers), key=lambda answer: answer["milliseconds"])
    return AllReduce(backend, slowest["milliseconds"], min(answer["megabytes"] for _, answer in answers))
