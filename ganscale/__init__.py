"""ganscale: distributed GAN training with Ray, exact for any number of workers."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ganscale.config.register import register as register
    from ganscale.inference.load import LoadedGenerator as LoadedGenerator
    from ganscale.inference.load import load_generator as load_generator

__version__ = "0.1.0"

_LAZY = {"LoadedGenerator": "inference.load", "load_generator": "inference.load", "register": "config.register"}
"""Name to module; what needs torch is imported when it is first asked for."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
