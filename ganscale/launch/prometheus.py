"""A run's metrics as Ray metrics, for clusters with Prometheus and Grafana (k8s/monitoring/)."""

import re
from collections.abc import Mapping

import numpy as np
from ray.util.metrics import Gauge

from ganscale.config.evaluation import is_score
from ganscale.tracking import LateTracker


class GaugeTracker(LateTracker):
    """Exports the newest row: `loss_d` of run `a` is `ray_ganscale_loss_d{run="a"}` on its node's metrics port.

    Args:
        run: Value of the label `run`.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Gauge] = {}

    def log(self, images: int, metrics: Mapping[str, float]) -> None:
        """Set the gauges (tracker protocol)."""
        own = evaluation_images(images, metrics) if "evaluation_images" in self._gauges else {}
        self._set({"images": float(images), **metrics, **own})

    def late(self, scores: Mapping[int, Mapping[str, float]], *, at: int) -> None:
        """Set the gauges of the newest scores, and `evaluation_images` to the images that they belong to."""
        newest = max(scores)
        self._set({**scores[newest], **evaluation_images(newest, scores[newest])})

    def _set(self, numbers: Mapping[str, float]) -> None:
        for name, value in numbers.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(gauge_name(name), description=f"{name} of a run", tag_keys=("run",))
            self._gauges[name].set(value, tags={"run": self._run})

    def samples(self, images: int, picture: np.ndarray) -> None:
        """Do nothing: Prometheus takes no pictures."""

    def close(self, *, completed: bool) -> None:
        """Do nothing: the gauges end with the worker's process."""


def evaluation_images(images: int, numbers: Mapping[str, float]) -> dict[str, float]:
    """The images that scores belong to, where there are scores among the numbers.

    Args:
        images: Of the numbers.
        numbers: By name.
    """
    return {"evaluation_images": float(images)} if any(map(is_score, numbers)) else {}


def gauge_name(metric: str) -> str:
    """Name of a metric in Ray, which exports it with the prefix `ray_`.

    Args:
        metric: Name in the run's log.
    """
    return "ganscale_" + re.sub(r"[^A-Za-z0-9_]", "_", metric)
