"""The adversarial objectives. To add one: write its pair of functions, then one entry in `LOSSES`."""

from ganscale.losses.adversarial import LOSSES, AdversarialLoss

__all__ = ["LOSSES", "AdversarialLoss"]
