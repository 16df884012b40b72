#!/usr/bin/env bash
# Before a worker pod ends: tell Ray, so that Serve starts its replicas elsewhere and then lets these finish; and wait.
# Runs in the pod, as its preStop, beside the pod's removal from its Service.
# Arguments: seconds until all must be over, of which Serve keeps graceful_shutdown_timeout_s for the replica's own end
# and the others for its successor; and seconds that what is under way takes. The latter are waited for where the head
# has gone (an old cluster after an upgrade): nobody is left who could move anything.
set -uo pipefail
all_s=$1 busy_s=$2
head=${RAY_ADDRESS:-${FQ_RAY_IP}:6379}
node_lives() { wget --tries 1 -T 2 -q -O- http://localhost:52365/api/local_raylet_healthz | grep -q success; }
head_lives() { timeout 2 bash -c "exec 3<> '/dev/tcp/${head%:*}/${head##*:}'" 2> /dev/null; }
drain() {
    timeout 60 ray drain-node --address "$head" --reason DRAIN_NODE_REASON_PREEMPTION --reason-message "the pod is ending" \
        --deadline-remaining-seconds "$((all_s - SECONDS))"
}

told='' seen_s=0
while ((SECONDS < all_s)); do
    if head_lives; then
        seen_s=$SECONDS
        [ -n "$told" ] || { drain && told=yes; } # it may be starting: tried again
    elif ((SECONDS - seen_s >= busy_s)); then
        exit 0
    fi
    sleep 1
    node_lives || exit 0 # nothing runs here any more, and Ray has ended the node
done
