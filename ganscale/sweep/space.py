"""The search space: validated against the run's schema, and turned into runs."""

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ganscale.config.errors import ConfigError, did_you_mean, shown
from ganscale.config.load import parse, validate
from ganscale.config.schema import Config
from ganscale.sweep.config import KINDS, Draw, Sweep

Drawn = Mapping[str, Any]
"""Name of each applicable setting of the space to its value; for a bundle, to its label."""

_SHARED = ("run.", "eval.", "log.", "checkpoint.", "wandb.", "cluster.", "train.images", "train.device")
"""Settings that all trials share: the protocol of the comparison."""
_ARCHITECTURES = ("model.generator.name", "model.discriminator.name")


@dataclass(frozen=True)
class Parameter:
    """One setting of a space."""

    name: str  # key in the sweep's file
    kind: str  # choice, grid, uniform, loguniform or randint
    options: tuple[Any, ...] = ()  # values of a choice or grid; labels of bundles
    bounds: tuple[float, float] = (0.0, 0.0)  # lower and upper bound of the other kinds
    # label to the settings it stands for; empty where the options are values of the setting itself
    bundles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # names of other parameters to the values under which this one applies
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """Keys of the run that get the value."""
        return tuple(part.strip() for part in self.name.split(","))

    @property
    def is_number(self) -> bool:
        """Whether values have an order and a distance."""
        return self.kind in ("uniform", "loguniform", "randint")

    def applies(self, drawn: Drawn) -> bool:
        """Whether its condition holds.

        Args:
            drawn: Drawn values by parameter.
        """
        return all(name in drawn and drawn[name] in allowed for name, allowed in self.when.items())

    def at(self, quantile: float) -> Any:
        """Invert the cumulative distribution.

        Args:
            quantile: In [0, 1).
        """
        if not self.is_number:
            return self.options[int(quantile * len(self.options))]
        low, high = self.bounds
        if self.kind == "randint":
            return int(low) + int(quantile * (int(high) - int(low) + 1))
        return low + (high - low) * quantile if self.kind == "uniform" else low * (high / low) ** quantile

    def share(self, value: Any) -> float:
        """Position of a value between the bounds, in [0, 1]; options are evenly spaced.

        Args:
            value: A value of the parameter.
        """
        if not self.is_number:
            return self.options.index(value) / max(1, len(self.options) - 1)
        low, high = self.bounds
        return (
            math.log(value / low) / math.log(high / low) if self.kind == "loguniform" else (value - low) / (high - low)
        )

    def probes(self) -> tuple[Any, ...]:
        """All options, or both bounds."""
        if not self.is_number:
            return self.options
        return tuple(int(b) if self.kind == "randint" else float(b) for b in self.bounds)

    def settings(self, value: Any) -> dict[str, Any]:
        """Keys of the run to the values that a drawn value stands for.

        Args:
            value: A value of the parameter, or a bundle's label.
        """
        return dict(self.bundles[value]) if self.bundles else dict.fromkeys(self.targets, value)


class Space:
    """All parameters of a sweep; each comes after those that its condition names.

    Args:
        sweep: The sweep.
        base: Its base run as plain mappings.

    Raises:
        ConfigError: The base run is invalid, a key is unknown, a value is impossible, or conditions are circular.
    """

    def __init__(self, sweep: Sweep, base: Mapping[str, Any]) -> None:
        self._base = copy.deepcopy(dict(base))
        self._defaults = parse(self._base).model_dump(mode="json")
        for key, value in _architectures_first(sweep.set):
            self._put(self._base, key, value, f"set.{key}")
        parse(self._base)
        self.parameters = _ordered([_parameter(name, draw) for name, draw in sweep.space.items()])
        self._check_targets()
        self._check_values()

    def raw(self, drawn: Drawn) -> dict[str, Any]:
        """The base run with drawn values, as plain mappings.

        Args:
            drawn: Values by parameter; those of other names are ignored.

        Raises:
            ConfigError: A key does not fit its section.
        """
        run = copy.deepcopy(self._base)
        settings: dict[str, Any] = {}
        for parameter in self.parameters:
            if parameter.name in drawn:
                settings |= parameter.settings(drawn[parameter.name])
        for key, value in _architectures_first(settings):
            self._put(run, key, value, key)
        return run

    def config(self, drawn: Drawn) -> Config:
        """The validated run with drawn values.

        Args:
            drawn: Values of the applicable parameters.

        Raises:
            ConfigError: The values contradict each other.
        """
        return parse(self.raw(drawn))

    def _put(self, run: dict[str, Any], key: str, value: Any, shown_key: str) -> None:
        """Set one value in place; a change of architecture clears the settings of the previous one."""
        *parents, last = key.split(".")
        node: Any = run
        defaults: Any = self._defaults
        for part in parents:
            defaults = defaults.get(part) if isinstance(defaults, Mapping) else None
            below = node.get(part)
            if below is None or (last.isdigit() and part == parents[-1] and not isinstance(below, list)):
                below = list(defaults) if last.isdigit() and isinstance(defaults, list) else {}
            node[part] = below
            if not isinstance(below, dict | list) or (isinstance(below, list) and part != parents[-1]):
                remedy = "name a key of a section"
                raise ConfigError(f"{part} is a value, not a section", key=shown_key, value=value, remedy=remedy)
            node = below
        if isinstance(node, list):
            if not last.isdigit() or int(last) >= len(node):
                raise ConfigError("no such place in the list", key=shown_key, value=value, remedy=f"of {shown(node)}")
            node[int(last)] = value
            return
        default = defaults.get(last) if isinstance(defaults, Mapping) else None
        if key in _ARCHITECTURES and node.get(last, default) != value:
            node.clear()
        node[last] = value

    def _check_targets(self) -> None:
        """Refuse two parameters that set one key, unless their conditions exclude each other."""
        owners: dict[str, Parameter] = {}
        for parameter in self.parameters:
            key = f"space.{parameter.name}"
            for target in {target for value in parameter.probes() for target in parameter.settings(value)}:
                if target.startswith(_SHARED):
                    remedy = "write it below set:, or leave it to the base run"
                    raise ConfigError("is the same for all trials of a sweep", key=key, value=target, remedy=remedy)
                other = owners.setdefault(target, parameter)
                if other is not parameter and not _exclude(other, parameter):
                    remedy = "let one of them set it, or give both a `when` that excludes the other"
                    raise ConfigError(f"{other.name} sets {target} too", key=key, value=None, remedy=remedy)
            if not parameter.bundles and any("." not in target for target in parameter.targets):
                remedy = "write section.key, or a mapping of bundles, each with its own section.key: value lines"
                raise ConfigError("is no section.key of a run", key=key, value=None, remedy=remedy)

    def _check_values(self) -> None:
        """Validate every option and both bounds, alone and with every option of each other choice."""
        for parameter in self.parameters:
            inside = (parameter.at(0.37),) if parameter.is_number else ()
            for value in (*parameter.probes(), *inside):
                for drawn in self._contexts(parameter, value):
                    try:
                        validate(self.raw(drawn))
                    except ConfigError as error:
                        raise _invalid(parameter, value, drawn, error) from None

    def _contexts(self, parameter: Parameter, value: Any) -> Iterator[dict[str, Any]]:
        """Draws with one value: with its conditions only, then with each option of the other choices."""
        alone = self._complete({parameter.name: value})
        yield alone
        for other in self.parameters:
            if not other.is_number and other.name not in alone:
                for option in other.options:
                    drawn = self._complete({**alone, other.name: option})
                    if parameter.applies(drawn) and other.applies(drawn):
                        yield drawn

    def _complete(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Add values that satisfy the conditions of the drawn parameters."""
        done = dict(drawn)
        for parameter in reversed(self.parameters):
            if parameter.name in done:
                for name, allowed in parameter.when.items():
                    done.setdefault(name, allowed[0])
        return {parameter.name: done[parameter.name] for parameter in self.parameters if parameter.name in done}


def _architectures_first(settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(settings.items(), key=lambda item: item[0] not in _ARCHITECTURES)


def _parameter(name: str, draw: Draw) -> Parameter:
    kind = next(kind for kind in KINDS if getattr(draw, kind) is not None)
    given = getattr(draw, kind)
    when = {key: tuple(v) if isinstance(v, list) else (v,) for key, v in draw.when.items()}
    if kind in ("choice", "grid"):
        return Parameter(name, kind, tuple(given), bundles=given if isinstance(given, dict) else {}, when=when)
    return Parameter(name, kind, bounds=given, when=when)


def _ordered(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Sort topologically by conditions.

    Raises:
        ConfigError: A condition names no parameter or a value that is never drawn, or conditions are circular.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for parameter in parameters:
        key = f"space.{parameter.name}.when"
        for name, allowed in parameter.when.items():
            if name not in known:
                raise ConfigError("names nothing of the space", key=key, value=name, remedy=did_you_mean(name, known))
            options = known[name].options
            impossible = [value for value in allowed if value not in options]
            if impossible or not allowed:
                remedy = f"use {', '.join(map(shown, options))}" if options else "name a choice or grid"
                raise ConfigError(
                    f"{name} is never exactly that", key=key, value=(impossible or [[]])[0], remedy=remedy
                )
    done: dict[str, Parameter] = {}
    while len(done) < len(known):
        ready = [p for p in parameters if p.name not in done and all(name in done for name in p.when)]
        if not ready:
            first = next(p for p in parameters if p.name not in done)
            key, remedy = f"space.{first.name}.when", "remove the condition of one of them"
            raise ConfigError("the conditions are circular", key=key, value=list(first.when), remedy=remedy)
        done |= {parameter.name: parameter for parameter in ready}
    return tuple(done.values())


def _exclude(one: Parameter, other: Parameter) -> bool:
    """Whether two parameters never apply together."""
    common = set(one.when) & set(other.when)
    return any(not set(map(repr, one.when[name])) & set(map(repr, other.when[name])) for name in common)


def _invalid(parameter: Parameter, value: Any, drawn: Drawn, error: ConfigError) -> ConfigError:
    reason = " ".join(str(error).split())
    context = ", ".join(f"{name} = {shown(v)}" for name, v in drawn.items() if name != parameter.name)
    return ConfigError(
        f"gives an invalid run{f' with {context}' if context else ''}: {reason}",
        key=f"space.{parameter.name}",
        value=value,
        remedy="change the value, or give the setting a `when` that excludes such combinations",
    )
