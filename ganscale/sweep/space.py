"""The settings that a sweep searches, checked against the run's schema, and the runs that follow from drawn values."""

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
"""Name of each setting of the space that applies, to its value; of a bundle, to its label."""

_SHARED = ("run.", "eval.", "log.", "checkpoint.", "wandb.", "cluster.", "train.images", "train.device")
"""Settings that all trials of a sweep have alike: what is compared, and how."""
_ARCHITECTURES = ("model.generator.name", "model.discriminator.name")


@dataclass(frozen=True)
class Parameter:
    """One setting of a space.

    Attributes:
        name: as in the sweep's file.
        kind: choice, grid, uniform, loguniform or randint.
        options: the values of a choice or grid; of bundles, their labels.
        bounds: of the other kinds.
        bundles: label to the settings it stands for; empty if the values are a setting's own.
        when: other names to the values with which this one is drawn.
    """

    name: str
    kind: str
    options: tuple[Any, ...] = ()
    bounds: tuple[float, float] = (0.0, 0.0)
    bundles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def targets(self) -> tuple[str, ...]:
        """The run's settings that get the value."""
        return tuple(part.strip() for part in self.name.split(","))

    @property
    def is_number(self) -> bool:
        """Whether values have an order and a distance."""
        return self.kind in ("uniform", "loguniform", "randint")

    def applies(self, drawn: Drawn) -> bool:
        """Whether it is drawn beside these values."""
        return all(name in drawn and drawn[name] in allowed for name, allowed in self.when.items())

    def at(self, share: float) -> Any:
        """The value at a share in [0, 1) of the distribution."""
        if not self.is_number:
            return self.options[int(share * len(self.options))]
        low, high = self.bounds
        if self.kind == "randint":
            return int(low) + int(share * (int(high) - int(low) + 1))
        if self.kind == "uniform":
            return low + (high - low) * share
        return low * (high / low) ** share

    def share(self, value: Any) -> float:
        """Where a value lies between the ends, in [0, 1]; of options, evenly spread."""
        if not self.is_number:
            return self.options.index(value) / max(1, len(self.options) - 1)
        low, high = self.bounds
        if self.kind == "loguniform":
            return math.log(value / low) / math.log(high / low)
        return (value - low) / (high - low)

    def probes(self) -> tuple[Any, ...]:
        """All options, or both ends."""
        if not self.is_number:
            return self.options
        return tuple(int(b) if self.kind == "randint" else float(b) for b in self.bounds)

    def settings(self, value: Any) -> dict[str, Any]:
        """The run's settings that a drawn value stands for."""
        return dict(self.bundles[value]) if self.bundles else dict.fromkeys(self.targets, value)


class Space:
    """All settings of a sweep, in an order in which each comes after those that it depends on.

    Args:
        sweep: the sweep.
        base: its base run as plain mappings.

    Raises:
        ConfigError: the base run is no valid run; a key is unknown; a value cannot be; conditions are circular.
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

        Raises:
            ConfigError: a key does not fit its section.
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
        """The checked run with drawn values.

        Raises:
            ConfigError: the values contradict each other.
        """
        return parse(self.raw(drawn))

    def _put(self, run: dict[str, Any], key: str, value: Any, shown_key: str) -> None:
        """Enter one value; another architecture leaves the settings of the old one behind."""
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
                raise ConfigError(
                    f"{part} is a value, not a section", key=shown_key, value=value, remedy="mend the key"
                )
            node = below
        if isinstance(node, list):
            if not last.isdigit() or int(last) >= len(node):
                raise ConfigError("no such place in the list", key=shown_key, value=value, remedy=f"of {shown(node)}")
            node[int(last)] = value
            return
        if key in _ARCHITECTURES and node.get("name", self._default(key)) != value:
            node.clear()
        node[last] = value

    def _default(self, key: str) -> Any:
        node: Any = self._defaults
        for part in key.split("."):
            node = node.get(part) if isinstance(node, Mapping) else None
        return node

    def _check_targets(self) -> None:
        """Two settings of the space must not set the same key, unless never together."""
        owners: dict[str, Parameter] = {}
        for parameter in self.parameters:
            for target in {target for value in parameter.probes() for target in parameter.settings(value)}:
                if target.startswith(_SHARED):
                    raise ConfigError(
                        "is the same for all trials of a sweep",
                        key=f"space.{parameter.name}",
                        value=target,
                        remedy="write it below set:, or leave it to the base run",
                    )
                other = owners.setdefault(target, parameter)
                if other is not parameter and not _exclude(other, parameter):
                    raise ConfigError(
                        f"{other.name} sets {target} too",
                        key=f"space.{parameter.name}",
                        value=None,
                        remedy="let one of them set it, or give both a `when` that excludes the other",
                    )
            if not parameter.bundles and any("." not in target for target in parameter.targets):
                raise ConfigError(
                    "is no section.key of a run",
                    key=f"space.{parameter.name}",
                    value=None,
                    remedy="write section.key, or a mapping of bundles, each with its own section.key: value lines",
                )

    def _check_values(self) -> None:
        """Try every option and both ends, alone and beside every option of each other choice."""
        for parameter in self.parameters:
            inside = (parameter.at(0.37),) if parameter.is_number else ()
            for value in (*parameter.probes(), *inside):
                for drawn in self._contexts(parameter, value):
                    try:
                        validate(self.raw(drawn))
                    except ConfigError as error:
                        raise _unfit(parameter, value, drawn, error) from None

    def _contexts(self, parameter: Parameter, value: Any) -> Iterator[dict[str, Any]]:
        """Values under which one can be drawn: its conditions alone, then with each option of the other choices."""
        alone = self._complete({parameter.name: value})
        yield alone
        for other in self.parameters:
            if not other.is_number and other.name not in alone:
                for option in other.options:
                    drawn = self._complete({**alone, other.name: option})
                    if parameter.applies(drawn):
                        yield drawn

    def _complete(self, drawn: dict[str, Any]) -> dict[str, Any]:
        """Add what the conditions of the drawn ones ask for."""
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
        bundles = given if isinstance(given, dict) else {}
        return Parameter(name, kind, tuple(given), bundles=bundles, when=when)
    return Parameter(name, kind, bounds=given, when=when)


def _ordered(parameters: Sequence[Parameter]) -> tuple[Parameter, ...]:
    """Each after those that its condition names.

    Raises:
        ConfigError: a condition names nothing of the space, a value that is never drawn, or leads back to itself.
    """
    known = {parameter.name: parameter for parameter in parameters}
    for parameter in parameters:
        for name, allowed in parameter.when.items():
            key = f"space.{parameter.name}.when"
            if name not in known:
                raise ConfigError("names nothing of the space", key=key, value=name, remedy=did_you_mean(name, known))
            impossible = [value for value in allowed if not known[name].is_number and value not in known[name].options]
            if impossible or known[name].is_number:
                options = ", ".join(map(shown, known[name].options))
                remedy = f"use {options}" if options else "name a choice or grid"
                raise ConfigError(
                    f"{name} is never exactly that", key=key, value=(impossible or allowed)[0], remedy=remedy
                )
    done: dict[str, Parameter] = {}
    while len(done) < len(known):
        ready = [p for p in parameters if p.name not in done and all(name in done for name in p.when)]
        if not ready:
            circle = next(p for p in parameters if p.name not in done)
            remedy = "let one of them be drawn always"
            key = f"space.{circle.name}.when"
            raise ConfigError("the conditions lead back to themselves", key=key, value=list(circle.when), remedy=remedy)
        done |= {parameter.name: parameter for parameter in ready}
    return tuple(done.values())


def _exclude(one: Parameter, other: Parameter) -> bool:
    """Whether two can never be drawn together."""
    common = set(one.when) & set(other.when)
    return any(not set(map(repr, one.when[name])) & set(map(repr, other.when[name])) for name in common)


def _unfit(parameter: Parameter, value: Any, drawn: Drawn, error: ConfigError) -> ConfigError:
    reason = " ".join(str(error).split())
    beside = ", ".join(f"{name} = {shown(v)}" for name, v in drawn.items() if name != parameter.name)
    return ConfigError(
        f"makes no run{f' beside {beside}' if beside else ''}: {reason}",
        key=f"space.{parameter.name}",
        value=value,
        remedy="change the value, or give the setting a `when` that leaves such combinations out",
    )
