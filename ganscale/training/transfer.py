"""Weights of one network for another: what fits, and the table of what does not."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ganscale.models.layers.spectral import WARM_UP
from ganscale.models.structure import class_rows, flat_maps, layer_keys, power_iterations

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One entry of a network's state.

    Attributes:
        name: here.
        here: its shape here.
        there: its shape there; None if nothing there is the same layer.
        taken: of its numbers, how many are taken.
        reason: why not all of them are; empty if they are.
    """

    name: str
    here: Shape
    there: Shape | None
    taken: int
    reason: str = ""


@dataclass
class Transfer:
    """What a network takes from another one.

    Attributes:
        rows: one per entry of the state, without power iterations.
        sources: name here to name there.
        classes: name here to pairs of rows (here, there), for entries of which only these are taken.
        share: of the parameters' numbers, how much is taken, in [0, 1]; rows of classes do not count.
    """

    rows: list[Row] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    classes: dict[str, Sequence[tuple[int, int]]] = field(default_factory=dict)
    share: float = 0.0


def match(
    network: nn.Module,
    shape: Shape,
    other: nn.Module,
    other_shape: Shape,
    classes: Mapping[int, int],
    unknown: str = "",
) -> Transfer:
    """Find what a network can take from another one of the same architecture.

    Layers are the same by `ganscale.models.structure.layer_keys`; of entries with a row per class, those of the same
    classes are taken, of all others only those of equal shape, whose maps have equal shapes, too.

    Args:
        network: that is to start.
        shape: of one input of it.
        other: with the weights.
        other_shape: of one input of it.
        classes: class here to the same class there.
        unknown: why no class here is known to be one there, if so.
    """
    transfer, state, others = Transfer(), network.state_dict(), other.state_dict()
    known = {key: name for name, key in layer_keys(other, other_shape).items()}
    with_rows = class_rows(network)
    maps, other_maps = flat_maps(network, shape), flat_maps(other, other_shape)
    steps = tuple(f"{name}." for name in power_iterations(network))
    for name, key in layer_keys(network, shape).items():
        if name.startswith(steps):
            continue
        here, source = state[name], known.get(key)
        there = others.get(source) if source else None
        row = Row(name, tuple(here.shape), None if there is None else tuple(there.shape), 0)
        if there is None or source is None:
            transfer.rows.append(replace(row, reason="no such layer there"))
        elif name in maps and maps[name] != other_maps.get(source, maps[name]):
            reason = f"its maps are {_shown(maps[name])}, there {_shown(other_maps[source])}"
            transfer.rows.append(replace(row, reason=reason))
        elif name in with_rows and here.shape[1:] == there.shape[1:]:
            pairs = [(a, b) for a, b in sorted(classes.items()) if a < len(here) and b < len(there)]
            if pairs:
                transfer.sources[name] = source
            if pairs and (pairs != [(a, a) for a in range(len(here))] or len(here) != len(there)):
                transfer.classes[name] = pairs
            reason = f"{len(pairs)} of {len(here)} classes are there" if pairs else unknown or "no class is there"
            taken = here.numel() // len(here) * len(pairs)
            transfer.rows.append(replace(row, taken=taken, reason="" if len(pairs) == len(here) else reason))
        elif here.shape == there.shape:
            transfer.sources[name] = source
            transfer.rows.append(replace(row, taken=here.numel()))
        else:
            transfer.rows.append(replace(row, reason="another shape"))
    parameters = {name for name, _ in network.named_parameters()} - with_rows
    total = sum(state[name].numel() for name in parameters)
    transfer.share = sum(row.taken for row in transfer.rows if row.name in parameters) / max(1, total)
    return transfer


@torch.no_grad()
def apply(transfer: Transfer, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy what a transfer names, in place; estimates of singular values are those of the new weights.

    Args:
        transfer: of `match`.
        network: that is to start.
        weights: state of the other network.
    """
    state = network.state_dict()
    for name, source in transfer.sources.items():
        if name in transfer.classes:
            here, there = (torch.tensor(side) for side in zip(*transfer.classes[name], strict=True))
            state[name][here.to(state[name].device)] = weights[source][there].to(state[name])
        else:
            state[name].copy_(weights[source])
    for name, norm in power_iterations(network).items():
        weight = f"{name.rpartition('.')[0]}.original"
        source = transfer.sources.get(weight)
        known = f"{source.rpartition('.')[0]}.{name.rpartition('.')[2]}" if source else ""
        if weight in transfer.classes or f"{known}.u" not in weights:
            norm.advance(state[weight], WARM_UP)
        else:
            norm.u.copy_(weights[f"{known}.u"])
            norm.v.copy_(weights[f"{known}.v"])


def take_moments(
    transfer: Transfer,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    other: nn.Module,
    moments: Mapping[str, Any],
) -> int:
    """Give an optimizer the moments of all parameters that were taken whole; return of how many.

    Args:
        transfer: of `match`.
        network: that is to start.
        optimizer: over its trained parameters.
        other: the network that the moments belong to.
        moments: state of its optimizer; one of another kind has none to give.
    """
    kind = "square_avg" if isinstance(optimizer, torch.optim.RMSprop) else "exp_avg"
    names = [name for name, each in other.named_parameters() if each.requires_grad]
    known = {name: moments["state"][index] for index, name in enumerate(names) if index in moments["state"]}
    state = {}
    for index, name in enumerate(name for name, each in network.named_parameters() if each.requires_grad):
        source = transfer.sources.get(name)
        if source in known and kind in known[source] and name not in transfer.classes:
            state[index] = known[source]
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return len(state)


def table(transfer: Transfer, *, whole: bool) -> list[str]:
    """A transfer as lines of text: entries that are not taken whole, and on request the others too.

    Args:
        transfer: of `match`.
        whole: whether also those that are.
    """
    rows = [row for row in transfer.rows if whole or row.reason]
    cells = [
        (row.name, _shown(row.here), _shown(row.there), "taken" if not row.reason else "some" if row.taken else "left")
        for row in rows
    ]
    if not rows:
        return []
    cells = [("layer", "here", "there", "is"), *cells]
    reasons = ["reason", *(row.reason for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(["", *(f"{text:{width}}" for text, width in zip(cell, widths, strict=True)), reason]).rstrip()
        for cell, reason in zip(cells, reasons, strict=True)
    ]


def _shown(shape: Shape | None) -> str:
    return "-" if shape is None else "x".join(map(str, shape)) or "1"
