"""Versions of Ray, and its private APIs: used here only; tests/launch/test_compat.py holds them to a version."""

from importlib import import_module
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle

from ganscale.config import ConfigError
from ganscale.parallel.members import check_torchft

OLDEST, TESTED, BELOW = (2, 59), (2, 60), (3, 0)
"""Oldest supported minor version, newest one that the tests ran with, and the first that is refused."""
PRIVATE = {
    "ray._private.services": ("canonicalize_bootstrap_address", "find_bootstrap_address"),
    "ray._private.state": ("state",),
    "ray._private.worker": ("_global_node",),
    "ray._common.utils": ("get_system_memory",),
    "ray._private.utils": ("get_used_memory",),
}
"""Names that this module takes from Ray's private modules."""
LIVE = (
    "ray.train.v2.torch.torchft_config",
    ("LighthouseServerActor", "TorchftConfig", "_TorchftBackend"),
)
"""Names that `ganscale.launch.live` takes from a module that came with Ray 2.60."""


def check_version(version: str = ray.__version__) -> str:
    """Refuse a version of Ray that cannot work.

    Args:
        version: Of Ray.

    Returns:
        A warning where the version is newer than those that were tried; empty otherwise.

    Raises:
        ConfigError: It is too old, of another major version, or lacks a private API.
    """
    low, high, tested = (".".join(map(str, each)) for each in (OLDEST, BELOW, TESTED))
    remedy = f"install ray[default,train,tune]>={low},<{high}; {tested} was tested"
    try:
        minor = tuple(int(part) for part in version.split(".")[:2])
    except ValueError:  # a build of a branch
        minor = (0, 0)
    if not OLDEST <= minor < BELOW:
        raise ConfigError("is not supported", key="ray", value=version, remedy=remedy)
    missing = [f"{module}.{name}" for module, names in PRIVATE.items() for name in names if not _has(module, name)]
    if missing:
        raise ConfigError(f"lacks {', '.join(missing)}", key="ray", value=version, remedy=remedy)
    if minor > TESTED:
        return f"Ray {version} is newer than {tested}, the newest version that ganscale was tested with"
    return ""


def check_live() -> None:
    """Refuse `cluster.recovery: live` where Ray Train or the environment lacks its part.

    Raises:
        ConfigError: Ray is older than 2.60, or torchft is not installed.
    """
    module, names = LIVE
    if not all(_has(module, name) for name in names):
        problem, remedy = f"Ray {ray.__version__} cannot replace single workers", "use ray>=2.60, or restart"
        raise ConfigError(problem, key="cluster.recovery", value="live", remedy=remedy)
    check_torchft()


def _has(module: str, name: str) -> bool:
    try:
        return hasattr(import_module(module), name)
    except ImportError:
        return False


def running_cluster() -> str | None:
    """Address (HOST:PORT) of a cluster that `ray start` left running on this machine; None if there is none."""
    from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address

    address = find_bootstrap_address(None)
    return canonicalize_bootstrap_address(address) if address else None


def draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained: a reclaimed spot machine, a pod that terminates."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def log_folder() -> str:
    """Folder of the logs of this Ray session, by the same path on all nodes."""
    node: Any = getattr(import_module("ray._private.worker"), "_global_node", None)
    return node.get_logs_dir_path()


def available_memory() -> int:
    """Unused memory in bytes: the container's, where it has a limit."""
    from ray._common.utils import get_system_memory
    from ray._private.utils import get_used_memory

    return get_system_memory() - get_used_memory()


def trial_error(trial: Any) -> Any:
    """The newest error of a trial, or its text if it cannot be pickled; None if there is none.

    It is read where Tune has just written it, in this driver's own folder of the Ray session; `get_pickled_error` reads
    Tune's storage, which has it only after the next snapshot.

    Args:
        trial: Of Ray Tune, as its callbacks get it.
    """
    if trial.pickled_error_file:
        return cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    return Path(trial.error_file).read_text(encoding="utf-8") if trial.error_file else None


def root_cause(error: BaseException) -> BaseException:
    """The innermost exception that Ray's wrappers carry in `cause` or `_base_exc`.

    Args:
        error: An exception that Ray raised.
    """
    while isinstance(inner := getattr(error, "cause", None) or getattr(error, "_base_exc", None), BaseException):
        error = inner
    return error
