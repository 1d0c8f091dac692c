"""What D makes of real examples that it never trains on, and of classes that are not an example's: for the log."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ganscale.data.source import LabeledReader
from ganscale.models.base import Head
from ganscale.models.layers import batch_norms, place_rows
from ganscale.training.batches import Batches
from ganscale.training.objective import View, discriminate, grouped
from ganscale.training.schedules import Controls

NUM_HELD_OUT = 256
"""Held-out examples that D is shown at a tick, over all replicas: whole batches, at least one."""


class Probe:
    """Sums of D's answers, without gradients; the run's state stays as it is.

    Args:
        discriminator: the network.
        view: makes its input, as in training.
        held_out: opens so many examples that are never trained on, at the first tick; None if there are none.
        batch_size: of a D update, in images.
        rows: this replica's of such a batch, one (start, stop) per micro-batch.
        places: of these rows, as `Batch.place`; None where there are no other rows.
        num_classes: that D learns; 0 if it learns none.
        autocast: makes the context in which networks run.
        compiled: whether the network is compiled, which this once more, for eval mode, would not be worth.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        view: View,
        held_out: Callable[[int], LabeledReader] | None,
        *,
        batch_size: int,
        rows: Sequence[tuple[int, int]],
        places: Sequence[tuple[int, int]] | None = None,
        num_classes: int = 0,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        compiled: bool = False,
    ) -> None:
        self._discriminator, self._view = discriminator, view
        self._norms, self._grouped = batch_norms(discriminator), grouped(discriminator)
        self._places = places or [None] * len(rows)
        self._open, self._read = held_out, None
        starts = range(0, max(1, NUM_HELD_OUT // batch_size) * batch_size, batch_size)
        self._count = starts.stop
        self._rows = [(first + start, first + stop) for first in starts for start, stop in rows]
        self._num_classes = num_classes
        self._autocast, self._compiled = autocast, compiled

    @torch.no_grad()
    def __call__(self, batches: Batches, controls: Controls) -> dict[str, Tensor]:
        """Sums over this replica's rows, as `statistics.probe_metrics` takes them; empty if there is nothing to see.

        Args:
            batches: of the newest iteration.
            controls: of the newest iteration.

        Returns:
            `trained` and `held_out` (D's logits), `classes` (how much better D finds the class of an example than
            another one): each count, sum and sum of squares, `[3]`.
        """
        if self._open is None and not self._num_classes:
            return {}
        sums = {}
        eager = torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()
        with eager, _running_statistics(self._norms):
            micros = [(batch.reals, batch.labels, batch.position) for batch in batches.discriminator[-1]]
            sums["trained"], sums["classes"] = self._sums(micros, "real", controls)
            if self._open is not None:
                micros = self._held_out(micros[0][0])
                sums["held_out"], sums["classes"] = self._sums(micros, "held_out", controls)
        if not self._num_classes:
            del sums["classes"]
        return sums

    def _held_out(self, like: Tensor) -> list[tuple[Tensor, Tensor | None, int]]:
        """This replica's held-out examples, as many at a time as in training."""
        if self._read is None:
            assert self._open is not None, "there are held-out examples"
            self._read = self._open(self._count)
        micros = []
        for start, stop in self._rows:
            reals, labels = self._read(start, stop)
            micros.append((reals.to(like), labels.to(like.device) if self._num_classes else None, start))
        return micros

    def _sums(
        self, micros: Sequence[tuple[Tensor, Tensor | None, int | Tensor]], purpose: str, controls: Controls
    ) -> tuple[Tensor, Tensor]:
        """Sums of logits, and of how much better D finds examples' own classes (zeros if it learns none)."""
        device = next(self._discriminator.parameters()).device
        logit_sums, class_sums = (torch.zeros(3, dtype=torch.float64, device=device) for _ in range(2))
        for index, (reals, labels, position) in enumerate(micros):
            place_rows(self._grouped, self._places[index % len(self._places)])
            x = self._view(reals, purpose, position, noise=controls.noise, p=controls.augment_p)
            with self._autocast():
                logits, outputs = discriminate(self._discriminator, x, labels)
                if self._num_classes and labels is not None:
                    u = self._view.draws.uniform("probe/classes", position, labels.shape, torch.float32)
                    others = (labels + 1 + (u * (self._num_classes - 1)).long()) % self._num_classes
                    if outputs is None:
                        class_sums += _moments(logits - self._discriminator(x, others))
                    else:
                        class_sums += _moments(self._fit(outputs, labels) - self._fit(outputs, others))
            logit_sums += _moments(logits)
        return logit_sums, class_sums

    def _fit(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """How well classes fit what D says: less cross-entropy, or the similarity to the class's proxy (ReACGAN)."""
        head = getattr(self._discriminator, "head", None)
        if isinstance(head, Head) and head.conditioning == "reacgan":
            return (outputs * head.proxies(labels)).sum(1)
        return -cross_entropy(outputs, labels, reduction="none")


def _moments(values: Tensor) -> Tensor:
    wide = values.double()
    return torch.stack((wide.new_tensor(float(wide.numel())), wide.sum(), wide.square().sum()))


@contextmanager
def _running_statistics(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Normalize by the running statistics, which stay as they are; all else is as in training."""
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()
