"""A Ray cluster of several nodes on one computer, for fault tests: `python cluster/local_cluster.py up --nodes 3`.

As root on Linux each node is a set of namespaces with its own address, host name, processes, /tmp/ray and /dev/shm;
`kill` ends it like a power cut, `cut` disconnects it, `slow` slows its link down. Elsewhere nodes are plain processes
that share this computer's address and can only be killed.

In Python: `with LocalCluster("tests", nodes=3) as cluster: cluster.run("head", ["python", "-m", "ganscale.train"])`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script, too

from cluster.machines import ClusterError
from cluster.nodes import FOLDER, LocalCluster

__all__ = ["ClusterError", "LocalCluster", "main"]


def _show(cluster: LocalCluster) -> None:
    if cluster.state is None:
        print(f"there is no cluster {cluster.name}")
        return
    state = cluster.state
    print(f"cluster {cluster.name} ({state.mode}): Ray counts {len(cluster.alive())} nodes as alive")
    print(f"  address {state.gcs}, dashboard {state.dashboard}, token {cluster.folder / 'token'}")
    for node in state.nodes.values():
        status = "killed" if node.killed else f"{len(cluster.pids(node.name))} processes"
        print(f"  {node.name:6} {node.address:15} {status:14} link {node.link}")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Run several Ray nodes on one computer.")
    parser.add_argument("--name", default="default", help="which cluster (default: default)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of the clusters' state ({FOLDER})")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start it")
    up.add_argument("--nodes", type=int, default=3, help="number of nodes, the head included (default: 3)")
    up.add_argument("--mode", choices=("auto", "namespaces", "plain"), default="auto", help="see above")
    commands.add_parser("down", help="end the cluster and delete its state")
    commands.add_parser("status", help="show its nodes")
    add = commands.add_parser("add", help="start another node")
    for part in (up, add):
        part.add_argument("--cpus", type=int, default=2, help="CPUs that Ray counts on a node (default: 2)")
        part.add_argument("--shm-mb", type=int, default=1024, help="MiB of a node's /dev/shm (default: 1024)")
    add.add_argument("node", nargs="?", default="", help="its name (default: the next w)")
    execute = commands.add_parser("exec", help="run a command on a node: exec w1 -- nproc")
    helps = {
        "kill": "end a node as a power cut does",
        "cut": "disconnect a node",
        "restore": "reconnect a node, at full speed",
        "slow": "slow a node's link down",
    }
    parts = {name: commands.add_parser(name, help=text) for name, text in helps.items()}
    for part in (execute, *parts.values()):
        part.add_argument("node", help="head, w1, w2 ...")
    execute.add_argument("words", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    parts["slow"].add_argument("--delay", type=float, default=0.0, metavar="MS", help="milliseconds, each way")
    parts["slow"].add_argument("--rate", type=float, default=0.0, metavar="MBIT", help="Mbit/s, each way")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; exit code 2 on a ClusterError, of `exec` the command's own."""
    options = _parse(arguments)
    given = {key: value for key, value in vars(options).items() if key in ("folder", "nodes", "cpus", "shm_mb", "mode")}
    try:
        cluster = LocalCluster(options.name, **given)
        if options.command == "exec":
            words = options.words[1:] if options.words[:1] == ["--"] else options.words
            if not words:
                raise ClusterError("no command is given", "write: exec NODE -- COMMAND ...")
            return cluster.run(options.node, words).returncode
        if options.command == "slow":
            cluster.slow(options.node, delay_ms=options.delay, rate_mbit=options.rate)
        elif options.command in ("kill", "cut", "restore"):
            getattr(cluster, options.command)(options.node)
        elif options.command == "add":
            print(cluster.add(options.node))
        elif options.command in ("up", "down"):
            getattr(cluster, options.command)()
        if options.command in ("up", "status"):
            _show(cluster)
    except ClusterError as error:
        print(f"local_cluster: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
