"""The files for `ray up`: Ray's own schema takes them, and nothing unsafe is left to Ray's defaults."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

FILES = sorted((Path(__file__).parents[2] / "cluster").glob("*.yaml"))
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")
EACH = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def read(path: Path) -> dict[str, Any]:
    """A file as `ray up` reads it."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def check(config: dict[str, Any]) -> dict[str, Any]:
    """Fill in Ray's defaults and check the result against Ray's schema; no cloud is called."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    whole = prepare_config(copy.deepcopy(config))
    validate_config(whole)
    return whole


def test_there_are_three() -> None:
    assert [path.stem for path in FILES] == ["aws", "gcp", "on-prem"]


@EACH
def test_ray_takes_it(path: Path) -> None:
    check(read(path))


@EACH
def test_ray_refuses_an_unknown_key(path: Path) -> None:
    with pytest.raises(Exception, match="max_worker"):
        check(read(path) | {"max_worker": 2})


@EACH
def test_none_of_rays_unsafe_defaults_is_left(path: Path) -> None:
    whole = check(read(path))
    commands = "\n".join(
        command for key, value in whole.items() if key.endswith("_commands") for command in map(str, value)
    )
    assert "wheels" not in commands, "a nightly build of Ray"
    assert "0.0.0.0" not in commands, "a public dashboard"
    for key in STARTS:
        start = whole[key][-1]
        assert "export RAY_AUTH_MODE=token" in start
        assert start.index("RAY_AUTH_MODE") < start.index("ray start")
    assert "--dashboard-host=127.0.0.1" in whole[STARTS[0]][-1]
    assert whole["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    assert "chmod 600 ~/.ray/auth_token" in whole["setup_commands"]


@EACH
def test_ray_and_ganscale_are_the_locked_ones(path: Path) -> None:
    """Every `ray` is the one that `make setup` installs from the lock."""
    config = read(path)
    assert "cd ~/ganscale && make setup" in config["setup_commands"]
    assert config["file_mounts"]["~/ganscale"] == "."
    for key in STARTS:
        for command in config[key]:
            assert "~/ganscale/.venv/bin" in command


@EACH
def test_machines_are_bounded(path: Path) -> None:
    config = read(path)
    types = config.get("available_node_types", {})
    for name, node in types.items():
        assert name == config["head_node_type"] or node["min_workers"] <= node["max_workers"] <= config["max_workers"]
    addresses = config["provider"].get("worker_ips", [])
    assert types or len(addresses) == config["max_workers"]
