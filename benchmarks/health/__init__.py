"""How good the verdicts of `ganscale.health.detectors` are: short runs, half of them with a fault."""
