"""Which configurations a sweep tries: functions of (sweep seed, index) alone, so that a sweep can go on anywhere."""

import hashlib
import itertools
from typing import Any

from ganscale.config import Config, ConfigError
from ganscale.sweep.config import Sweep
from ganscale.sweep.space import Drawn, Parameter, Space

ATTEMPTS = 200
"""Draws for one configuration before its contradictions are the user's to mend."""


def uniform(seed: int, stream: str, index: int) -> float:
    """A number in [0, 1) with 53 random bits, a function of its arguments (Blake2b, without torch)."""
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


class Sampler:
    """The configurations of a random or grid search, by index.

    Each draw of what is not a grid is combined with the whole grid, so that the grid's values are compared at the same
    other settings.

    Args:
        sweep: the sweep.
        space: its space.

    Raises:
        ConfigError: a grid search over a range.
    """

    def __init__(self, sweep: Sweep, space: Space) -> None:
        self.sweep, self.space = sweep, space
        everything = sweep.sweep.search == "grid"
        for parameter in space.parameters:
            if everything and parameter.is_number:
                remedy = "give its values as grid: [...], or use sweep.search = random"
                key = f"space.{parameter.name}"
                raise ConfigError("a range has no grid", key=key, value=parameter.kind, remedy=remedy)
        self._in_grid = frozenset(p.name for p in space.parameters if p.kind == "grid" or everything)
        self.cells = self._cells()
        self.draws = 1 if len(self._in_grid) == len(space.parameters) else sweep.sweep.num_configs

    def __len__(self) -> int:
        return self.draws * len(self.cells)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The drawn values of configuration `index`; they make a valid run.

        Raises:
            ConfigError: `ATTEMPTS` draws contradicted themselves; the message names the last contradiction.
        """
        draw, cell = divmod(index, len(self.cells))
        problem = ""
        for attempt in range(ATTEMPTS):
            drawn = self._draw(draw, self.cells[cell], attempt)
            try:
                self.space.config(drawn)
            except ConfigError as error:
                problem = " ".join(str(error).split())
                continue
            return drawn
        raise ConfigError(
            f"{ATTEMPTS} draws of configuration {index} were no valid runs; the last: {problem}",
            key="space",
            value=dict(self.cells[cell]) or None,
            remedy="narrow the space, or give settings a `when` that leaves contradictions out",
        )

    def config(self, drawn: Drawn) -> Config:
        """The run of drawn values."""
        return self.space.config(drawn)

    def _draw(self, draw: int, cell: Drawn, attempt: int) -> dict[str, Any]:
        """Values in the space's order; those in the grid come from the cell."""
        drawn: dict[str, Any] = {}
        for parameter in self.space.parameters:
            if not parameter.applies(drawn):
                continue
            if parameter.name in self._in_grid:
                drawn[parameter.name] = cell[parameter.name]
            else:
                stream = f"sweep/{parameter.name}/{attempt}"
                drawn[parameter.name] = parameter.at(uniform(self.sweep.sweep.seed, stream, draw))
        return drawn

    def _cells(self) -> list[dict[str, Any]]:
        """All combinations of the grid that differ in what applies."""
        grid: list[Parameter] = [p for p in self.space.parameters if p.name in self._in_grid]
        cells: dict[str, dict[str, Any]] = {}
        for values in itertools.product(*(p.options for p in grid)):
            cell: dict[str, Any] = {}
            for parameter, value in zip(grid, values, strict=True):
                outside = [name for name in parameter.when if name not in self._in_grid]
                if outside or parameter.applies(cell):
                    cell[parameter.name] = value
            cells.setdefault(repr(cell), cell)
        return list(cells.values())
