"""Answer one visit with an ASGI application, part by part as a server would, streams of events included."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.types import ASGIApp, Message

from deployments.ui.visits import Head, Visit

_GOODBYE_S = 2.0
"""So long an application that was told that its client is gone may take to end."""


async def answer(app: ASGIApp, visit: Visit) -> AsyncIterator[Head | bytes]:
    """Give the head of the answer, then the pieces of its body: what has come meanwhile in one.

    The application hears of a client that hangs up when the generator is closed.

    Raises:
        Exception: What the application raised.
    """
    outgoing: asyncio.Queue[Message | None] = asyncio.Queue()
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": visit.body, "more_body": False})
    running = asyncio.ensure_future(app(_scope(visit), incoming.get, outgoing.put))
    running.add_done_callback(lambda _: outgoing.put_nowait(None))
    try:
        ended = False
        while not ended:
            body = bytearray()
            waiting = [await outgoing.get()]
            while not outgoing.empty():
                waiting.append(outgoing.get_nowait())
            for message in waiting:
                if message is None:
                    ended = True
                elif message["type"] == "http.response.start":
                    yield Head(message["status"], tuple(message.get("headers", ())))
                else:
                    body += message.get("body", b"")
            if body:
                yield bytes(body)
        await running
    finally:
        if not running.done():
            incoming.put_nowait({"type": "http.disconnect"})
            await asyncio.wait([running], timeout=_GOODBYE_S)
            running.cancel()


def _scope(visit: Visit) -> Message:
    headers = dict(visit.headers)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},  # 2.3: a stream ends when its client does
        "http_version": "1.1",
        "method": visit.method,
        "scheme": visit.scheme,
        "path": visit.path,
        "raw_path": visit.path.encode(),
        "query_string": visit.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in visit.headers],
        "client": None,
        "server": (headers.get(b"host", b"").decode("latin-1"), None),
    }
