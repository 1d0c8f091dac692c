"""`ganscale.train` with time marks at certain points of its start.

Every process writes its marks to a folder, including workers of Ray, which import this module by the name of the
function that they run. The training is unchanged.
"""

import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

MARKS = ("python", "imports", "group", "build", "first step")
"""In order: the interpreter runs; the worker's modules are imported; the process group is ready; networks and data are
built; the first iteration is complete."""

FOLDER = "GANSCALE_MARKS"


def mark(name: str) -> None:
    """Record the time at which this process first reaches a point.

    Args:
        name: of `MARKS`.
    """
    folder = os.environ.get(FOLDER)
    if folder:
        path = Path(folder) / f"{os.getpid()} {name}"
        if not path.exists():
            path.write_text(repr(time.time()), encoding="utf-8")


def read_marks(folder: Path) -> dict[str, float]:
    """The time at which the slowest process reached each point, in seconds since the epoch.

    Args:
        folder: of the marks.
    """
    found: dict[str, float] = {}
    for path in folder.iterdir():
        name = path.name.partition(" ")[2]
        found[name] = max(found.get(name, 0.0), float(path.read_text(encoding="utf-8")))
    return found


def after(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """Wrap a function so that it sets a mark when it returns.

    Args:
        function: to wrap.
        name: of the mark.
    """

    def marked(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        mark(name)
        return result

    return marked


def watch_worker() -> None:
    """Add the marks of a replica."""
    from ganscale.run import session
    from ganscale.training.step import Step

    mark("imports")
    session.check_shared = after(session.check_shared, "group")
    build = after(session.build, "build")

    def build_and_watch(*args: Any, **kwargs: Any) -> Any:
        experiment = build(*args, **kwargs)
        Step.__call__ = after(Step.__call__, "first step")  # not before: the memory forecast has traced a step
        return experiment

    session.build = build_and_watch


def _in_ray_worker(settings: dict[str, Any]) -> Any:
    """Entry point of a worker of Ray."""
    from ganscale.launch import worker_entry

    watch_worker()
    return worker_entry.train_loop(settings)


def main() -> int:
    """Train as `ganscale.train` does."""
    mark("python")
    from ganscale import train

    if "ray" in sys.argv:
        from ganscale.launch import ray_train

        # This file runs as __main__, which Ray would pickle by value; workers must import it by name.
        in_worker = import_module("benchmarks.speed.marks")._in_ray_worker
        train_loop = ray_train.run_worker_group

        def group(loop: Any, *args: Any) -> Any:
            return train_loop(in_worker, *args)

        ray_train.run_worker_group = group
    else:
        watch_worker()
    return train.main()


if __name__ == "__main__":
    sys.exit(main())
