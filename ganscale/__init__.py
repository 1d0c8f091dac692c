"""ganscale: distributed GAN training with Ray, exact for any number of workers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganscale.api import Result as Result
    from ganscale.api import SweepResult as SweepResult
    from ganscale.api import Trainer as Trainer
    from ganscale.api import Tuner as Tuner
    from ganscale.config import Config as Config
    from ganscale.config import ConfigError as ConfigError
    from ganscale.config import load as load_config  # noqa: F401
    from ganscale.config.register import register as register
    from ganscale.inference.load import LoadedGenerator as LoadedGenerator
    from ganscale.inference.load import load_generator as load_generator

__version__ = "0.2.0"

_LAZY = {
    "Config": ("config", "Config"),
    "ConfigError": ("config", "ConfigError"),
    "LoadedGenerator": ("inference.load", "LoadedGenerator"),
    "Result": ("api", "Result"),
    "SweepResult": ("api", "SweepResult"),
    "Trainer": ("api", "Trainer"),
    "Tuner": ("api", "Tuner"),
    "load_config": ("config", "load"),
    "load_generator": ("inference.load", "load_generator"),
    "register": ("config.register", "register"),
}
"""Public name to module and name there, imported at first use: the package itself imports no torch."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _LAZY[name]
    return getattr(import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
