"""The table of optimizers."""

from dataclasses import dataclass

from ganscale.config.table import Function


@dataclass(frozen=True)
class OptimizerEntry:
    """Everything about an optimizer.

    Attributes:
        description: for the reference page.
        build: a class of torch.optim.
        arguments: for its constructor, beside parameters, rate and `eps`.
        settings: of the section `optim`, without `_g` or `_d`, that it has and not all others do.
        has_graphs: whether CUDA graphs can hold its step.
    """

    description: str
    build: Function
    arguments: tuple[tuple[str, bool], ...]
    settings: tuple[str, ...]
    has_graphs: bool = True


OPTIMIZERS: dict[str, OptimizerEntry] = {
    "adam": OptimizerEntry("Kingma and Ba 2015", "torch.optim:Adam", (("fused", True),), ("betas",)),
    "adamw": OptimizerEntry(  # weights shrink before Adam's step
        "Adam with weight decay (Loshchilov and Hutter 2019)",
        "torch.optim:Adam",
        (("fused", True),),
        ("betas", "weight_decay"),
    ),
    "rmsprop": OptimizerEntry(
        "Tieleman and Hinton 2012", "torch.optim:RMSprop", (("foreach", True),), ("alpha",), has_graphs=False
    ),
}
"""Every optimizer by name."""
