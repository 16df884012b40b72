"""Nobody waits any more, so nobody works any more: what a client leaves behind is gone from every replica."""

from __future__ import annotations

import contextlib
import json
import socket
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.integration.conftest import Service
from tests.integration.traffic import QUERY, RankedList, documents, wait_until, work_tokens

LONG = documents(4_000)  # some four seconds for four replicas
CLIENTS, WORK_S, SOON_S = 6, 23, 6


def _hang_up_early(service: Service, headers: dict[str, str]) -> None:
    body = {"query": QUERY, "documents": LONG}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service.url}/v1/rerank", json=body, headers=headers, timeout=httpx.Timeout(30, read=0.5))


@pytest.mark.parametrize(
    "headers", [{}, {"X-Request-Disconnect-Disabled": "?1"}], ids=["as is", "asking Ray to keep the work"]
)
def test_work_of_clients_that_hang_up_is_dropped(simulated: Service, headers: dict[str, str]) -> None:
    """They would have had the replicas for another twenty seconds."""
    assert CLIENTS * work_tokens(QUERY, LONG) > WORK_S * 4 * 10_000
    with ThreadPoolExecutor(CLIENTS) as pool:
        for gone in [pool.submit(_hang_up_early, simulated, headers) for _ in range(CLIENTS)]:
            gone.result()
    simulated.wait_until_idle(SOON_S)
    one = RankedList.simulated(1, 300)
    assert one.problem(simulated.post(one.query, one.documents)) is None


def test_connection_cut_in_the_middle_of_the_work_drops_it(simulated: Service) -> None:
    """As when a client's process is killed: nothing is said, the socket is closed."""
    body = json.dumps({"query": QUERY, "documents": LONG}).encode()
    request = f"POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    with contextlib.closing(socket.create_connection(("127.0.0.1", simulated.port))) as connection:
        connection.sendall(request)
        wait_until(lambda: sum(replica["pending_tokens"] for replica in simulated.load()["replicas"]) > 0)
    simulated.wait_until_idle()


def test_connection_cut_before_the_body_is_here_leaves_nothing(simulated: Service) -> None:
    with contextlib.closing(socket.create_connection(("127.0.0.1", simulated.port))) as connection:
        connection.sendall(b'POST /v1/rerank HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"query"')
    simulated.wait_until_idle()
    assert simulated.rerank(QUERY, documents(10))["results"]
