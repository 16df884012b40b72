"""Who may read GET /metrics: everybody where there are no keys, else keys that say so, and admins'."""

from __future__ import annotations

import pytest

from tests.unit.doors import WordBackend, door, visitor

ALL_KEYS = "{team: team-key, operator: {key: operator-key, admin: true}, prometheus: {key: scrape-key, metrics: true}}"


@pytest.mark.parametrize(
    ("keys", "open_metrics", "key", "status"),
    [
        ("", False, None, 200),
        (ALL_KEYS, False, None, 401),
        (ALL_KEYS, False, "team-key", 403),
        (ALL_KEYS, False, "operator-key", 200),
        (ALL_KEYS, False, "scrape-key", 200),
        (ALL_KEYS, True, None, 200),
        (ALL_KEYS, True, "no-such-key", 200),
    ],
)
async def test_who_may_read_them(keys: str, open_metrics: bool, key: str | None, status: int) -> None:
    backend = WordBackend()
    backend.metrics = b"reranker_documents_total 12.0\n"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with visitor(door(backend, keys=keys, open_metrics=open_metrics), headers) as client:
        response = await client.get("/metrics")
    assert response.status_code == status
    if status == 200:
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert response.text == "reranker_documents_total 12.0\n"


async def test_service_that_counts_nothing_says_so() -> None:
    backend = WordBackend()
    backend.metrics = None
    async with visitor(door(backend)) as client:
        response = await client.get("/metrics")
    assert response.status_code == 404
    assert "observability.metrics" in response.json()["message"]
