"""The configuration: one frozen, typed, fully documented object per run. Imports no torch, no ray, no wandb."""

from ganscale.config.errors import ConfigError
from ganscale.config.load import differences, dump, load, parse
from ganscale.config.schema import Config

__all__ = ["Config", "ConfigError", "differences", "dump", "load", "parse"]
