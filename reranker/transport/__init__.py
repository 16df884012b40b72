"""Shards over a socket, from an ingress to a replica and back. Without Ray. Why: docs/decisions/0007-socket.md."""
