"""Private APIs of Ray, held to the versions that they were tried with."""

import re
from pathlib import Path

import pytest
import ray
from ray._private import services, state
from ray.exceptions import RayTaskError
from ray.tune.schedulers import AsyncHyperBandScheduler

from ganscale.config import ConfigError, load
from ganscale.launch import cluster, compat
from ganscale.launch.compat import available_memory, check_version, draining_nodes, root_cause, running_cluster

ROOT = Path(__file__).parents[2]


def test_ray_is_a_version_that_was_tried() -> None:
    """On a newer one: read what launch/compat.py and sweep/schedulers.py use, run `make test-ray`, change TESTED."""
    assert check_version() == ""
    assert ray.__version__.startswith(("2.59.", "2.60.")), "OLDEST and TESTED name them"
    assert (compat.OLDEST, compat.TESTED) == ((2, 59), (2, 60))


@pytest.mark.parametrize("version", ["2.58.1", "1.13.0", "3.0.0", "3.0.0.dev0", "dev"])
def test_versions_that_are_not_supported_are_refused(version: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_version(version)
    assert (caught.value.key, caught.value.value) == ("ray", version)
    assert ">=2.59,<3.0" in str(caught.value)


@pytest.mark.parametrize(("version", "newer"), [("2.59.0", False), ("2.60.3", False), ("2.61.0", True)])
def test_versions_that_were_not_tried_cause_a_warning(version: str, newer: bool) -> None:
    assert (version in check_version(version)) == newer


def test_a_version_without_a_private_api_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "PRIVATE", {"ray._private.services": ("gone",), "ray._private.moved": ("state",)})
    with pytest.raises(ConfigError, match=r"lacks ray\._private\.services\.gone, ray\._private\.moved\.state"):
        check_version("2.61.0")


def test_the_version_is_checked_before_a_cluster_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise ConfigError("is not supported", key="ray", value="2.1.0")

    monkeypatch.setattr(cluster, "check_version", refuse)
    monkeypatch.setattr(cluster, "_init", lambda **_: pytest.fail("Ray was started"))
    with pytest.raises(ConfigError, match="ray"), cluster.connected(load()):
        pass


def test_the_package_asks_for_the_supported_versions() -> None:
    wanted = f'"ray[default,train,tune]>={".".join(map(str, compat.OLDEST))},<{compat.BELOW[0]}"'
    assert wanted in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_a_running_cluster_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for address in (None, "10.0.0.1:6379"):
        monkeypatch.setattr(services, "find_bootstrap_address", lambda temp_dir, found=address: found)
        assert running_cluster() == address


def test_draining_nodes_are_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(state.state), "get_draining_nodes", lambda self: {"a": 1, "b": 2})
    assert draining_nodes() == {"a", "b"}


def test_available_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray._common.utils.get_system_memory", lambda: 5_000)
    monkeypatch.setattr("ray._private.utils.get_used_memory", lambda: 2_000)
    assert available_memory() == 3_000


def test_private_names_are_imported_in_one_file_only() -> None:
    private = re.compile(r"^\s*(from|import) ray\.(\w+\.)*_", flags=re.MULTILINE)
    files = [path for path in (ROOT / "ganscale").rglob("*.py") if private.search(path.read_text(encoding="utf-8"))]
    assert files == [ROOT / "ganscale" / "launch" / "compat.py"]


def test_the_root_cause_lies_in_rays_wrappers() -> None:
    cause = ValueError("the disk is full")
    wrapped = RayTaskError("f", "traceback", cause)
    assert root_cause(wrapped) is root_cause(cause) is cause
    assert root_cause(wrapped.as_instanceof_cause()) is cause


def test_brackets_are_drawn_by_numpy() -> None:
    """`sweep.schedulers` seeds the generator from which Ray draws a trial's bracket."""
    assert {"np", "random", "choice"} <= set(AsyncHyperBandScheduler.on_trial_add.__code__.co_names)
