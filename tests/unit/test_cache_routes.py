"""Looking at the cache and clearing it is for admin keys; everybody else is told so."""

from __future__ import annotations

import pytest

from tests.unit.doors import KEYS, WordBackend, door, visitor

AS_OPERATOR = {"Authorization": "Bearer operator-key"}
AS_TEAM = {"Authorization": "Bearer team-key"}
ALL_KEYS = KEYS.removesuffix("}") + ", operator: {key: operator-key, admin: true}}"


async def test_admin_key_looks_and_clears() -> None:
    backend = WordBackend()
    async with visitor(door(backend, keys=ALL_KEYS), AS_OPERATOR) as client:
        assert (await client.get("/v1/cache")).json() == {"enabled": True, "cleared": 0}
        assert (await client.delete("/v1/cache")).json() == {"enabled": True, "cleared": 1}


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize(("keys", "status"), [(ALL_KEYS, 403), ("", 403)])
async def test_other_keys_and_a_service_without_keys_may_not(method: str, keys: str, status: int) -> None:
    backend = WordBackend()
    async with visitor(door(backend, keys=keys), AS_TEAM) as client:
        response = await client.request(method, "/v1/cache")
    assert response.status_code == status
    assert response.json()["error_type"] == "forbidden"
    assert backend.cleared == 0
