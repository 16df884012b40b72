"""A reranking service as the playground sees it: its public API, with the visitor's key. Keeps nothing."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

JSON = dict[str, Any]
"""What was sent as JSON: every type."""
_TIMEOUT = httpx.Timeout(130, connect=5)
"""Longer than the service's own limit of a request, so that it is the service that gives up."""
_TIMING = re.compile(r"([\w-]+);dur=([\d.]+)")


class Refused(Exception):
    """The service did not answer with what was asked for."""

    def __init__(self, status: int, code: str, message: str, retry_after_s: int | None = None) -> None:
        super().__init__(status, code, message, retry_after_s)
        self.status, self.code, self.message, self.retry_after_s = status, code, message, retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """What a ranking took and gave."""

    body: JSON
    took_ms: float
    """As the playground saw it, network included."""
    stages_ms: Mapping[str, float] = field(default_factory=dict)
    """What the service says of itself; empty where it says nothing."""


class Service:
    """One service, by its URL."""

    def __init__(self, url: str, trusted: ssl.SSLContext | None = None) -> None:
        """Open no connection yet.

        Args:
            url: Where it is.
            trusted: Certificates to trust. None: those of this machine.
        """
        self._http = httpx.AsyncClient(
            base_url=url.rstrip("/"), timeout=_TIMEOUT, verify=True if trusted is None else trusted, trust_env=False
        )

    async def rerank(self, body: JSON, key: str = "") -> Answer:
        """Have a list ranked.

        Raises:
            Refused: The service says no, or nobody is there.
        """
        return await self._ranked("/v1/rerank", body, key)

    async def search(self, body: JSON, key: str = "") -> Answer:
        """Have documents found and ranked.

        Raises:
            Refused: See there.
        """
        return await self._ranked("/v1/search", body, key)

    async def _ranked(self, path: str, body: JSON, key: str) -> Answer:
        began_s = time.perf_counter()
        response = await self._ask("POST", path, key, body)
        took_ms = (time.perf_counter() - began_s) * 1e3
        stages = {name: float(ms) for name, ms in _TIMING.findall(response.headers.get("server-timing", ""))}
        return Answer(response.json(), took_ms, stages)

    async def get(self, path: str, key: str = "") -> JSON:
        """Ask for what is at a path, as JSON.

        Raises:
            Refused: See there.
        """
        answer: JSON = (await self._ask("GET", path, key)).json()
        return answer

    async def text(self, path: str, key: str = "") -> str:
        """Ask for what is at a path, as text.

        Raises:
            Refused: See there.
        """
        return (await self._ask("GET", path, key)).text

    async def _ask(self, method: str, path: str, key: str, body: JSON | None = None) -> httpx.Response:
        try:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            response = await self._http.request(method, path, json=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL):
            raise Refused(0, "unreachable", "the service cannot be reached") from None
        except ValueError:  # a key that is no text for a header; never quoted
            raise Refused(401, "unauthorized", "this is no API key: it has characters that no key has") from None
        if response.status_code == 200:
            return response
        raise _refusal(response)


def _refusal(response: httpx.Response) -> Refused:
    try:
        said: Any = response.json()  # Any: JSON
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    message, code = said.get("message"), said.get("error_type")
    wait = response.headers.get("retry-after", "")
    return Refused(
        response.status_code,
        code if isinstance(code, str) else "",
        message if isinstance(message, str) else f"HTTP {response.status_code}",
        int(wait) if wait.isdecimal() else None,
    )
