"""The playground's Serve application. Gradio is loaded for the first visitor, so that no start waits for it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import ssl
from contextlib import AsyncExitStack

from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.context import _get_global_client  # private: Serve tells nowhere else what address it binds
from starlette.types import ASGIApp, Message

from deployments.http.address import local_url
from deployments.http.playground import Answer, PageRequest, ResponseHead
from reranker.client import AsyncRerankerClient
from reranker.config import UIConfig

logger = logging.getLogger(f"ray.serve.{__name__}")  # Serve shows what is below its own logger

_TIMEOUT_S = 130
"""Longer than the service's own limit of a request, so that it is the service that gives up."""
_DISCONNECT_S = 2.0
"""The time that an application has to end once it was told that its client is gone."""


def build_ui(args: dict[str, object]) -> Application:
    """Wire the playground's application; `args` are those of `UIConfig`."""
    environment = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    deployment = serve.deployment(Playground).options(
        num_replicas=1,  # Gradio keeps what belongs to an open page in its process
        max_ongoing_requests=256,  # an open page holds one or two
        max_queued_requests=64,
        # It waits more than it computes.
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": environment}},
        graceful_shutdown_timeout_s=2,  # an open page holds a connection for as long as it is open
    )
    return deployment.bind(UIConfig.model_validate(args))


class Playground:
    """One replica, for all pages that are open."""

    def __init__(self, config: UIConfig) -> None:
        """Learn where the service is; load nothing."""
        options = _get_global_client().http_config
        tls = bool(options.ssl_certfile)
        own = config.service_url or local_url(options.host or "127.0.0.1", options.port, tls=tls)
        trusted = _context(options.ssl_certfile) if tls and not config.service_url else True
        self._services = {"this service": _service(own, trusted)}
        self._services |= {name: _service(url) for name, url in config.services.items()}
        self._loading: asyncio.Task[FastAPI] | None = None
        self._lifespan = AsyncExitStack()

    async def answer(self, request: PageRequest) -> Answer:
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.ensure_future(self._load())
        async for part in stream(await asyncio.shield(self._loading), request):
            yield part

    async def _load(self) -> FastAPI:
        try:
            # By name: importing this module must stay cheap.
            page = await asyncio.to_thread(importlib.import_module, "deployments.ui.page")
            app: FastAPI = await asyncio.to_thread(page.build, self._services)
            await self._lifespan.enter_async_context(app.router.lifespan_context(app))
        except Exception:
            logger.exception("the playground cannot be loaded")
            raise
        return app


async def stream(app: ASGIApp, request: PageRequest) -> Answer:
    """Answer one request with an ASGI application, part by part as a server would, streams of events included.

    What the application has sent meanwhile comes in one piece. It hears of a client that hangs up when the generator is
    closed. What it raises is raised here.
    """
    outgoing: asyncio.Queue[Message | None] = asyncio.Queue()
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    incoming.put_nowait({"type": "http.request", "body": request.body, "more_body": False})
    running = asyncio.ensure_future(app(request.scope, incoming.get, outgoing.put))
    running.add_done_callback(lambda _: outgoing.put_nowait(None))
    try:
        messages: list[Message | None] = []
        while None not in messages:
            messages = [await outgoing.get()]
            while not outgoing.empty():
                messages.append(outgoing.get_nowait())
            if messages[0] and "status" in messages[0]:
                yield ResponseHead(messages[0]["status"], tuple(messages[0].get("headers", ())))
            if body := b"".join(message.get("body", b"") for message in messages if message):
                yield body
        await running
    finally:
        if not running.done():
            incoming.put_nowait({"type": "http.disconnect"})
            await asyncio.wait([running], timeout=_DISCONNECT_S)
            running.cancel()


def _service(url: str, verify: ssl.SSLContext | bool = True) -> AsyncRerankerClient:
    # No retries: the page says at once what the service said. No proxies: the service may be on this very machine.
    return AsyncRerankerClient(url, timeout_s=_TIMEOUT_S, retries=0, verify=verify, trust_env=False)


def _context(certificate: str) -> ssl.SSLContext:
    """Trust the service's own certificate and no other: it is for another name than the one we call it by."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
