"""How population-based training changes a good configuration (Jaderberg et al. 2017)."""

from typing import Any

from ganscale.config import ConfigError
from ganscale.sweep.config import SweepSettings
from ganscale.sweep.sampler import ATTEMPTS, uniform
from ganscale.sweep.space import Drawn, Parameter, Space

FACTORS = (0.8, 1.25)
"""By which a number is multiplied."""
PERTURBABLE = ("optim.", "penalty.", "loss.", "augment.", "ema.")
"""Sections whose settings may change while a run goes on; the networks and the data may not."""


def perturbed(space: Space, drawn: Drawn, settings: SweepSettings, number: int) -> dict[str, Any]:
    """Changed values: each is drawn anew with probability `resample`, a number else multiplied, an option moved by one.

    Args:
        space: bounds and options, which are kept to.
        drawn: the values to change.
        settings: section `sweep`.
        number: of the change in the sweep; with the sweep's seed it decides all.

    Returns:
        Values that make a valid run; the old ones if `ATTEMPTS` changes did not.
    """
    for attempt in range(ATTEMPTS):
        changed: dict[str, Any] = {}
        for parameter in space.parameters:
            if parameter.applies(changed):
                luck = [
                    uniform(settings.seed, f"perturb/{parameter.name}/{attempt}/{what}", number)
                    for what in ("resample", "value")
                ]
                old = drawn.get(parameter.name)
                changed[parameter.name] = (
                    parameter.at(luck[1])
                    if old is None or luck[0] < settings.resample
                    else _moved(parameter, old, luck[1])
                )
        try:
            space.config(changed)
        except ConfigError:
            continue
        return changed
    return dict(drawn)


def _moved(parameter: Parameter, value: Any, luck: float) -> Any:
    up = luck >= 0.5
    if parameter.is_number:
        low, high = parameter.bounds
        moved = min(high, max(low, value * FACTORS[up]))
        return round(moved) if parameter.kind == "randint" else moved
    place = parameter.options.index(value) + (1 if up else -1)
    return parameter.options[min(len(parameter.options) - 1, max(0, place))]


def check_perturbable(space: Space) -> None:
    """Refuse to change on the way what a run cannot change.

    Raises:
        ConfigError: for the first such setting.
    """
    for parameter in space.parameters:
        for value in parameter.probes():
            for target in parameter.settings(value):
                if not target.startswith(PERTURBABLE) or target in ("loss.name",):
                    raise ConfigError(
                        "population-based training cannot change it on the way",
                        key=f"space.{parameter.name}",
                        value=target,
                        remedy=f"search settings of {', '.join(p[:-1] for p in PERTURBABLE)}, or use another scheduler",
                    )
