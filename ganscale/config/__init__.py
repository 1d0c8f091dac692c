"""The configuration: one frozen, typed, fully documented object per run. Imports no torch, no ray, no wandb."""

from ganscale.config.errors import ConfigError
from ganscale.config.load import differences, dump, load, parse
from ganscale.config.schema import Config
from ganscale.config.section import Count, Section

__all__ = ["Config", "ConfigError", "Count", "Section", "differences", "dump", "load", "parse"]
