"""What an extractor sees in examples: all replicas share the work, and what is seen in real examples is kept."""

import hashlib
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ganscale.evaluation.metrics.cache import load_observed, store_observed
from ganscale.evaluation.metrics.extractors import Extractor, Observed
from ganscale.parallel.collectives import Replica

CHUNK = 250
"""Examples that go through generator and extractor together."""


class Observer:
    """Looks at examples in chunks of fixed size, so that any number of replicas finds the same.

    Args:
        extractor: what looks.
        needs: what the metrics ask for.
        device: where to compute.
        replica: this process among those that share the work; all call together.
        cache: folder that keeps what was seen in real examples for the next run; None for none.
    """

    def __init__(
        self, extractor: Extractor, needs: Set[str], *, device: torch.device, replica: Replica, cache: Path | None
    ) -> None:
        self.extractor, self._needs = extractor, needs
        self.device, self.replica, self._cache = device, replica, cache

    def observe(self, read: Callable[[int, int], Tensor], count: int, *, compared: bool = False) -> Observed:
        """Look at examples, each replica at every world_size-th chunk; all replicas get all of it.

        Args:
            read: gives the examples from start to stop.
            count: how many there are.
            compared: keep only what examples are compared by one by one, as features.
        """
        starts = range(0, count, CHUNK)
        own = starts[self.replica.rank :: self.replica.world_size]
        whole: list[Tensor | None] = [None] * len(Observed._fields)
        for start in own or starts[:1]:
            stop = min(count, start + CHUNK)
            seen = self.extractor(read(start, stop).to(self.device))
            parts = Observed(seen.compared) if compared else self._needed(seen)
            for index, part in enumerate(parts):
                if part is None:
                    continue
                target = whole[index]
                if target is None:
                    target = whole[index] = part.new_zeros(count, *part.shape[1:])
                if own:  # without a chunk of its own a replica only learns the shapes
                    target[start:stop] = part
        if self.replica.world_size > 1:
            for part in whole:
                if part is not None:
                    dist.all_reduce(part)  # every row is zero on all replicas but one: nothing is rounded
        return Observed(*whole)  # pyright: ignore[reportArgumentType]

    def _needed(self, seen: Observed) -> Observed:
        """Without what no metric asks for."""
        has_modes = bool(self._needs & {"modes", "quality"})
        return Observed(
            seen.features,
            seen.probabilities if "probabilities" in self._needs else None,
            seen.modes if has_modes else None,
            seen.high_quality if has_modes else None,
            seen.thumbnails if "neighbors" in self._needs else None,
        )

    def kept(
        self, name: Callable[[], str], read: Callable[[int, int], Tensor], count: int, *, compared: bool = False
    ) -> Observed:
        """What is seen in real examples; from the cache if rank 0 finds it there.

        Args:
            name: gives a text that changes when an example changes.
            read: as for `observe`.
            count: as for `observe`.
            compared: as for `observe`.
        """
        path = self._cache_path(name()) if self._cache and self.replica.is_rank_zero else None
        found = self._from_first(load_observed(path, count) if path else None)
        if found is None:
            found = self.observe(read, count, compared=compared)
            if path:
                store_observed(path, found)
        return found

    def _cache_path(self, name: str) -> Path:
        assert self._cache is not None, "asked for with a cache only"
        needs = sorted(self._needs)
        kind = f"{self.extractor.name}/{self.extractor.sha256}/{needs}/{CHUNK}/{Observed._fields}"
        key = f"{name}/{kind}"
        return self._cache / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"

    def _from_first(self, found: Observed | None) -> Observed | None:
        """What rank 0 has, on all replicas."""
        parts = None if found is None else [None if part is None else part.to(self.device) for part in found]
        if self.replica.world_size > 1:
            shapes: list[Any] = [
                None if parts is None else [part if part is None else (part.shape, part.dtype) for part in parts]
            ]
            dist.broadcast_object_list(shapes, 0, device=self.device)
            if shapes[0] is not None:
                if parts is None:
                    parts = [s if s is None else torch.empty(s[0], dtype=s[1], device=self.device) for s in shapes[0]]
                for part in parts:
                    if part is not None:
                        dist.broadcast(part, 0)
        return None if parts is None else Observed(*parts)  # pyright: ignore[reportArgumentType]
