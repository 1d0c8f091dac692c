"""Which configuration a sweep tries next: the searcher that Ray Tune asks."""

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from ganscale.storage.files import write_atomically
from ganscale.sweep.record import read_drawn

Draw = Callable[[int], dict[str, Any]]
"""Number of a configuration to its drawn values."""


class ReplayableSearcher(Searcher):
    """Proposes configurations by number; what was proposed once is written down and proposed alike for ever.

    Args:
        numbers: of the configurations to propose, in order.
        draw: the values of a configuration that was not proposed before.
        trials: folder of the trials.
        until: time (`time.monotonic`) after which nothing is proposed.
        told: is told the number of each trial that has ended.
    """

    def __init__(
        self,
        numbers: Iterable[int],
        draw: Draw,
        trials: Path,
        *,
        until: float,
        told: Callable[[int], None] = lambda number: None,
    ) -> None:
        super().__init__(metric="score", mode="max")
        self.numbers = list(numbers)
        self._ahead = iter(self.numbers)
        self._draw, self._trials, self._until, self._told = draw, trials, until, told
        self._by_trial: dict[str, int] = {}

    def suggest(self, trial_id: str) -> Any:
        """The next configuration as Tune's config, or FINISHED."""
        if time.monotonic() >= self._until:
            return Searcher.FINISHED
        number = next(self._ahead, None)
        if number is None:
            return Searcher.FINISHED
        self._by_trial[trial_id] = number
        return {"index": number, "drawn": json.dumps(self._proposal(number))}

    def _proposal(self, number: int) -> dict[str, Any]:
        folder = self._trials / f"{number:04d}"
        drawn = read_drawn(folder)
        if drawn is None:
            drawn = self._draw(number)
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / "drawn.json", json.dumps(drawn) + "\n")
        return drawn

    def drawn(self, spec: Any) -> str:
        """The drawn values of the configuration with the number `spec.config.index`, as Tune's config has them."""
        return json.dumps(self._proposal(int(spec.config.index)))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell what a trial ended with."""
        number = self._by_trial.get(trial_id)
        if number is not None:
            self._told(number)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the trials' folders hold all that is needed to go on."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as `save`."""
