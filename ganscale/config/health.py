"""The table of detectors, which find what is wrong with a run, and the settings of what is done then."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ganscale.config.section import Count, Section, listed
from ganscale.config.table import Choice, Function


@dataclass(frozen=True)
class Detector:
    """Everything about a detector.

    Attributes:
        rule: `(evidence) -> Verdict | None`, a pure function of `ganscale.health.detectors.Evidence`; None where the
            session itself compares the workers.
        description: what it finds, for the reference page.
        is_transient: whether a run may recover by itself, so that a trial of a sweep continues.
        is_critical: whether one bad row makes a state suspect; healthy runs never give even one.
        is_curable: whether an earlier state and lower rates can help; if not, `rollback` only warns.
    """

    rule: Function | None
    description: str = ""
    is_transient: bool = False
    is_critical: bool = False
    is_curable: bool = True


_RULES = "ganscale.health.detectors"

DETECTORS: dict[str, Detector] = {
    "non-finite": Detector(f"{_RULES}:non_finite", "a number is NaN or infinite", is_critical=True),
    "divergence": Detector(f"{_RULES}:divergence", "logits, losses or norms grow without bound", is_critical=True),
    "vanishing-gradient": Detector(f"{_RULES}:vanishing_gradient", "G gets no gradient", is_critical=True),
    "discriminator-strong": Detector(f"{_RULES}:discriminator_strong", "D has won"),
    "mode-collapse": Detector(f"{_RULES}:mode_collapse", "G makes few different samples", is_critical=True),
    "degradation": Detector(f"{_RULES}:degradation", "samples are worse than they were"),
    "stagnation": Detector(f"{_RULES}:stagnation", "samples are bad and do not become better"),
    "data": Detector(
        f"{_RULES}:unlike_data",
        "batches are not like the data set, or hold copies",
        is_transient=True,
        is_curable=False,
    ),
    "overfitting": Detector(
        f"{_RULES}:overfitting", "D knows the training examples by heart", is_transient=True, is_curable=False
    ),
    "labels": Detector(f"{_RULES}:labels", "D does not learn the classes", is_transient=True, is_curable=False),
    "discriminator-weak": Detector(f"{_RULES}:discriminator_weak", "D cannot tell real from fake", is_transient=True),
    "oscillation": Detector(f"{_RULES}:oscillation", "G and D win in turn", is_transient=True),
    "replica-drift": Detector(None, "workers' states differ"),
    "straggler": Detector(None, "the others wait for one worker", is_transient=True, is_curable=False),
}
"""Every detector by the kind of its verdicts, the most severe first; the last two are about machines."""


class Health(Section):
    """A run is judged at every row of metrics, on all workers alike; docs/health.md explains the verdicts."""

    response: Literal["warn", "stop", "rollback"] = Field(
        default="warn",
        description="What a verdict leads to. warn: a line and an event; stop: the run ends with exit code 3 and a "
        "diagnosis; rollback: it goes back to the last checkpoint from before the trouble, with changed rates.",
    )
    patience: Count = Field(
        default=3, ge=2, le=1000, description="Rows of metrics in a row that must be bad; one with a NaN is enough."
    )
    ignore: Annotated[tuple[Annotated[str, Choice(DETECTORS)], ...], BeforeValidator(listed)] = Field(
        default=(), description="Verdicts that are not given."
    )
    compare_every: Count = Field(
        default=12_800,
        ge=0,
        description="Images between two comparisons of the workers' states, which must be equal to the bit "
        "(replica-drift); at rows of metrics and checkpoints. 0: never.",
    )
    straggler_factor: float = Field(
        default=1.5,
        gt=1.0,
        le=100.0,
        description="A worker that takes so many times the median worker's time for its computation and data, in "
        "`patience` rows in a row, is warned of (straggler), whatever the response. On CPUs only.",
    )
    max_rollbacks: Count = Field(
        default=3, ge=1, le=100, description="Rollbacks after which the next verdict stops the run."
    )
    rate_factor: float = Field(
        default=0.1,
        gt=0.0,
        le=1.0,
        description="Both learning rates are multiplied by this at each rollback; in a run that was rolled back they "
        "also fall by it once more, exponentially, from the run's first image to its last.",
    )
    penalty_factor: float = Field(
        default=1.0, ge=1.0, le=100.0, description="All penalties' weights are multiplied by this at each rollback."
    )
