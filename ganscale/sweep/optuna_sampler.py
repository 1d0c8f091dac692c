"""A search that learns from ended trials: Optuna's TPE (Bergstra et al. 2011; Watanabe 2023) by ask and tell."""

from collections.abc import Sequence
from typing import Any

from ganscale.config import ConfigError
from ganscale.sweep.sampler import ATTEMPTS, uniform
from ganscale.sweep.space import Drawn, Parameter, Space


class OptunaSampler:
    """Proposes configurations by what is known; needs the package's extra `optuna`.

    Each proposal is a function of the seed, the number and what was told before it.

    Args:
        space: to search.
        seed: of the search.
        num_objectives: values that are told of each configuration; above 1 the search is for their Pareto front.
    """

    def __init__(self, space: Space, *, seed: int, num_objectives: int) -> None:
        import optuna
        from optuna.study import StudyDirection

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._seed = space, seed
        self._study = optuna.create_study(directions=[StudyDirection.MAXIMIZE] * num_objectives)
        self._live: dict[int, Any] = {}

    def ask(self, number: int) -> dict[str, Any]:
        """The drawn values of configuration `number`; they make a valid run.

        Raises:
            ConfigError: `ATTEMPTS` proposals contradicted themselves.
        """
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState

        problem = ""
        for attempt in range(ATTEMPTS):
            luck = uniform(self._seed, f"learner/{attempt}", number)
            self._study.sampler = TPESampler(seed=int(luck * 2**32), constant_liar=True)
            trial = self._study.ask()
            drawn: dict[str, Any] = {}
            for parameter in self._space.parameters:
                if parameter.applies(drawn):
                    drawn[parameter.name] = _suggested(trial, parameter)
            try:
                self._space.config(drawn)
            except ConfigError as error:
                problem = " ".join(str(error).split())
                self._study.tell(trial, state=TrialState.FAIL)
                continue
            self._live[number] = trial
            return drawn
        raise ConfigError(
            f"{ATTEMPTS} proposals were no valid runs; the last: {problem}",
            key="space",
            value=None,
            remedy="narrow the space, or give settings a `when` that leaves contradictions out",
        )

    def tell(self, number: int, drawn: Drawn, values: Sequence[float]) -> None:
        """Learn from a configuration, be it asked for here or by an earlier command; higher values are better."""
        trial = self._live.pop(number, None)
        if trial is not None:
            self._study.tell(trial, list(values))
            return
        from optuna.trial import create_trial

        own = [parameter for parameter in self._space.parameters if parameter.name in drawn]
        self._study.add_trial(
            create_trial(
                params={p.name: _stored(p, drawn[p.name]) for p in own},
                distributions={p.name: _distribution(p) for p in own},
                values=list(values),
            )
        )


def _distribution(parameter: Parameter) -> Any:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    low, high = parameter.bounds
    if parameter.kind == "randint":
        return IntDistribution(int(low), int(high))
    if parameter.is_number:
        return FloatDistribution(low, high, log=parameter.kind == "loguniform")
    return CategoricalDistribution(list(range(len(parameter.options))))


def _stored(parameter: Parameter, value: Any) -> Any:
    """A value as Optuna knows it: of an option its place, as lists are none of Optuna's categories."""
    return value if parameter.is_number else parameter.options.index(value)


def _suggested(trial: Any, parameter: Parameter) -> Any:
    low, high = parameter.bounds
    if parameter.kind == "randint":
        return trial.suggest_int(parameter.name, int(low), int(high))
    if parameter.is_number:
        return trial.suggest_float(parameter.name, low, high, log=parameter.kind == "loguniform")
    return parameter.options[trial.suggest_categorical(parameter.name, list(range(len(parameter.options))))]
