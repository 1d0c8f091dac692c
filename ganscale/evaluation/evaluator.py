"""How good a generator is: its samples and held-out real examples, both judged by the same reference, on all replicas.

Sample i is a function of (seed, i), and examples are looked at in chunks of fixed size, so that any number of replicas
finds the same features, and from them the same numbers.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ganscale.config import DATASETS, EXTRACTORS, METRICS, Config, ConfigError
from ganscale.config.checks import extractor_name, metric_names
from ganscale.config.datasets import resolution_text
from ganscale.config.section import is_conditional
from ganscale.config.table import resolve
from ganscale.data.order import draw
from ganscale.data.source import Finite, Source
from ganscale.evaluation.metrics.extractors import Extractor, Observed, make_extractor
from ganscale.evaluation.metrics.memorization import nearest_distances
from ganscale.evaluation.metrics.reals import make_reals
from ganscale.evaluation.metrics.result import Evaluation, Score, from_json
from ganscale.evaluation.metrics.scores import Reference, Setting, Values, compute
from ganscale.evaluation.observer import Observer
from ganscale.parallel.collectives import Replica
from ganscale.parallel.random import Stream, permutation
from ganscale.storage.files import write_atomically
from ganscale.storage.store import Place
from ganscale.training.batches import latents


def missing_extractor(config: Config) -> str | None:
    """Why the config's extractor cannot be used on this machine, as "reason; remedy"; None if it can.

    Args:
        config: of the run.

    Raises:
        ConfigError: its weights are there, but not those of its network.
    """
    missing = EXTRACTORS[extractor_name(config)].missing
    return None if missing is None else resolve(missing)(config.eval.weights)


def store_evaluation(evaluation: Evaluation, folder: Place) -> Place:
    """Write the scores as JSON, beside those of other metrics that the same protocol gave before.

    Those of other weights stay in the file that they are in.

    Args:
        evaluation: to write.
        folder: of the run's evaluations.

    Raises:
        OSError: the storage refuses.
    """
    e = evaluation
    path = folder / f"{e.images:012d}-{e.num_samples}-{e.extractor}-{e.seed}.json"
    old = _stored(path)
    if old and old.protocol() != e.protocol():
        path = folder / f"{e.images:012d}-{e.num_samples}-{e.extractor}-{e.seed}-{e.extractor_sha256[:12]}.json"
        old = _stored(path)
    if old and old.protocol() == e.protocol():
        evaluation = replace(e, scores=old.scores | e.scores)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(evaluation.as_json(), indent=1) + "\n")
    return path


def _stored(path: Place) -> Evaluation | None:
    with suppress(OSError, ValueError):
        return from_json(json.loads(path.read_text(encoding="utf-8")))
    return None


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
        self.num_samples, self.seed = config.eval.num_samples, config.eval.seed
        self._is_image = len(source.shape) == 3 and not DATASETS[config.data.name].is_latent
        self.extractor: Extractor = make_extractor(
            extractor_name(config), config.data.name, source.shape, weights=config.eval.weights, device=device
        )
        self._reals = make_reals(config, source, num_samples=self.num_samples, seed=self.seed)
        self._setting = Setting(self.seed, self.extractor.num_modes, replica)
        self._labels = self._draw_labels(source)
        needs = {METRICS[name].needs for name in self.names}
        self._observer = Observer(self.extractor, needs, device=device, replica=replica, cache=cache)
        self._compares = "neighbors" in needs
        self._source, self._training = source, torch.empty(0)
        if self._compares and not self._reals.num_training:
            problem = f"data.name = {config.data.name} has no finite training set that could be memorized"
            remedy = "leave memorization out"
            raise ConfigError(problem, key="eval.metrics", value=list(self.names), remedy=remedy)
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

        def sample(start: int, stop: int) -> Tensor:
            return self._sample(generator, stream, start, stop)

        judged = self._observer.observe(sample, self.num_samples)
        if self._compares:
            judged = judged._replace(nearest=self._distances(judged.compared, sample))
        values = compute(self.names, reference, judged, self._setting)
        above = {name: floors[name].value if METRICS[name].above_floor else 0.0 for name in self.names}
        data = self.config.data
        return Evaluation(
            images=images,
            data=f"{data.name} {resolution_text(data.resolution)}" if self._is_image else data.name,
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
            reals, kept = self._reals, self._observer.kept
            seen = kept(lambda: f"reference/{reals.identity}", reals.reference, reals.num_reference)
            floor_reference = reference = Reference(seen)
            if reals.held_out is not None:
                judged = kept(lambda: f"held_out/{reals.held_out_identity}", reals.held_out, self.num_samples)
            else:
                order = permutation(self.seed, "evaluation/halves", reals.num_reference)
                half = reals.num_reference // 2
                rows = draw(half, self.num_samples, seed=self.seed, stream="evaluation/held_out")
                floor_reference, judged = Reference(seen.take(order[half:])), seen.take(order[:half][rows])
            if self._compares:
                nearest = self._held_out_distances(seen, judged)
                reference = replace(reference, nearest=nearest)
                floor_reference = replace(floor_reference, nearest=nearest[::2])
                judged = judged._replace(nearest=nearest[1::2])
            self._seen = reference, compute(self.names, floor_reference, judged, self._setting)
        return self._seen

    def _held_out_distances(self, reference: Observed, held_out: Observed) -> Tensor:
        """Distances of held-out examples to the training set, which is looked at first.

        Where none are held out they are training examples without themselves, which is the same for independent ones.
        """
        reals, source, self._training = self._reals, self._source, reference.compared
        if reals.num_training != reals.num_reference:
            name = f"training/{reals.identity}"
            found = self._observer.kept(lambda: name, reals.training, reals.num_training, compared=True)
            self._training = found.features
        if reals.held_out is not None:
            return self._distances(held_out.compared, reals.held_out)
        assert isinstance(source, Finite), "refused otherwise"
        own = permutation(self.seed, "evaluation/without", reals.num_training)[: self.num_samples]
        wanted = self._training[own.to(self.device)]
        return self._distances(wanted, lambda start, stop: source.gather(own[start:stop])[0], own)

    def _distances(self, compared: Tensor, read: Callable[[int, int], Tensor], own: Tensor | None = None) -> Tensor:
        """Distance of examples to the nearest training example, or to its mirror image if the run mirrors."""
        found = nearest_distances(compared, self._training, own=own, replica=self.replica)
        if not self.config.data.mirror:
            return found
        mirrored = self._observer.observe(lambda start, stop: read(start, stop).flip(3), len(compared), compared=True)
        return found.minimum(nearest_distances(mirrored.features, self._training, own=own, replica=self.replica))

    def _sample(self, generator: nn.Module, stream: Stream, start: int, stop: int) -> Tensor:
        """Samples as they would be stored: images rounded to bytes."""
        model, dtype = self.config.model, next(generator.parameters()).dtype
        z = latents(stream, model.latent, model.latent_dim, start, stop, dtype)
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
