"""Private APIs of Ray 2.60, each used here only; tests/launch/test_compat.py holds them to the installed version."""


def running_cluster() -> str | None:
    """Address (HOST:PORT) of a cluster that `ray start` left running on this machine; None if there is none."""
    from ray._private.services import canonicalize_bootstrap_address, find_bootstrap_address

    address = find_bootstrap_address(None)
    return canonicalize_bootstrap_address(address) if address else None


def draining_nodes() -> set[str]:
    """Ids of the nodes that are being drained: a reclaimed spot machine, a pod that terminates."""
    from ray._private.state import state

    return set(state.get_draining_nodes())


def root_cause(error: BaseException) -> BaseException:
    """The innermost exception that Ray's wrappers carry in `cause` or `_base_exc`.

    Args:
        error: An exception that Ray raised.
    """
    while isinstance(inner := getattr(error, "cause", None) or getattr(error, "_base_exc", None), BaseException):
        error = inner
    return error
