"""Tests of the Kubernetes manifests; they need kubectl and no cluster."""
