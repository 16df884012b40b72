#!/usr/bin/env bash
# Before a worker pod ends: tell Ray, so that Serve starts its replicas elsewhere and lets these finish; then wait.
# Runs in the pod, as its preStop. Argument: seconds that what is under way may take.
set -uo pipefail
seconds=$1
healthy() { wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep -q success; }

ray drain-node --address "${RAY_ADDRESS:-${FQ_RAY_IP}:6379}" --reason DRAIN_NODE_REASON_PREEMPTION \
    --reason-message "the pod is ending" --deadline-remaining-seconds "$seconds" || exit 0 # the head is gone, too
for ((waited = 0; waited < seconds; waited++)); do
    healthy || exit 0 # nothing runs here any more, and Ray has ended the node
    sleep 1
done
