"""Inject faults into many short runs on a local cluster: `python tests/chaos/campaign.py --out campaign`.

A run has survived when it completes; it is exact when the SHA-256 of its last state equals that of the undisturbed run.
Records are in `<out>/records.jsonl`; the same command again continues. As root each node is a set of namespaces (see
cluster/local_cluster.py) and the storage a small file system; otherwise faults that need these are left out.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script, too

from cluster.machines import ClusterError
from cluster.nodes import LocalCluster
from tests.chaos.kinds import KINDS
from tests.chaos.records import Record, append_record, plan, read_records, summary, table
from tests.chaos.runs import Campaign, make_cluster

STORAGE_MIB = 256


def possible(cluster: LocalCluster, small_storage: bool) -> list[str]:
    """Kinds of faults that can be injected here."""
    able = {"", *(["machines"] if cluster.state and cluster.state.mode == "namespaces" else [])}
    able |= {"small storage"} if small_storage else set()
    able |= {"memory"} if os.geteuid() == 0 else set()
    return [name for name, kind in KINDS.items() if kind.needs in able]


def _mount(place: Path) -> bool:
    """Mount a small file system; False where that is not allowed."""
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or os.path.ismount(place):
        return os.path.ismount(place)
    options = ["-t", "tmpfs", "-o", f"size={STORAGE_MIB}m", "tmpfs", str(place)]
    return subprocess.run(["mount", *options], capture_output=True).returncode == 0


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Inject faults into many short runs.")
    parser.add_argument("--out", type=Path, required=True, help="folder of records and output")
    parser.add_argument("--faults", type=int, default=66, help="number of faults (default: 66)")
    parser.add_argument("--per-run", type=int, default=4, help="faults in a run (default: 4)")
    parser.add_argument("--seed", type=int, default=0, help="seed of kinds, moments and victims (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), help="only these (default: all that are possible)")
    parser.add_argument("--images", type=int, default=256_000, help="length of each run (default: 256000)")
    parser.add_argument("--interval", type=int, default=6400, help="images between two checkpoints (default: 6400)")
    parser.add_argument("--timeout", type=float, default=20.0, help="cluster.timeout of the runs in seconds (20)")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no further run after this time")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 1 if a run was lost or its last state differs from the undisturbed run's."""
    options = _parse(arguments)
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is taken down
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    small = _mount(out / "storage")
    cluster = make_cluster(out)
    lengths = {"images": options.images, "interval": options.interval, "timeout": options.timeout}
    try:
        cluster.down()  # of an interrupted campaign
        cluster.up()
        records = _work(options, Campaign(cluster, out / "storage", **lengths), small, out)
    except ClusterError as error:
        print(f"fault_campaign: error: {error}", file=sys.stderr)
        return 2
    finally:
        cluster.down()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
        if small:
            subprocess.run(["umount", "--lazy", str(out / "storage")], capture_output=True)
    print(table(records))
    return 0 if records and all(record.good for record in records) else 1


def _work(options: argparse.Namespace, campaign: Campaign, small: bool, out: Path) -> list[Record]:
    """Run what an earlier campaign has not, and write the summary."""
    kinds = [name for name in possible(campaign.cluster, small) if not options.kinds or name in options.kinds]
    if not kinds:
        raise ClusterError(
            "none of these kinds of faults can be injected here", "run it as root, or choose other --kinds"
        )
    records = read_records(out / "records.jsonl")
    done = {record.seed for record in records}
    until = time.monotonic() + 60.0 * options.minutes
    for number, planned in enumerate(plan(kinds, options.faults, options.seed, options.per_run)):
        if planned.seed in done or time.monotonic() > until:
            continue
        print(f"run {number}: {', '.join(planned.kinds)}", flush=True)
        campaign.restore_cluster()
        record = campaign.attempt(f"run-{options.seed}-{number:03d}", planned)
        records.append(record)
        append_record(out / "records.jsonl", record)
        verdict = "good" if record.good else f"NOT GOOD {record.problem}"
        print(f"run {number}: {record.seconds:.0f} s, {verdict}", flush=True)
        _write_summary(records, out)
    return records


def _write_summary(records: Sequence[Record], out: Path) -> None:
    undisturbed = json.loads((out / "undisturbed.json").read_text(encoding="utf-8"))
    content = summary(records, undisturbed["seconds_to_save"]) | {"undisturbed_seconds": undisturbed["seconds"]}
    (out / "summary.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (out / "table.md").write_text(table(records) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
