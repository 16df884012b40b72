"""What was cut, windowed or left out can be seen from outside: Ray's exporter has our counters."""

from __future__ import annotations

import contextlib
import re
import time

import httpx
import psutil

from tests.integration.conftest import Service

EXPORT_TIMEOUT_S = 60  # Ray pushes every ten seconds


def _exporter(service: Service) -> str:
    """Address of the Prometheus exporter of this service's Ray: one of its agent's ports, which it chooses itself."""
    for process in service.processes():
        with contextlib.suppress(psutil.Error):
            if "DashboardAgent" not in " ".join(process.cmdline()):
                continue
            for connection in process.net_connections("tcp"):
                url = f"http://127.0.0.1:{connection.laddr.port}/metrics"
                with contextlib.suppress(httpx.HTTPError):
                    if connection.status == psutil.CONN_LISTEN and "ray_" in httpx.get(url, timeout=2).text:
                        return url
    raise AssertionError("no process of the service exports metrics")


def _read(exporter: str, name: str) -> float:
    lines = re.findall(rf"^ray_{name}{{[^}}]*}} (\S+)$", httpx.get(exporter).text, re.MULTILINE)
    return sum(float(value) for value in lines)


def test_cut_windowed_and_excluded_documents_are_counted(service: Service) -> None:
    names = [f"reranker_{kind}_documents_total" for kind in ("truncated", "windowed", "excluded")]
    exporter = _exporter(service)
    before = {name: _read(exporter, name) for name in names}
    long = "Gravity attracts bodies. " * 4_000
    service.rerank("capital", [long, "short"])
    service.rerank("capital", [long, "short"], long_documents="windows")
    service.rerank("capital", ["short", "shorter"], score_threshold=1)
    deadline = time.monotonic() + EXPORT_TIMEOUT_S
    while True:
        risen = {name: _read(exporter, name) - before[name] for name in names}
        if risen == dict(zip(names, (1, 1, 2), strict=True)):
            return
        assert time.monotonic() < deadline, risen
        time.sleep(1)


def test_what_the_cache_saves_is_counted(service: Service) -> None:
    exporter = _exporter(service)
    names = [f"reranker_{name}_total" for name in ("cache_hits", "cache_misses", "deduplicated_pairs")]
    before = {name: _read(exporter, name) for name in names}
    for _ in range(2):
        service.rerank("which of these is counted", [*(f"document {number}" for number in range(9)), "document 0"])
    deadline = time.monotonic() + EXPORT_TIMEOUT_S
    while True:
        risen = [_read(exporter, name) - before[name] for name in names]
        if all(now >= wanted for now, wanted in zip(risen, (9, 9, 2), strict=True)):
            break
        assert time.monotonic() < deadline, risen
        time.sleep(1)
    assert _read(exporter, "reranker_cache_bytes") > 0
