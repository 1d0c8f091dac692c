"""Which configurations a sweep tries: random and grid draws by index, and Optuna's TPE."""

import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

from ganscale.config import ConfigError
from ganscale.sweep.config import Sweep, SweepSettings
from ganscale.sweep.space import Drawn, Parameter, Space

ATTEMPTS = 200
"""Draws of one configuration before its contradictions are an error."""


def uniform(seed: int, stream: str, index: int) -> float:
    """A number in [0, 1) with 53 random bits, a pure function of its arguments (Blake2b; no torch is needed).

    Args:
        seed: Seed of the search.
        stream: Name of the random stream.
        index: Place in the stream.
    """
    digest = hashlib.blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def audited_seeds(settings: SweepSettings, number: int, seeds: Sequence[int]) -> tuple[int, ...]:
    """The seeds of a configuration that health verdicts do not end, each drawn with probability `sweep.audit_share`.

    Args:
        settings: Section `sweep`.
        number: Of the configuration.
        seeds: `run.seed` of each run.
    """
    return tuple(seed for seed in seeds if uniform(settings.seed, f"audit/{seed}", number) < settings.audit_share)


def first_valid(space: Space, draw: Callable[[int], dict[str, Any]], what: str) -> dict[str, Any]:
    """The first of up to `ATTEMPTS` draws that makes a valid run.

    Args:
        space: The search space.
        draw: Maps the number of the attempt to drawn values.
        what: Name of what is drawn, for the error.

    Raises:
        ConfigError: All draws contradict themselves; the message names the last contradiction.
    """
    problem = ""
    for attempt in range(ATTEMPTS):
        drawn = draw(attempt)
        try:
            space.config(drawn)
        except ConfigError as error:
            problem = " ".join(str(error).split())
            continue
        return drawn
    raise ConfigError(
        f"{ATTEMPTS} draws of {what} were invalid runs; the last: {problem}",
        key="space",
        value=None,
        remedy="narrow the space, or give settings a `when` that excludes contradictions",
    )


class Sampler:
    """The configurations of a random or grid search, each a function of (sweep.seed, index) alone.

    Each draw of the settings outside the grid is combined with the whole grid, so that values of the grid are compared
    at equal values of everything else.

    Args:
        sweep: The sweep.
        space: Its space.

    Raises:
        ConfigError: A grid search over a range.
    """

    def __init__(self, sweep: Sweep, space: Space) -> None:
        self._seed, self._space = sweep.sweep.seed, space
        is_grid = sweep.sweep.search == "grid"
        for parameter in space.parameters:
            if is_grid and parameter.is_number:
                remedy = "list its values as grid: [...], or use sweep.search = random"
                key = f"space.{parameter.name}"
                raise ConfigError("a range has no grid", key=key, value=parameter.kind, remedy=remedy)
        self._in_grid = frozenset(p.name for p in space.parameters if p.kind == "grid" or is_grid)
        self.cells = self._cells()
        self._draws = 1 if len(self._in_grid) == len(space.parameters) else sweep.sweep.num_configs

    def __len__(self) -> int:
        return self._draws * len(self.cells)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The drawn values of configuration `index`. Raises: `first_valid`."""
        draw, cell = divmod(index, len(self.cells))
        return first_valid(
            self._space, lambda attempt: self._draw(draw, self.cells[cell], attempt), f"configuration {index}"
        )

    def _draw(self, draw: int, cell: Drawn, attempt: int) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        for parameter in self._space.parameters:
            if not parameter.applies(drawn):
                continue
            if parameter.name in self._in_grid:
                drawn[parameter.name] = cell[parameter.name]
            else:
                stream = f"sweep/{parameter.name}/{attempt}"
                drawn[parameter.name] = parameter.at(uniform(self._seed, stream, draw))
        return drawn

    def _cells(self) -> list[dict[str, Any]]:
        """All combinations of the grid that differ in an applicable setting."""
        grid: list[Parameter] = [p for p in self._space.parameters if p.name in self._in_grid]
        cells: dict[str, dict[str, Any]] = {}
        for values in itertools.product(*(p.options for p in grid)):
            cell: dict[str, Any] = {}
            for parameter, value in zip(grid, values, strict=True):
                outside = [name for name in parameter.when if name not in self._in_grid]
                if outside or parameter.applies(cell):
                    cell[parameter.name] = value
            cells.setdefault(repr(cell), cell)
        return list(cells.values())


class OptunaSampler:
    """Proposals by Optuna's TPE (Bergstra et al. 2011; Watanabe 2023), from the results so far.

    A proposal is a function of the seed, its number and the results before it. Needs the package's extra `optuna`.

    Args:
        space: The search space.
        seed: Seed of the search.
        num_objectives: Values per result; with more than 1 the search is for their Pareto front.
    """

    def __init__(self, space: Space, *, seed: int, num_objectives: int) -> None:
        import optuna
        from optuna.study import StudyDirection

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed = space, seed
        self._study = optuna.create_study(directions=[StudyDirection.MAXIMIZE] * num_objectives)
        self._running: dict[int, Any] = {}

    def ask(self, number: int) -> dict[str, Any]:
        """The drawn values of a new configuration. Raises: `first_valid`.

        Args:
            number: Number of the configuration.
        """
        return first_valid(self._space, lambda attempt: self._propose(number, attempt), f"configuration {number}")

    def _propose(self, number: int, attempt: int) -> dict[str, Any]:
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        rejected = self._running.pop(number, None)
        if rejected is not None:
            self._study.tell(rejected, state=TrialState.FAIL)
        seed = int(uniform(self._seed, f"learner/{attempt}", number) * 2**32)
        self._study.sampler = TPESampler(seed=seed, constant_liar=True)
        self._running[number] = trial = self._study.ask()
        drawn: dict[str, Any] = {}
        for parameter in self._space.parameters:
            if parameter.applies(drawn):
                drawn[parameter.name] = _suggest(trial, parameter)
        return drawn

    def tell(self, number: int, drawn: Drawn, values: Sequence[float]) -> None:
        """Add the result of a configuration, proposed here or by an earlier command.

        Args:
            number: Number of the configuration.
            drawn: Its drawn values.
            values: Its objectives; higher is better.
        """
        trial = self._running.pop(number, None)
        if trial is not None:
            self._study.tell(trial, list(values))
            return
        from optuna.trial import create_trial

        own = [parameter for parameter in self._space.parameters if parameter.name in drawn]
        params = {p.name: drawn[p.name] if p.is_number else p.options.index(drawn[p.name]) for p in own}
        distributions = {p.name: _distribution(p) for p in own}
        self._study.add_trial(create_trial(params=params, distributions=distributions, values=list(values)))


def _suggest(trial: Any, parameter: Parameter) -> Any:
    low, high = parameter.bounds
    if parameter.kind == "randint":
        return trial.suggest_int(parameter.name, int(low), int(high))
    if parameter.is_number:
        return trial.suggest_float(parameter.name, low, high, log=parameter.kind == "loguniform")
    # Options are numbered, as Optuna's categories cannot be lists.
    return parameter.options[trial.suggest_categorical(parameter.name, list(range(len(parameter.options))))]


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = parameter.bounds
    if parameter.kind == "randint":
        return IntDistribution(int(low), int(high))
    if parameter.is_number:
        return FloatDistribution(low, high, log=parameter.kind == "loguniform")
    return CategoricalDistribution(list(range(len(parameter.options))))
