"""Reads Prometheus text, and adds up."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import httpx
import psutil
import ray
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import TLS, Service


@dataclass(frozen=True)
class Page:
    """Series as one scrape gave them: by name and labels."""

    series: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def read(cls, text: str) -> Self:
        """Read Prometheus text, in which no series may be there twice."""
        series: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in series, f"twice: {sample}"
                series[key] = sample.value
        return cls(series)

    def by(self, label: str, name: str) -> dict[str, float]:
        """The sum over all series of a name, by the value of a label."""
        found: defaultdict[str, float] = defaultdict(float)
        for (of, labels), value in self.series.items():
            if of == name:
                found[dict(labels)[label]] += value
        return dict(found)

    def sums(self) -> defaultdict[str, float]:
        """The sum over all series of each name."""
        found: defaultdict[str, float] = defaultdict(float)
        for (name, _), value in self.series.items():
            found[name] += value
        return found


def page_of(url: str, headers: Mapping[str, str] | None = None) -> Page:
    """Scrape once."""
    response = httpx.get(f"{url}/metrics", headers=headers, timeout=30, verify=TLS)
    assert response.status_code == 200, response.text
    return Page.read(response.text)


def metrics_of(service: Service, key: str | None = None) -> defaultdict[str, float]:
    """What `GET /metrics` says now, summed over all processes.

    Args:
        service: Whose.
        key: API key; None: the one its tests use.
    """
    headers = {"Authorization": f"Bearer {key}"} if key else service.headers
    return page_of(service.url, headers).sums()


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


def ray_address() -> str:
    """The address that Ray gives this machine's only node."""
    return str(ray.util.get_node_ip_address())
