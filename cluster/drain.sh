#!/usr/bin/env bash
# Tells Ray that this node is about to go, then waits: the hook of a pod that Kubernetes ends. Ray puts no new work here,
# and its training jobs hear of it as of a preemption. Usage: drain-node [SECONDS LEFT]
set -euo pipefail
seconds=${1:-60}

if ! ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the pod ends" \
    --deadline-remaining-seconds "$seconds"; then
    echo "drain-node: Ray does not answer, nothing to wait for" >&2
    exit 0
fi
while ((SECONDS < seconds)) && grep -qsx raylet /proc/[0-9]*/comm; do
    sleep 1
done
