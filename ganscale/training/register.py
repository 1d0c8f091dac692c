"""A user's own architectures and losses, added by a script of theirs before it starts a command (docs/extending.md).

Nothing here is done at import: `extend` fills the plain dicts in which the package keeps its own.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from ganscale import losses as builtin_losses
from ganscale import models
from ganscale.config import Section, registry
from ganscale.losses import AdversarialLoss
from ganscale.models import Geometry

Architecture = tuple[type[Section], Callable[[Any, Geometry], nn.Module]]
"""Class of the settings, and what builds the network from them and a `Geometry` (often the network's class)."""


class Extension(NamedTuple):
    """What was added, by name; workers in other processes are given it too."""

    generators: dict[str, Architecture]
    discriminators: dict[str, Architecture]
    losses: dict[str, AdversarialLoss]


ADDED = Extension({}, {}, {})


def extend(
    *,
    generators: Mapping[str, Architecture] | None = None,
    discriminators: Mapping[str, Architecture] | None = None,
    losses: Mapping[str, AdversarialLoss] | None = None,
) -> None:
    """Let configs name the user's own networks and losses.

    A name of one's own may be given again, which replaces it.

    Args:
        generators: name to settings and builder; a network maps z `[N, latent_dim]` and labels to examples.
        discriminators: the same; a network maps examples `[N, ...]` and labels to logits `[N]`.
        losses: name to objective.

    Raises:
        ValueError: a name is taken by the package or is no name, settings are no `Section`, or a loss is none.
    """
    for mine, added, settings_by_name, builders in (
        (generators, ADDED.generators, registry.GENERATORS, models.GENERATORS),
        (discriminators, ADDED.discriminators, registry.DISCRIMINATORS, models.DISCRIMINATORS),
    ):
        for name, (settings, build) in (mine or {}).items():
            _check_name(name, taken=set(settings_by_name) - set(added))
            if not (isinstance(settings, type) and issubclass(settings, Section)):
                raise ValueError(f"{name}: the settings must be a subclass of ganscale.config.Section, not {settings}")
            added[name] = (settings, build)
            settings_by_name[name] = registry.named(settings, name)
            builders[name] = build
    for name, loss in (losses or {}).items():
        _check_name(name, taken=set(registry.LOSSES) - set(ADDED.losses))
        if not isinstance(loss, AdversarialLoss):
            raise ValueError(f"{name}: a loss must be a ganscale.losses.AdversarialLoss, not {loss!r}")
        ADDED.losses[name] = builtin_losses.LOSSES[name] = loss
        registry.LOSSES[name] = registry.LossFacts(loss.has_labels, loss.boundary is not None)


def _check_name(name: str, *, taken: set[str]) -> None:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise ValueError(f"{name!r} is no name: use letters, digits and '_', starting with a letter")
    if name in taken:
        raise ValueError(f"{name!r} is the package's own: choose another name")
