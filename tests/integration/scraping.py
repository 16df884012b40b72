"""Reads Prometheus text, and adds up."""

from __future__ import annotations

from collections import defaultdict

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.conftest import Service


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
    response = httpx.get(f"{service.url}/metrics", headers=headers, timeout=30)
    assert response.status_code == 200, response.text
    return sums(response.text)
