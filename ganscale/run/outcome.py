"""How a run ended, as the worker tells it to the process that started it, which need not have torch loaded."""

from dataclasses import dataclass

from ganscale.run.stop_signal import StopReason


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        images: images reached.
        resumed_at: images at which this attempt started.
        diagnosis: why a health verdict stopped it; empty if none did. Only rank 0 has the full text.
        stop_reason: why it stopped before its end, to be resumed later.
    """

    images: int
    resumed_at: int
    diagnosis: str = ""
    stop_reason: StopReason = StopReason.NONE
