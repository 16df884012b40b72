#!/usr/bin/env bash
# PID 1 of a node, as KubeRay starts it: `ray start --block`, with a /tmp/ray, a /tmp and a /dev/shm that nobody else has.
# Arguments: name, folder of its own, folders that lie under /tmp and stay visible (or none) up to "--", then those of `ray`.
set -euo pipefail
name=$1 folder=$2
shift 2
hostname "$name"
mount --make-rprivate /
mkdir -p "$folder/tmp"
for seen in "$@"; do
    [ "$seen" != -- ] || break
    mkdir -p "$folder/tmp/${seen#/tmp/}"
    mount --rbind "$seen" "$folder/tmp/${seen#/tmp/}"
    shift
done
shift
mount --rbind "$folder/tmp" /tmp
mount -t tmpfs -o size=512m tmpfs /dev/shm
until ip -o -4 addr show eth0 2> /dev/null | grep -q inet; do sleep 0.05; done
exec "$@"
