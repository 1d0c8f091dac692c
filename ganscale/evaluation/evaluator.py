"""How good a generator is: its samples and held-out real examples, both judged by the same reference, on all replicas.

Sample i is a function of (seed, i), and examples are looked at in chunks of fixed size, so that any number of replicas
finds the same features, and from them the same numbers.
"""

import hashlib
import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganscale.config import EXTRACTORS, METRICS, Config
from ganscale.config.checks import extractor_name, metric_names
from ganscale.config.section import is_conditional
from ganscale.config.table import resolve
from ganscale.data.order import draw
from ganscale.data.source import Finite, Source
from ganscale.evaluation.metrics.cache import load_observed, store_observed
from ganscale.evaluation.metrics.extractors import Extractor, Observed, make_extractor
from ganscale.evaluation.metrics.reals import make_reals
from ganscale.evaluation.metrics.result import Evaluation, Score, from_json
from ganscale.evaluation.metrics.scores import Reference, Setting, Values, compute
from ganscale.parallel.collectives import Replica
from ganscale.parallel.random import Stream, permutation
from ganscale.storage.files import write_atomically
from ganscale.storage.store import Place
from ganscale.training.batches import latents

CHUNK = 250
"""Examples that go through generator and extractor together."""


def missing_extractor(config: Config) -> str | None:
    """Why the config's extractor cannot be used on this machine, as "reason; remedy"; None if it can.

    Args:
        config: of the run.
    """
    missing = EXTRACTORS[extractor_name(config)].missing
    return None if missing is None else resolve(missing)(config.eval.weights)


def store_evaluation(evaluation: Evaluation, folder: Place) -> Place:
    """Write the scores as JSON, beside those of other metrics that the same protocol gave before.

    Args:
        evaluation: to write.
        folder: of the run's evaluations.

    Raises:
        OSError: the storage refuses.
    """
    e = evaluation
    path = folder / f"{e.images:012d}-{e.num_samples}-{e.extractor}-{e.seed}.json"
    with suppress(OSError, ValueError):
        old = from_json(json.loads(path.read_text(encoding="utf-8")))
        if old.protocol() == e.protocol():
            evaluation = replace(e, scores=old.scores | e.scores)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(evaluation.as_json(), indent=1) + "\n")
    return path


class Evaluator:
    """Judges generators of one run by one protocol; the real examples are looked at once.

    Args:
        config: of the run; its section `eval` is the protocol.
        source: the run's training data.
        device: where to compute.
        replica: this process among those that share the work; all of them make and use their evaluator alike.
        cache: folder that keeps what was seen in real examples for the next run; None for none.

    Raises:
        ImportError, FileNotFoundError, ValueError: extractor or real examples are not there, or damaged.
    """

    def __init__(
        self, config: Config, source: Source, *, device: torch.device, replica: Replica, cache: Path | None = None
    ) -> None:
        self.config, self.device, self.replica = config, device, replica
        self.names = metric_names(config)
        self._needs = {METRICS[name].needs for name in self.names}
        self.num_samples, self.seed = config.eval.num_samples, config.eval.seed
        self._is_image = len(source.shape) == 3
        self.extractor: Extractor = make_extractor(
            extractor_name(config), config.data.name, source.shape, weights=config.eval.weights, device=device
        )
        self._reals = make_reals(config, source, num_samples=self.num_samples, seed=self.seed)
        self._setting = Setting(self.seed, self.extractor.num_modes, replica)
        self._labels = self._draw_labels(source)
        self._cache = cache
        self._seen: tuple[Reference, Values] | None = None

    @torch.no_grad()
    def evaluate(self, generator: nn.Module, images: int) -> Evaluation:
        """Judge a generator as it is after `images` images. All replicas call together.

        Args:
            generator: on `device`, in evaluation mode.
            images: that it was trained on.
        """
        started = time.perf_counter()
        reference, floors = self._look_at_reals()
        stream = Stream(self.seed, "evaluation/latent", self.device)
        judged = self._observe(lambda start, stop: self._sample(generator, stream, start, stop), self.num_samples)
        values = compute(self.names, reference, judged, self._setting)
        above = {name: floors[name].value if METRICS[name].above_floor else 0.0 for name in self.names}
        data = self.config.data
        return Evaluation(
            images=images,
            data=f"{data.name} {data.resolution}" if self._is_image else data.name,
            num_samples=self.num_samples,
            seed=self.seed,
            extractor=self.extractor.name,
            extractor_sha256=self.extractor.sha256,
            scores={
                name: Score(found.value - above[name], floors[name].value - above[name], *found[1:])
                for name, found in values.items()
            },
            seconds=time.perf_counter() - started,
        )

    def _look_at_reals(self) -> tuple[Reference, Values]:
        """What is seen in the reference, and the metrics of held-out examples."""
        if self._seen is None:
            reals = self._reals
            seen = self._kept(lambda: f"reference/{reals.identity}", reals.reference, reals.num_reference)
            floor_reference = reference = Reference(seen)
            if reals.held_out is not None:
                held_out = reals.held_out, self.num_samples
                judged = self._kept(lambda: f"held_out/{reals.held_out_identity}", *held_out)
            else:
                order = permutation(self.seed, "evaluation/halves", reals.num_reference)
                half = reals.num_reference // 2
                rows = draw(half, self.num_samples, seed=self.seed, stream="evaluation/held_out")
                floor_reference, judged = Reference(seen.take(order[half:])), seen.take(order[:half][rows])
            self._seen = reference, compute(self.names, floor_reference, judged, self._setting)
        return self._seen

    def _sample(self, generator: nn.Module, stream: Stream, start: int, stop: int) -> Tensor:
        """Samples as they would be stored: images rounded to bytes."""
        z = latents(stream, self.config.model.latent, self.config.model.latent_dim, start, stop, _dtype(generator))
        labels = None if self._labels is None else self._labels[start:stop]
        fakes = generator(z, labels)
        return ((fakes.clamp(-1.0, 1.0) + 1.0) * 127.5).round() / 127.5 - 1.0 if self._is_image else fakes

    def _draw_labels(self, source: Source) -> Tensor | None:
        """Classes for a conditional generator, as frequent as in the data; None for others."""
        if not is_conditional(self.config.model.generator):
            return None
        if isinstance(source, Finite):
            rows = draw(source.num_images, self.num_samples, seed=self.seed, stream="evaluation/labels")
            return source.classes(rows).to(self.device)
        stream = Stream(self.seed, "evaluation/labels", self.device)
        return stream.integers(0, self.num_samples, source.num_classes, (1,)).squeeze(1)

    def _observe(self, read: Callable[[int, int], Tensor], count: int) -> Observed:
        """Look at `count` examples, each replica at every world_size-th chunk; all replicas get all of it."""
        starts = range(0, count, CHUNK)
        own = starts[self.replica.rank :: self.replica.world_size]
        whole: list[Tensor | None] = [None] * len(Observed._fields)
        for start in own or starts[:1]:
            stop = min(count, start + CHUNK)
            parts = self._needed(self.extractor(read(start, stop).to(self.device)))
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
        needs = self._needs
        return Observed(
            seen.features,
            seen.probabilities if "probabilities" in needs else None,
            seen.modes if needs & {"modes", "quality"} else None,
            seen.high_quality if needs & {"modes", "quality"} else None,
        )

    def _kept(self, name: Callable[[], str], read: Callable[[int, int], Tensor], count: int) -> Observed:
        """What is seen in real examples; from the cache if rank 0 finds it there."""
        path = self._cache_path(name()) if self._cache and self.replica.is_rank_zero else None
        found = self._from_first(load_observed(path, count) if path else None)
        if found is None:
            found = self._observe(read, count)
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


def _dtype(module: nn.Module) -> torch.dtype:
    return next(module.parameters()).dtype
