"""Settings that have no effect because of others."""

from ganscale.config.errors import ConfigError
from ganscale.config.networks import DISCRIMINATORS, GENERATORS, Unused
from ganscale.config.schema import Config


def unused(config: Config) -> Unused:
    """The settings without effect, whatever their value: of a class loss, LeCam, conditioning or attention not chosen.

    Args:
        config: the run.

    Returns:
        Dotted key to (problem, remedy).
    """
    key = "model.discriminator.conditioning"
    conditioning = getattr(config.model.discriminator, "conditioning", "")
    no_loss, no_reacgan = conditioning in ("none", "projection", "bilinear"), conditioning != "reacgan"
    where, no_lecam = f"has no effect with {key} = {conditioning}", config.penalty.lecam == 0.0
    found: Unused = {}
    for name, is_unused, problem, remedy in (
        ("loss.class_weight", no_loss, where, f"{key}=acgan"),
        ("loss.class_temperature", no_reacgan, where, f"{key}=reacgan"),
        ("loss.class_margins", no_reacgan, where, f"{key}=reacgan"),
        ("penalty.lecam_decay", no_lecam, "has no effect with penalty.lecam = 0", "penalty.lecam=0.3"),
    ):
        if is_unused:
            found[name] = problem, f"leave it out, or set {remedy}"
    for side, table in (("generator", GENERATORS), ("discriminator", DISCRIMINATORS)):
        settings = getattr(config.model, side)
        if (of_network := table[settings.name].unused) is not None:
            found |= of_network(settings, f"model.{side}")
    return found


def check_used(config: Config) -> None:
    """Refuse settings without effect. Not part of `check`: runs and checkpoints of earlier versions may have them.

    Args:
        config: of a command.

    Raises:
        ConfigError: one of them is not its default.
    """
    for key, (problem, remedy) in unused(config).items():
        *parents, name = key.split(".")
        settings = config
        for parent in parents:
            settings = getattr(settings, parent)
        if getattr(settings, name) != type(settings).model_fields[name].default:
            raise ConfigError(problem, key=key, value=settings.model_dump()[name], remedy=remedy)
