"""What happens at a run's ticks beside training; the interface for users' own callbacks."""

from collections.abc import Callable
from typing import Any

from ganscale.training.loop import Tick


class Callback:
    """Override what is needed. A user's callback is called on every rank alike; `session.replica` says which."""

    def on_start(self, session: Any) -> None:
        """Called before the first iteration.

        Args:
            session: with `experiment`, `config`, `images`.
        """

    def on_tick(self, tick: Tick, session: Any) -> None:
        """Called at each tick, after evaluation and health check.

        Args:
            tick: where the run is; `tick.is_due("log")` and the like tell the reason.
            session: with `metrics`, `evaluation` and `decision` of this tick.
        """

    def on_quiet_tick(self, tick: Tick, session: Any) -> None:
        """Called at ticks that only save averages (`ema.profiles`): nothing is measured, evaluated or decided there.

        Args:
            tick: where the run is, without metrics.
            session: with what the tick before it left.
        """

    def on_end(self, session: Any, *, completed: bool) -> None:
        """Called when training ends, also by an exception.

        Args:
            session: as it ended.
            completed: whether the run reached its last image, or continues in another group (`cluster.recovery: live`).
        """


class TickFunction(Callback):
    """A plain function of the tick as a callback of rank 0.

    Args:
        function: called with each tick.
    """

    def __init__(self, function: Callable[[Tick], None]) -> None:
        self._function = function

    def on_tick(self, tick: Tick, session: Any) -> None:
        """Call the function on rank 0."""
        if session.replica.is_rank_zero:
            self._function(tick)
