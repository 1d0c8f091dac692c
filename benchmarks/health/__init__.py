"""Precision and recall of `ganscale.health.detectors` on short runs, half of them with an injected fault."""
