"""A run's numbers as Ray metrics, for clusters with Prometheus and Grafana (k8s/monitoring/)."""

import re
from collections.abc import Mapping

import numpy as np
from ray.util.metrics import Gauge


class GaugeTracker:
    """Keeps the newest row: `loss_d` of run `a` is `ray_ganscale_loss_d{run="a"}` on the metrics port of its node.

    Args:
        run: value of the label `run`.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Set the gauges."""
        for name, value in {"images": float(images), **metrics}.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(gauge_name(name), description=f"{name} of a run", tag_keys=("run",))
            self._gauges[name].set(value, tags={"run": self._run})

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Pictures are not for Prometheus."""

    def close(self, *, completed: bool) -> None:
        """Ray forgets the gauges with the worker's process."""


def gauge_name(metric: str) -> str:
    """The name that a number of the log has as a Ray metric; Ray puts `ray_` before it when it exports it."""
    return "ganscale_" + re.sub(r"[^A-Za-z0-9_]", "_", metric)
