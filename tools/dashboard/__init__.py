"""Grafana's dashboard of the service: declared in `panels`, written as JSON, and drawn from a running Prometheus."""
