"""Settings of the watch over training: which verdicts count, and what is done about them."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ganscale.config.section import Count, Section, listed

Kind = Literal[
    "non-finite",
    "divergence",
    "vanishing-gradient",
    "discriminator-strong",
    "mode-collapse",
    "discriminator-weak",
    "oscillation",
    "replica-drift",
]
"""What can be wrong with a run, the gravest first; the last one is about its machines."""


class Health(Section):
    """A run is judged at every row of metrics, on all workers alike; docs/health.md says what the verdicts mean."""

    response: Literal["warn", "stop", "rollback"] = Field(
        default="warn",
        description="What a verdict leads to. warn: a line and an event; stop: the run ends with exit code 3 and a "
        "diagnosis; rollback: it goes back to the last checkpoint from before the trouble, with changed rates.",
    )
    patience: Count = Field(
        default=3, ge=2, le=1000, description="Rows of metrics in a row that must be bad; one with a NaN is enough."
    )
    ignore: Annotated[tuple[Kind, ...], BeforeValidator(listed)] = Field(
        default=(), description="Verdicts that are not given."
    )
    compare_every: Count = Field(
        default=12_800,
        ge=0,
        description="Images between two comparisons of the workers' states, which must be equal to the bit "
        "(replica-drift); at rows of metrics and checkpoints. 0: never.",
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
