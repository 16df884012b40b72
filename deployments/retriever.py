"""The search replicas, as the ingress sees them. Ray's errors end here."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from reranker.config import RerankerConfig
from reranker.dialects.base import JSON, Asked
from reranker.errors import DeadlineExceededError, RerankerError, RetrievalError
from reranker.search import dialect as search
from reranker.search.base import Retrieved

_ATTEMPTS = 3
"""Searches can be made again: a replica that ends takes none along."""

_MAX_CHARACTERS = 20_000
"""Of a query, for the first stage; one that is longer has no room in a prompt, and the reranker says so."""


class Retriever:
    """Finds the documents that a search is to rank."""

    def __init__(self, replicas: DeploymentHandle, config: RerankerConfig) -> None:
        """Ask these replicas.

        Args:
            replicas: Handle of the search deployment.
            config: The service's configuration.
        """
        self._replicas, self._config = replicas, config

    async def retrieve(self, asked: Asked) -> Asked:
        """Find candidates, and give the request again with them as its documents.

        Raises:
            InvalidRequestError: There is no such index or first stage, or more is asked for than there may be.
            IndexUnavailableError: The index cannot be read.
            RetrievalError: What finds candidates did not answer.
            DeadlineExceededError: Time was up before they were found.
        """
        body: search.SearchBody = asked.body
        count = search.count_of(asked, self._config)
        timeout_s = self._config.limits.bounded_s(asked.lists[0].timeout_s)
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + timeout_s
        query = asked.lists[0].query[:_MAX_CHARACTERS]
        try:
            async with asyncio.timeout_at(deadline_s):
                retrieved: Retrieved = await self._call(
                    "search", body.index, body.first_stage, query, count, body.wanted()
                )
        except TimeoutError:
            raise DeadlineExceededError(timeout_s) from None
        return search.found(asked, retrieved, self._config, max(0.001, deadline_s - loop.time()))

    async def indexes(self) -> JSON:
        """Say what there is to search."""
        return await self._call("describe")

    async def _call(self, method: str, *arguments: object) -> Any:  # Any: what the method gives
        for attempt in range(_ATTEMPTS):
            try:
                return await getattr(self._replicas, method).remote(*arguments)
            except RayTaskError as error:
                raise (error.cause if isinstance(error.cause, RerankerError) else RetrievalError()) from None
            except (RayActorError, RayServeException):
                if attempt == _ATTEMPTS - 1:
                    raise RetrievalError from None
        raise AssertionError("unreachable")
