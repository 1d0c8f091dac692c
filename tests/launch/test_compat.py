"""Private APIs of Ray, held to the version that they were written for."""

import pytest
import ray
from ray._private import services, state
from ray.exceptions import RayTaskError
from ray.tune.schedulers import AsyncHyperBandScheduler

from ganscale.launch.compat import draining_nodes, root_cause, running_cluster


def test_ray_is_the_version_that_was_read() -> None:
    """On another version: read what ganscale/launch/compat.py and sweep/schedulers.py use, then change this line."""
    assert ray.__version__.startswith("2.60.")


def test_a_running_cluster_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (None, "10.0.0.1:6379"):
        monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir, found=address: found)
        assert running_cluster() == address


def test_draining_nodes_are_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(state.state), "get_draining_nodes", lambda self: {"a": 1, "b": 2})
    assert draining_nodes() == {"a", "b"}


def test_the_root_cause_lies_in_rays_wrappers() -> None:
    cause = ValueError("the disk is full")
    wrapped = RayTaskError("f", "traceback", cause)
    assert root_cause(wrapped) is root_cause(cause) is cause
    assert root_cause(wrapped.as_instanceof_cause()) is cause


def test_brackets_are_drawn_by_numpy() -> None:
    """`sweep.schedulers` seeds the generator from which Ray draws a trial's bracket."""
    assert {"np", "random", "choice"} <= set(AsyncHyperBandScheduler.on_trial_add.__code__.co_names)
