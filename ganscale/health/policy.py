"""What follows from a verdict, and to which state a run rolls back: pure functions, carried out elsewhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ganscale.config.health import DETECTORS, Health
from ganscale.health.detectors import Verdict

Action = Literal["continue", "warn", "stop", "rollback"]

EARLY = 0.25
"""Share of a run up to which no saved state is trusted once there is a verdict: starting over loses little."""


@dataclass(frozen=True)
class Decision:
    """What all replicas do after a tick.

    Attributes:
        action: "continue"; "warn", which continues and logs `text`; "stop"; or "rollback" to `target`.
        target: images of the state to roll back to.
        kind: of the verdict, if there is one.
        text: the verdict and what follows from it, for the log.
    """

    action: Action = "continue"
    target: int = 0
    kind: str = ""
    text: str = ""


def rate_scale(factor: float, rollbacks: int, share: float) -> float:
    """What rates are multiplied by in a run that was rolled back k times: factor^(k + share), or 1 where k = 0.

    That rates were too high is known, by how much is not, and rates a few times too high ruin a run without any
    verdict. So they fall by one more factor until the run's end, and pass all values between on the way.

    Args:
        factor: of one rollback.
        rollbacks: k.
        share: of the run that is done, in [0, 1].
    """
    return factor ** (rollbacks + min(1.0, share)) if rollbacks else 1.0


def healthy_until(images: Sequence[int], since: int) -> int:
    """Images of the last tick before the trouble began; 0 if there is none.

    Args:
        images: of all ticks so far, oldest first.
        since: index of the first tick of the trouble.
    """
    return images[since - 1] if since > 0 else 0


def rollback_limit(healthy: int, now: int, earlier: Sequence[Mapping[str, int]], *, length: int) -> int:
    """Images up to which a state is trusted, given how rollbacks went so far.

    A run that went wrong early may never have been healthy: detectors need a while, and what was saved before the
    first bad tick is corrupted as well. Such a run restarts from the beginning.

    A rollback has helped if the run then got further beyond the point of that trouble than it was rolled back. If not,
    the state that it was rolled back to was bad already, and only earlier ones are trusted.

    Args:
        healthy: images of the last tick before the trouble began.
        now: images reached.
        earlier: rollbacks so far: `at` how many images, `to` how many.
        length: of the run in images.
    """
    if earlier:
        at, to = earlier[-1]["at"], earlier[-1]["to"]
        healthy = healthy if now > at + (at - to) else min(healthy, max(0, to - 1))
    return healthy if healthy >= EARLY * length else 0


def respond(settings: Health, verdict: Verdict, *, target: int, rollbacks: int, length: int) -> Decision:
    """What a verdict leads to.

    Args:
        settings: the run's.
        verdict: what is wrong.
        target: images of the checkpoint to roll back to; 0 for the beginning.
        rollbacks: times that the run was rolled back so far.
        length: of the run in images.
    """
    kind, text = verdict.kind, verdict.reason
    detector = DETECTORS.get(kind)
    if settings.response == "warn" or (settings.response == "rollback" and detector and not detector.is_curable):
        return Decision("warn", kind=kind, text=text)
    if settings.response == "stop":
        remedy = "to continue, set health.response=rollback or warn; or start a new run with other settings"
        return Decision("stop", kind=kind, text=f"{text}; {remedy}")
    most = settings.max_rollbacks
    if rollbacks >= most:
        remedy = "start a new run with other settings, or raise health.max_rollbacks"
        return Decision("stop", kind=kind, text=f"{text}, after {rollbacks} of {most} rollbacks; {remedy}")
    number = rollbacks + 1
    now, then = (rate_scale(settings.rate_factor, number, share) for share in (target / length, 1.0))
    changes = f"rates times {now:.3g}, which falls to {then:.3g}"
    if settings.penalty_factor != 1.0:
        changes += f", penalties times {settings.penalty_factor**number:.3g}"
    where = f"{target:,} images" if target else "the beginning"
    return Decision("rollback", target, kind, f"{text}; rollback {number} of {most} to {where}, {changes}")
