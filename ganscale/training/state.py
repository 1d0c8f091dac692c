"""Everything that is saved, listed once. There are no generator states: random numbers are functions of positions."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ganscale.training.ema import LogitAverages, MovingAverage, PowerAverages


@dataclass
class TrainState:
    """A run between two iterations.

    Attributes:
        generator: the trained generator.
        discriminator: the trained discriminator.
        ema: the generator's moving average.
        optimizer_g: the generator's optimizer.
        optimizer_d: the discriminator's optimizer.
        images: real examples shown to the discriminator so far, over all replicas.
        iteration: generator updates so far.
        augment_p: probability of each transform of D's inputs, which ADA moves.
        signs: sum of sign(D(real)) since ADA last moved `augment_p`, and its number, over all replicas.
        gamma: of R1 and R2, which `penalty.auto` moves.
        rate: of both networks, which `optim.auto` finds; None as long as it has not.
        logit_averages: of LeCam.
        rollbacks: number of rollbacks so far, each of which lowered the rates.
        averages: further ones of the generator, of `ema.profiles`.
        scale: of data that networks see scaled, as `data.latents.LatentSource`; else empty.
        path_length: mean length of G's Jacobian so far, `[]`, on its device (`penalty.path_length`).
    """

    generator: nn.Module
    discriminator: nn.Module
    ema: MovingAverage
    optimizer_g: Optimizer
    optimizer_d: Optimizer
    images: int = 0
    iteration: int = 0
    augment_p: float = 0.0
    signs: tuple[float, float] = (0.0, 0.0)
    gamma: float = 0.0
    rate: float | None = None
    rollbacks: int = 0
    logit_averages: LogitAverages = field(default_factory=LogitAverages)
    averages: PowerAverages = field(default_factory=lambda: PowerAverages(nn.Module(), ()))
    scale: tuple[tuple[float, float], ...] = ()
    path_length: Tensor = field(default_factory=lambda: torch.zeros(()))

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers only, so that it loads with `weights_only=True`."""
        return {
            "generator": self.generator.state_dict(),
            "discriminator": self.discriminator.state_dict(),
            "ema": self.ema.module.state_dict(),
            "optimizer_g": self.optimizer_g.state_dict(),
            "optimizer_d": self.optimizer_d.state_dict(),
            "images": self.images,
            "iteration": self.iteration,
            "augment_p": self.augment_p,
            "signs": list(self.signs),
            "gamma": self.gamma,
            "rate": self.rate,
            "rollbacks": self.rollbacks,
            "logit_averages": self.logit_averages.totals,
            "path_length": float(self.path_length),
            **({"averages": self.averages.state_dict()} if self.averages.widths else {}),
            **({"scale": [list(each) for each in self.scale]} if self.scale else {}),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load all of it, in place.

        Args:
            state: of `state_dict`.

        Raises:
            KeyError, RuntimeError: it comes from other networks or an incomplete state.
        """
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.ema.module.load_state_dict(state["ema"])
        self.averages.load_state_dict(state.get("averages", {}))
        self.optimizer_g.load_state_dict(state["optimizer_g"])
        self.optimizer_d.load_state_dict(state["optimizer_d"])
        self.images = int(state["images"])
        self.iteration = int(state["iteration"])
        self.augment_p = float(state["augment_p"])
        # States of earlier versions have none of these.
        total, rows = state.get("signs", (0.0, 0.0))
        self.signs = (float(total), float(rows))
        self.gamma = float(state.get("gamma", 0.0))
        self.rate = state.get("rate")
        self.rollbacks = int(state.get("rollbacks", 0))
        self.logit_averages.totals.copy_(state.get("logit_averages", torch.zeros(3)))
        self.path_length.fill_(float(state.get("path_length", 0.0)))
