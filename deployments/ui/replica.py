"""The deployment that the playground runs in: loads Gradio for the first visitor, and answers visits with it."""

from __future__ import annotations

import asyncio
import importlib
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from fastapi import FastAPI
from ray.serve.config import HTTPOptions
from ray.serve.context import _get_global_client  # private: Serve tells nowhere else what address it binds

from deployments.ui.asgi import answer
from deployments.ui.service import Service
from deployments.ui.visits import Head, Visit
from reranker.config import UIConfig

logger = logging.getLogger(f"ray.serve.{__name__}")  # Serve shows what is below its own logger


class Playground:
    """One replica, for all pages that are open."""

    def __init__(self, config: UIConfig) -> None:
        """Learn where the service is; load nothing, so that the service's own start is not slowed.

        Args:
            config: The playground's configuration.
        """
        options = _get_global_client().http_config
        own = config.service_url or _url(options)
        trusted = _context(options) if options.ssl_certfile and not config.service_url else None
        self._services = {"this service": Service(own, trusted)}
        self._services |= {name: Service(url) for name, url in config.services.items()}
        self._loading: asyncio.Task[FastAPI] | None = None
        self._open = AsyncExitStack()

    async def answer(self, visit: Visit) -> AsyncIterator[Head | bytes]:
        """Answer one visit: its head, then its body."""
        if self._loading is None or (self._loading.done() and self._loading.exception()):
            self._loading = asyncio.ensure_future(self._load())
        async for part in answer(await asyncio.shield(self._loading), visit):
            yield part

    async def _load(self) -> FastAPI:
        # By name: importing this module must stay cheap.
        try:
            page = await asyncio.to_thread(importlib.import_module, "deployments.ui.page")
            app: FastAPI = await asyncio.to_thread(page.build, self._services)
            await self._open.enter_async_context(app.router.lifespan_context(app))
        except Exception:
            logger.exception("the playground cannot be loaded")
            raise
        return app


def _url(options: HTTPOptions) -> str:
    """Where the service is seen from this machine."""
    host = options.host or "127.0.0.1"
    local = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    scheme = "https" if options.ssl_certfile else "http"
    return f"{scheme}://{f'[{local}]' if ':' in local else local}:{options.port}"


def _context(options: HTTPOptions) -> ssl.SSLContext:
    """Trust the service's own certificate and no other: it is for another name than the one we call it by."""
    context = ssl.create_default_context(cafile=options.ssl_certfile)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context
