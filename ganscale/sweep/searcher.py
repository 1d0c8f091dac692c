"""Ray Tune's searcher: proposes configurations by number and records each proposal in the trial's folder."""

import json
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ray.tune.search import Searcher

from ganscale.storage.files import write_atomically
from ganscale.storage.store import Place
from ganscale.sweep.results import read_drawn


class ReplayableSearcher(Searcher):
    """Proposes configurations by number; a recorded proposal is never drawn again.

    Args:
        numbers: Numbers of the configurations to propose, in order.
        draw: Maps the number of a configuration without a record to its drawn values.
        trials: Folder of the trials.
        until: Time (`time.monotonic`) after which nothing is proposed.
        on_complete: Called with the number of each trial that has ended.
    """

    def __init__(
        self,
        numbers: Iterable[int],
        draw: Callable[[int], dict[str, Any]],
        trials: Place,
        *,
        until: float,
        on_complete: Callable[[int], None] = lambda number: None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self.numbers = list(numbers)
        self._pending = iter(self.numbers)
        self._draw, self._trials, self._until, self._on_complete = draw, trials, until, on_complete
        self._by_trial: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next configuration as Tune's config, or FINISHED (Ray's protocol)."""
        number = next(self._pending, None) if time.monotonic() < self._until else None
        if number is None:
            return Searcher.FINISHED
        self._by_trial[trial_id] = number
        return {"index": number, "drawn": self._proposal(number)}

    def _proposal(self, number: int) -> str:
        folder = self._trials / f"{number:04d}"
        drawn = read_drawn(folder)
        if drawn is None:
            drawn = self._draw(number)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "drawn.json", json.dumps(drawn) + "\n")
        return json.dumps(drawn)

    def drawn(self, spec: Any) -> str:
        """The drawn values of a configuration as Tune's config holds them.

        Args:
            spec: Tune's spec; `spec.config.index` is the configuration's number.
        """
        return self._proposal(int(spec.config.index))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Forward the end of a trial (Ray's protocol)."""
        number = self._by_trial.get(trial_id)
        if number is not None:
            with suppress(OSError):  # of a bucket: Tune would take it for the trial's
                self._on_complete(number)

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: the trials' folders hold the state (Ray's protocol)."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, as `save`."""
