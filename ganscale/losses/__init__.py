"""Adversarial objectives and penalties. To add an objective: write its two functions, then one entry in `LOSSES`."""

from ganscale.losses.adversarial import LOSSES, AdversarialLoss, Targets

__all__ = ["LOSSES", "AdversarialLoss", "Targets"]
