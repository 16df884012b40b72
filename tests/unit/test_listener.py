"""The service's own HTTP server, over real connections: replicas share an address, and cut no client off."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from deployments.http import SERVICE_HEADER
from deployments.http.access import Keyring
from deployments.http.middleware import RequestMiddleware
from deployments.http.server import LimitedProtocol, Listener, listen
from reranker.config import AccessConfig, LimitsConfig
from reranker.errors import ConfigurationError, NotReadyError
from tests.integration.conftest import free_port


class App:
    """Answers with its name, once it may."""

    def __init__(self, name: str) -> None:
        self.name, self.service, self.may_answer = name, "", asyncio.Event()
        self.started, self.cancelled = asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:  # Any: ASGI's dictionaries
        assert scope["type"] == "http"
        while (await receive()).get("more_body", False):
            pass
        try:
            if scope["path"] != "/health":
                self.started.set()
                await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        headers = [(SERVICE_HEADER.encode(), self.service.encode())] if scope["path"] == "/health" else []
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.name.encode()})


def _options(port: int) -> Any:  # stands for Serve's HTTPOptions
    no_tls = dict.fromkeys(("ssl_keyfile", "ssl_certfile", "ssl_keyfile_password", "ssl_ca_certs"))
    return SimpleNamespace(host="127.0.0.1", port=port, keep_alive_timeout_s=5, **no_tls)


async def _listen(app: App, port: int, service: str = "ours") -> Listener:
    # In a thread: who comes second asks the first who it is, and here both are served by one event loop.
    listening = await asyncio.to_thread(listen, _options(port), service)
    app.service = service
    listener: Listener
    front = RequestMiddleware(app, LimitsConfig(), Keyring(AccessConfig()), draining=lambda: listener.draining)
    listener = Listener(front, _options(port), listening)
    return listener


@pytest.fixture(autouse=True)
def short_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.http.server._LINGER_S", 0.2)


@pytest.fixture
def port() -> int:
    return free_port()


async def test_replicas_of_a_service_share_its_address(port: int) -> None:
    first, second = await _listen(App("a"), port), await _listen(App("b"), port)
    answers = set()
    for _ in range(50):
        async with httpx.AsyncClient() as client:
            answers.add((await client.get(f"http://127.0.0.1:{port}/")).text)
    assert answers == {"a", "b"}
    assert first.healthy
    await asyncio.gather(first.drain(5), second.drain(5))
    assert not first.healthy


async def test_no_other_service_comes_to_listen_there(port: int) -> None:
    """The kernel would share out the clients of both among both."""
    first = await _listen(App("a"), port, service="theirs")
    with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
        await _listen(App("b"), port)
    await first.drain(5)


async def test_port_of_something_else_is_refused(port: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        with pytest.raises(ConfigurationError, match="cannot listen"):
            await _listen(App("a"), port)


async def test_answer_ends_when_its_client_has_hung_up(port: int) -> None:
    """Else engines would go on for nobody."""
    app = App("a")
    app.may_answer.clear()
    listener = await _listen(app, port)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
    await app.started.wait()
    writer.close()
    await asyncio.wait_for(app.cancelled.wait(), 10)
    await listener.drain(5)


async def test_closed_connection_keeps_nothing(port: int) -> None:
    """Not until Python looks for what only refers to itself: an ingress lets it look in old objects once a minute."""
    listener = await _listen(App("a"), port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    gc.disable()
    try:
        writer.write(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc")
        await reader.readuntil(b"\r\n")
        [protocol] = [weakref.ref(one) for one in gc.get_objects() if type(one) is LimitedProtocol]
        writer.close()
        await asyncio.sleep(0.2)
        assert protocol() is None
    finally:
        gc.enable()
    await listener.drain(5)


async def test_draining_loses_no_request(port: int) -> None:
    """What was asked is answered, and its connection ends; who comes now gets to the replica that stays."""
    old, new = App("old"), App("new")
    old.may_answer.clear()
    listener = await _listen(old, port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        asked = asyncio.ensure_future(client.get("/"))
        await old.started.wait()
        successor = await _listen(new, port)
        draining = asyncio.ensure_future(listener.drain(30))
        await asyncio.sleep(0.1)
        for _ in range(20):
            async with httpx.AsyncClient() as other:
                assert (await other.get(f"http://127.0.0.1:{port}/")).text == "new"
        old.may_answer.set()
        answer = await asked
        assert (answer.text, answer.headers["connection"]) == ("old", "close")
        await draining
        assert (await client.get("/")).text == "new"
    await successor.drain(5)


async def test_draining_answers_who_is_connected_and_not_accepted_yet(port: int) -> None:
    """A busy process accepts late, and the kernel resets what waits at an address that is closed."""
    listener = await _listen(App("a"), port)
    await asyncio.sleep(0.1)
    with socket.create_connection(("127.0.0.1", port)) as waiting:  # blocks, so that nobody can accept it meanwhile
        waiting.sendall(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        await asyncio.wait_for(listener.drain(5), 20)
        assert waiting.recv(1_000).startswith(b"HTTP/1.1 200")


async def test_connection_that_nobody_uses_does_not_hold_up_the_end(port: int) -> None:
    listener = await _listen(App("a"), port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        await client.get("/")
        await asyncio.wait_for(listener.drain(60), 20)


async def test_what_takes_too_long_is_cut_in_the_end(port: int) -> None:
    app = App("a")
    app.may_answer.clear()
    listener = await _listen(app, port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        asked = asyncio.ensure_future(client.get("/"))
        await app.started.wait()
        await asyncio.wait_for(listener.drain(1), 20)
        answer = await asked
        assert (answer.status_code, answer.json()["error_type"]) == (503, NotReadyError.code)


async def test_leaving_is_said_for_a_while_before_the_port_closes(port: int) -> None:
    """A load balancer on another machine sends requests until it has noticed."""
    listener = await _listen(App("a"), port)
    draining = asyncio.ensure_future(listener.drain(5, notice_s=1))
    await asyncio.sleep(0)
    assert listener.draining
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        answers = [await client.get("/") for _ in range(5)]
        assert {(one.text, one.headers["connection"]) for one in answers} == {("a", "close")}
        await draining
        with pytest.raises(httpx.ConnectError):
            await client.get("/")


async def test_leaving_is_not_said_where_another_replica_has_the_address(port: int) -> None:
    """Whoever asks whether this machine takes requests is answered by the one that stays."""
    old, new = await _listen(App("a"), port), await _listen(App("b"), port)
    draining = asyncio.ensure_future(old.drain(5, notice_s=60))
    await asyncio.sleep(0)
    for _ in range(20):
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/")).text == "b"
    async with asyncio.timeout(5):
        await draining
    await new.drain(5)
