"""The outcome of an evaluation: scores with their floors, and all that they depend on; as plain numbers and as JSON."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """A metric of the samples, beside that of as many real examples.

    Attributes:
        value: of the samples; NaN where samples are not finite.
        floor: of held-out real examples, as many, judged alike: what a perfect generator would score.
        error: standard error of the value (standard deviation over splits for the Inception Score), if it has one.
        scale: value of samples that are all the mean of the reference, if the metric has one.
    """

    value: float
    floor: float
    error: float | None = None
    scale: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The scores of one generator and all that they depend on.

    Attributes:
        images: of the run when the generator was taken.
        data: data set and resolution.
        num_samples: samples that were judged, and held-out examples.
        seed: of samples and draws.
        extractor: what the examples were seen through.
        extractor_sha256: of its weights; empty where there are none.
        scores: by metric.
        seconds: that it took.
    """

    images: int
    data: str
    num_samples: int
    seed: int
    extractor: str
    extractor_sha256: str
    scores: dict[str, Score]
    seconds: float

    def numbers(self) -> dict[str, float]:
        """Plain numbers for a row of the log: each value, its floor, its error and its scale."""
        row: dict[str, float] = {}
        for name, score in self.scores.items():
            row |= {name: score.value, f"{name}_floor": score.floor}
            row |= {f"{name}_error": score.error} if score.error is not None else {}
            row |= {f"{name}_scale": score.scale} if score.scale is not None else {}
        return row

    def protocol(self) -> tuple[str, int, str, str]:
        """What must be equal for two evaluations to be comparable."""
        return self.data, self.num_samples, self.extractor, self.extractor_sha256

    @property
    def through(self) -> str:
        """The extractor, and the first digits of its weights' hash."""
        return f"{self.extractor} ({self.extractor_sha256[:12]})" if self.extractor_sha256 else self.extractor

    def line(self) -> str:
        """All of it in a line for people."""
        parts = [f"{name} {shown(score.value)} (floor {shown(score.floor)})" for name, score in self.scores.items()]
        return f"{self.num_samples:,} samples through {self.through}: {', '.join(parts)}; {self.seconds:.1f} s"

    def as_json(self) -> dict[str, Any]:
        """Plain mappings; what is not finite becomes None."""
        return _finite(asdict(self))


def shown(value: float) -> str:
    """Four significant digits; whole numbers as they are.

    Args:
        value: a score.
    """
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.4g}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(below) for key, below in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def from_json(raw: Mapping[str, Any]) -> Evaluation:
    """Read back what `Evaluation.as_json` gave.

    Args:
        raw: the parsed JSON.

    Raises:
        ValueError: it is something else.
    """
    try:
        scores = {
            name: Score(_number(s["value"]), _number(s["floor"]), s["error"], s.get("scale"))
            for name, s in raw["scores"].items()
        }
        return Evaluation(**{**raw, "scores": scores})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"not an evaluation ({type(error).__name__}: {error})") from None
