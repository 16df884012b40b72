"""Reads Prometheus text, and adds up."""

from __future__ import annotations

import contextlib
from collections import defaultdict

import httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import TLS, Service


def sums(text: str) -> defaultdict[str, float]:
    """The sum over all series of each name."""
    found: defaultdict[str, float] = defaultdict(float)
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] += sample.value
    return found


def metrics_of(service: Service, key: str | None = None) -> defaultdict[str, float]:
    """What `GET /metrics` says now.

    Args:
        service: Whose.
        key: API key; None: the one its tests use.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else service.headers
    response = httpx.get(f"{service.url}/metrics", headers=headers, timeout=30, verify=TLS)
    assert response.status_code == 200, response.text
    return sums(response.text)


def exporter_of(service: Service) -> str:
    """Host and port of the exporter of a service's Ray: one of its agent's ports, which it chooses itself."""
    for process in service.processes():
        with contextlib.suppress(psutil.Error):
            if "DashboardAgent" not in " ".join(process.cmdline()):
                continue
            for connection in process.net_connections("tcp"):
                address = f"127.0.0.1:{connection.laddr.port}"
                with contextlib.suppress(httpx.HTTPError):
                    if connection.status == psutil.CONN_LISTEN and "ray_" in _text(address):
                        return address
    raise AssertionError("no process of the service exports metrics")


def _text(address: str) -> str:
    return httpx.get(f"http://{address}/metrics", timeout=5, verify=TLS).text
