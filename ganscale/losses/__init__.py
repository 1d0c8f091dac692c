"""Adversarial objectives and penalties. To add an objective: write its two functions, then one entry in `LOSSES`."""

from ganscale.config.losses import LOSSES, AdversarialLoss
from ganscale.losses.adversarial import Targets
from ganscale.losses.classes import DataToData

__all__ = ["LOSSES", "AdversarialLoss", "DataToData", "Targets"]
