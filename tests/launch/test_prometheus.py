"""A run's numbers as Ray metrics."""

import numpy as np
import pytest

from ganscale.launch import prometheus
from ganscale.launch.prometheus import GaugeTracker


def test_the_newest_row_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[tuple[str, str], float] = {}
    made: list[str] = []

    class Gauge:
        def __init__(self, name: str, description: str, tag_keys: tuple[str, ...]) -> None:
            assert description
            assert tag_keys == ("run",)
            made.append(name)
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            values[self.name, tags["run"]] = value

    monkeypatch.setattr(prometheus, "Gauge", Gauge)
    tracker = GaugeTracker("try1")
    tracker.log(64, {"loss_d": 1.5})
    tracker.samples(64, np.zeros((1, 1, 3), np.uint8))
    tracker.log(128, {"loss_d": 0.5, "penalty_r1": 2.0})
    tracker.close(completed=True)
    assert values == {
        ("ganscale_images", "try1"): 128.0,
        ("ganscale_loss_d", "try1"): 0.5,
        ("ganscale_penalty_r1", "try1"): 2.0,
    }
    assert len(made) == 3, "a gauge is made once"


def test_ray_takes_the_names(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    prometheus.Gauge(prometheus.gauge_name("modes/kl-div"))
    assert not [warning for warning in recwarn if "Invalid metric name" in str(warning.message)]


def test_late_scores_say_what_they_belong_to(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, float] = {}

    class Gauge:
        def __init__(self, name: str, **_: object) -> None:
            self.name = name

        def set(self, value: float, tags: dict[str, str]) -> None:
            values[self.name] = value

    monkeypatch.setattr(prometheus, "Gauge", Gauge)
    tracker = GaugeTracker("try1")
    tracker.log(128, {"loss_d": 0.5})
    tracker.late({32: {"frechet": 4.0}, 64: {"frechet": 3.0}}, at=192)
    assert values == {
        "ganscale_images": 128.0,
        "ganscale_loss_d": 0.5,
        "ganscale_frechet": 3.0,
        "ganscale_evaluation_images": 64.0,
    }
    tracker.log(256, {"frechet": 2.0})
    assert (values["ganscale_frechet"], values["ganscale_evaluation_images"]) == (2.0, 256.0)
