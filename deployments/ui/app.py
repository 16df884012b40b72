"""The playground's Serve application. Gradio is loaded for the first visitor, so that no start waits for it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import ssl
import sys
import time
from contextlib import AsyncExitStack

import orjson
from fastapi import FastAPI
from ray import serve
from ray.serve import Application
from ray.serve.context import _get_global_client  # private: Serve tells nowhere else what address it binds
from starlette.types import ASGIApp, Message

from deployments.http.address import local_url
from deployments.http.guard import FEW_ARENAS, limit_log, trim
from deployments.http.playground import PageAnswer, PageRequest
from reranker.client import AsyncRerankerClient
from reranker.config import UIConfig
from reranker.dialects.answers import error_body
from reranker.errors import InternalError

logger = logging.getLogger(f"ray.serve.{__name__}")  # Serve shows what is below its own logger

_TIMEOUT_S = 130
"""Longer than the service's own limit of a request, so that it is the service that gives up."""
_TRACE_PERIOD_S = 60.0
_TRIMMED_BYTES = 16 * 2**20
"""Of requests and answers: after so many, memory is given back."""
_TRIM_AFTER_S = 2.0


def build_ui(args: dict[str, object]) -> Application:
    """Wire the playground's application; `args` are those of `UIConfig`."""
    environment = FEW_ARENAS | {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
    deployment = serve.deployment(Playground).options(
        num_replicas=1,  # Gradio keeps what belongs to an open page in its process
        max_ongoing_requests=64,  # an open page holds none, and one while it asks for something
        max_queued_requests=64,
        # It waits more than it computes.
        ray_actor_options={"num_cpus": 0, "runtime_env": {"env_vars": environment}},
        graceful_shutdown_timeout_s=2,
    )
    return deployment.bind(UIConfig.model_validate(args))


class Playground:
    """One replica, for all pages that are open. Nothing is kept of a request once it is answered."""

    def __init__(self, config: UIConfig) -> None:
        """Learn where the service is; load nothing."""
        limit_log()
        options = _get_global_client().http_config
        tls = bool(options.ssl_certfile)
        own = config.service_url or local_url(options.host or "127.0.0.1", options.port, tls=tls)
        trusted = _context(options.ssl_certfile) if tls and not config.service_url else True
        self._services = {"this service": _service(own, trusted)}
        self._services |= {name: _service(url) for name, url in config.services.items()}
        self._loading: asyncio.Task[FastAPI] | None = None
        self._lifespan = AsyncExitStack()
        self._traced_s = -_TRACE_PERIOD_S
        self._used_bytes = 0

    async def answer(self, request: PageRequest) -> PageAnswer:
        """Answer one request; Serve cancels this when its client has gone."""
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.ensure_future(self._load())
        app = await asyncio.shield(self._loading)
        try:
            answer = await respond(app, request)
        except Exception:  # noqa: BLE001 - it is told of here, and nowhere else
            self._tell()
            content = orjson.dumps(error_body(InternalError()))
            answer = PageAnswer(500, ((b"content-type", b"application/json"),), content)
        self._used_bytes += len(request.body) + len(answer.body)
        if self._used_bytes > _TRIMMED_BYTES:
            self._used_bytes = 0
            asyncio.get_running_loop().call_later(_TRIM_AFTER_S, _give_back)
        return answer

    def _tell(self) -> None:
        """Log the failure that is being handled: its trace once in a while, else a line."""
        error = sys.exception()
        if isinstance(error, asyncio.CancelledError):  # the visitor has gone
            return
        now_s = time.monotonic()
        trace = now_s - self._traced_s >= _TRACE_PERIOD_S
        self._traced_s = now_s if trace else self._traced_s
        logger.error("the playground failed: %s", type(error).__name__, exc_info=error if trace else None)

    async def _load(self) -> FastAPI:
        try:
            # By name: importing this module must stay cheap.
            page = await asyncio.to_thread(importlib.import_module, "deployments.ui.page")
            app: FastAPI = await asyncio.to_thread(page.build, self._services, self._tell)
            await self._lifespan.enter_async_context(app.router.lifespan_context(app))
        except Exception:
            logger.exception("the playground cannot be loaded")
            raise
        return app


async def respond(app: ASGIApp, request: PageRequest) -> PageAnswer:
    """Answer one request with an ASGI application. What it raises is raised here."""
    messages: list[Message] = []
    incoming: asyncio.Queue[Message] = asyncio.Queue()  # nothing follows: whoever hangs up has this cancelled
    incoming.put_nowait({"type": "http.request", "body": request.body, "more_body": False})

    async def send(message: Message) -> None:
        messages.append(message)

    await app(request.scope, incoming.get, send)
    start = messages[0]
    body = b"".join(message.get("body", b"") for message in messages)
    return PageAnswer(start["status"], tuple(start.get("headers", ())), body)


def _give_back() -> None:
    """Give memory back to the system, in a thread."""
    asyncio.get_running_loop().run_in_executor(None, trim)


def _service(url: str, verify: ssl.SSLContext | bool = True) -> AsyncRerankerClient:
    # No retries: the page says at once what the service said. No proxies: the service may be on this very machine.
    return AsyncRerankerClient(url, timeout_s=_TIMEOUT_S, retries=0, verify=verify, trust_env=False)


def _context(certificate: str) -> ssl.SSLContext:
    """Trust the service's own certificate and no other: it is for another name than the one we call it by."""
    context = ssl.create_default_context(cafile=certificate)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
