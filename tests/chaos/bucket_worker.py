"""A run of the bucket campaign: `ganscale.train` with a short lease, slow enough to be hit, as if on another machine.

Environment: `CHAOS_LEASE`, seconds of the lease; `CHAOS_MACHINE`, another name of this machine, for which a lease of a
dead process has to run out; `CHAOS_FOLDER`, whose file `pause` has the seconds after each row, and whose folder `pids`
gets the names of the processes.
"""

import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from ganscale.storage import lease, mirror
from ganscale.tracking.jsonl import JsonlTracker
from ganscale.train import main


def _adapt(environment: Mapping[str, str]) -> None:
    lease.SECONDS = float(environment["CHAOS_LEASE"])
    mirror.EVERY = lease.SECONDS / 3
    if machine := environment.get("CHAOS_MACHINE", ""):
        lease._machine = lambda: machine
    log, folder = JsonlTracker.log, Path(environment["CHAOS_FOLDER"])

    def slow(self: JsonlTracker, images: int, metrics: Mapping[str, float]) -> None:
        log(self, images, metrics)
        with suppress(OSError, ValueError):
            time.sleep(float((folder / "pause").read_text(encoding="utf-8")))

    JsonlTracker.log = slow
    rank = environment.get("RANK", "0")
    (folder / "pids" / f"{rank}-{os.getpid()}-{lease.born(os.getpid())}").touch()


if __name__ == "__main__":
    _adapt(os.environ)
    sys.exit(main(sys.argv[1:]))
