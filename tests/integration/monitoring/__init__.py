"""Tests of what an operator sees: metrics, Prometheus, dashboard and alerts, on one service."""
