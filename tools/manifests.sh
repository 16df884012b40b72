#!/usr/bin/env bash
# Build and check the manifests of an overlay: tools/manifests.sh dev|prod|prod-4b|prod-8b-tp2|prod-two-models > manifests.yaml
# The volume with its weights, to be applied before: tools/manifests.sh prod weights > weights.yaml
# Refuses while a value in k8s/values/values.env is not set.
set -euo pipefail
cd "$(dirname "$0")/.."
overlay=k8s/overlays/${1:?which overlay? $(ls k8s/overlays | paste -sd ' ')}
[ -d "$overlay" ] || { echo "there is no $overlay; there are: $(ls k8s/overlays | paste -sd ' ')" >&2; exit 1; }
values=k8s/values/values.env
unset_values=$(grep -vE '^\s*(#|$)' "$values" | grep -E '=\s*(CHANGE-ME)?\s*$' | cut -d= -f1 | paste -sd ' ' || true)
if [ -n "$unset_values" ]; then
    echo "not set in $values: $unset_values" >&2
    exit 1
fi
if ! grep -qE '^REVISION=[0-9a-f]{40}( [0-9a-f]{40})*\s*$' "$values"; then
    echo "REVISION in $values is no commit: a branch may be another model tomorrow; give all 40 characters" >&2
    exit 1
fi
if [ "${2:-}" = weights ]; then
    exec "$(tools/kubectl.sh)" kustomize "$overlay/weights"
fi
manifests=$("$(tools/kubectl.sh)" kustomize "$overlay")
.venv/bin/reranker config check - <<< "$manifests" >&2
printf '%s\n' "$manifests"
