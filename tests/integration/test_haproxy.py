"""Ray's HAProxy in front of the ingress instead of its own listener, where the configuration asks for it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from benchmarks.service import free_port
from tests.integration.conftest import configuration, started
from tests.integration.traffic import RankedList, wait_until

pytestmark = pytest.mark.slow

KEY = "key-of-a-client"


def test_proxy_of_serve_carries_the_same_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, refusals and request ids are as ever; who asks while the only ingress is dead waits for another."""
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    for port in ("METRICS", "STATS"):  # it opens both on each service
        monkeypatch.setenv(f"RAY_SERVE_HAPROXY_{port}_PORT", str(free_port()))
    (tmp_path / "keys.yaml").write_text(f"client: {KEY}\n")
    config = configuration(2, {"access": {"keys_file": str(tmp_path / "keys.yaml")}}, {"tokens_per_s": 20_000})
    assert config["proxy_location"] == "EveryNode"
    one = RankedList.simulated(0, 300)
    with started(config, tmp_path, KEY) as service:
        service.wait_until_ready(2)
        answer = service.post(one.query, one.documents, headers={"x-request-id": "mine"})
        assert one.problem(answer) is None
        assert answer.json()["meta"]["replicas"] == 2
        assert answer.headers.get_list("x-request-id") == ["mine"]
        refused = httpx.post(f"{service.url}/v1/rerank", json={})
        assert (refused.status_code, refused.json()["error_type"]) == (401, "unauthorized")
        [ingress] = service.replica_processes("Ingress")
        ingress.kill()
        ingress.wait(30)
        assert one.problem(service.post(one.query, one.documents)) is None
        wait_until(lambda: len(service.replica_processes("Ingress")) == 1)
        service.wait_until_idle()
