#!/usr/bin/env bash
# A training run on a Slurm allocation: a Ray cluster over its nodes, then the command. From the repository's root:
#   sbatch --nodes=4 cluster/slurm.sh configs/folder_64.yaml run.dir=/shared/runs data.path=/shared/pictures
# The arguments are those of `python -m ganscale.train`. run.dir must be on storage that all nodes share. Two minutes before
# the time is up the job stops and queues itself again; the same command then resumes the run.
#SBATCH --job-name=ganscale
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -euo pipefail

cd "$SLURM_SUBMIT_DIR"
if [[ -f .venv/bin/activate ]]; then # as `make setup` leaves it, on a path that all nodes see
    # shellcheck source=/dev/null
    source .venv/bin/activate
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
addresses=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I)
ip=${addresses%% *}
port=$((20000 + SLURM_JOB_ID % 10000))
address=$ip:$port

# A token of this job's own, which its steps inherit; on a command line, every user of a node would see it.
RAY_AUTH_TOKEN=$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
resources=(--num-cpus="${SLURM_CPUS_PER_TASK:-1}" --num-gpus="${SLURM_GPUS_ON_NODE:-0}" --disable-usage-stats --block)

steps=()
stop() {
    for step in "${steps[@]}"; do
        kill "$step" 2>/dev/null || true
    done
    wait
}
trap stop EXIT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --node-ip-address="$ip" --port="$port" --temp-dir="/tmp/ray-$SLURM_JOB_ID" "${resources[@]}" &
steps+=($!)
for ((tries = 60; ; tries--)); do
    ray health-check --address "$address" >/dev/null 2>&1 && break
    if ((tries == 0)); then
        echo "slurm.sh: Ray's head on $head does not answer at $address" >&2
        exit 1
    fi
    sleep "${GANSCALE_SLURM_POLL:-5}"
done

if ((${#nodes[@]} > 1)); then
    srun --overlap --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --exclude="$head" \
        ray start --address="$address" "${resources[@]}" &
    steps+=($!)
fi
python - "$address" "${#nodes[@]}" <<'PYTHON'
import sys
import time

import ray

address, wanted = sys.argv[1], int(sys.argv[2])
ray.init(address=address, log_to_driver=False, logging_level="ERROR")
until = time.monotonic() + 300
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > until:
        sys.exit(f"slurm.sh: {alive} of {wanted} nodes joined Ray within five minutes")
    time.sleep(1)
PYTHON

requeue() {
    trap - TERM
    echo "slurm.sh: the time is up; the job queues itself again and goes on from the last checkpoint"
    kill "$training" 2>/dev/null || true
    wait "$training" || true
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
}
RAY_ADDRESS=$address python -m ganscale.train "$@" &
training=$!
trap requeue TERM
wait "$training"
