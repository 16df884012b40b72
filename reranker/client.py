"""Ask a running service to rank documents, from Python. Never loads a model.

>>> client = RerankerClient("http://127.0.0.1:8000")
>>> client.rerank("capital of China", ["Gravity attracts bodies.", "Beijing is the capital of China."], top_n=1)
[ScoredDocument(index=1, relevance_score=0.98..., truncated=False)]
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import httpx

from reranker.errors import ClientError, RerankerError, ServiceError, every_class

DEFAULT_URL = "http://127.0.0.1:8000"
_RETRIED = frozenset({429, 503})  # "not now": overload, or no engine yet
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """One line of an answer."""

    index: int
    """Position in the documents given."""
    relevance_score: float
    """In [0, 1]."""
    truncated: bool = False
    """The document was too long and lost tokens."""


@dataclass(frozen=True, slots=True)
class FoundDocument:
    """One line of a search's answer."""

    id: str
    """Of the document."""
    chunk: int
    """Of the document's chunks, from 0."""
    relevance_score: float | None
    """In [0, 1]. None: the search was without reranking."""
    first_stage_score: float
    first_stage_rank: int
    """From 1."""
    text: str = ""
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON


class UnreachableError(ServiceError):
    """Nothing answers at the URL, or what answers is not our service."""

    code = "unreachable"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason

    def __str__(self) -> str:
        return f"no reranking service at {self.url} ({self.reason}); start one with `make serve`, or give another URL"


class RerankerClient:
    """A connection pool to one service. Safe to use from several threads; close it, or use it in a `with`."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        model: str | None = None,
        timeout_s: float = 300,
        retries: int = 5,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Open no connection yet.

        Args:
            url: Where the service is.
            api_key: For a service that needs one.
            model: An adapter that the service has, by name. None, or any other name: the service's model itself.
            timeout_s: Longest wait for one answer.
            retries: How often to ask again after a 429 or 503, waiting as long as its `Retry-After` says.
            sleep: Waits so many seconds; for tests.
        """
        self.url = url.rstrip("/")
        self._model = model
        self._retries = retries
        self._sleep = sleep
        try:
            headers = {"Authorization": f"Bearer {api_key}"} if api_key else None
            self._http = httpx.Client(base_url=self.url, timeout=timeout_s, headers=headers)
        except httpx.InvalidURL as error:
            raise UnreachableError(url, str(error)) from None

    def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None, instruction: str | None = None
    ) -> list[ScoredDocument]:
        """Rank documents by their relevance to a query.

        Args:
            query: The query.
            documents: The candidates.
            top_n: Return only the best so many.
            instruction: What "relevant" means here; None: the service's default.

        Returns:
            Best first. Documents that the service's own rules exclude are not in it.

        Raises:
            UnreachableError: No service there.
            RerankerError: What the service refused or failed with, in the class that its `error_type` names, such as
                QueryTooLongError; `str()` is the service's own sentence.
        """
        body = {"query": query, "documents": list(documents), "top_n": top_n, "instruction": instruction}
        body |= {"model": self._model}
        answer = self._ask("/v1/rerank", body)
        try:
            return [
                ScoredDocument(int(one["index"]), float(one["relevance_score"]), bool(one.get("truncated")))
                for one in answer["results"]
            ]
        except (KeyError, TypeError, ValueError):
            raise UnreachableError(self.url, "what answers there gave no ranking") from None

    def search(
        self,
        query: str,
        *,
        index: str | None = None,
        top_n: int | None = None,
        candidates: int | None = None,
        filter: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        score_threshold: float | None = None,
        first_stage: str | None = None,
        max_per_document: int | None = None,
        rerank: bool = True,
    ) -> list[FoundDocument]:
        """Find the documents of an index that answer a query, and rank them; see docs/search.md.

        Args:
            query: The query.
            index: Its name; None: the service's default.
            top_n: Return only the best so many; None: 10; 0: all candidates.
            candidates: How many the first stage finds; None: as configured.
            filter: Only documents with this metadata.
            instruction: What "relevant" means here; None: the index's.
            score_threshold: Leave out what has a lower relevance score.
            first_stage: "bm25", "dense", "hybrid" or "milvus"; None: the index's default.
            max_per_document: Return at most so many chunks of one document.
            rerank: False: in the order of the first stage.

        Returns:
            Best first.

        Raises:
            UnreachableError: No service there.
            RerankerError: As `rerank`.
        """
        body = {
            "query": query,
            "index": index,
            "top_n": top_n,
            "candidates": candidates,
            "filter": filter,
            "instruction": instruction,
            "score_threshold": score_threshold,
            "first_stage": first_stage,
            "max_per_document": max_per_document,
            "rerank": rerank,
        }
        answer = self._ask("/v1/search", body)
        try:
            return [
                FoundDocument(
                    one["id"],
                    one["chunk"],
                    one.get("relevance_score"),
                    one["first_stage_score"],
                    one["first_stage_rank"],
                    one.get("text", ""),
                    one.get("title", ""),
                    one.get("metadata", {}),
                )
                for one in answer["results"]
            ]
        except (KeyError, TypeError):
            raise UnreachableError(self.url, "what answers there found nothing in our form") from None

    def models(self) -> list[str]:
        """Names of the service's model and of its adapters; raises as `rerank` does."""
        answer = self._ask("/v1/models")
        try:
            return [str(one["id"]) for one in answer["data"]]
        except (KeyError, TypeError):
            raise UnreachableError(self.url, "what answers there gave no list of models") from None

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        self.close()

    def _ask(self, path: str, body: Mapping[str, object] | None = None) -> Any:  # Any: JSON
        """Send what is not None of a body; without one, GET."""
        given = None if body is None else {key: value for key, value in body.items() if value is not None}
        for attempt in range(self._retries + 1):
            try:
                response = self._http.request("GET" if given is None else "POST", path, json=given)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UnreachableError(self.url, str(error) or type(error).__name__) from None
            if response.status_code not in _RETRIED or attempt == self._retries:
                break
            self._sleep(_wait_s(response.headers.get("retry-after"), attempt))
        try:
            answer = response.json()
        except ValueError:
            raise UnreachableError(self.url, f"HTTP {response.status_code}, not in JSON") from None
        if response.status_code != 200:
            raise _error(answer if isinstance(answer, dict) else {}, response)
        return answer


class _Answered(RerankerError):
    """Mixed into one of our error classes: says what the service said, instead of what the class would say."""

    def __init__(self, message: str, field: str) -> None:
        # Not super(): the class's own wants the numbers that the message was made of.
        Exception.__init__(self, message, field)
        self.message, self.field = message, field

    def __str__(self) -> str:
        return self.message


def rebuild_error(code: str, status: int, message: str, field: str = "") -> RerankerError:
    """Make the error that a service reported, as an instance of the class in errors.py that has its code.

    A code that this version does not know becomes a ClientError (4xx) or a ServiceError.
    """
    base = _classes().get(code) or (ClientError if 400 <= status < 500 else ServiceError)
    made = type(
        base.__name__,
        (_Answered, base),
        {
            "code": code,
            "status_code": status,
            "__doc__": base.__doc__,
            # The class is made here, so pickle cannot find it by name.
            "__reduce__": lambda _self: (rebuild_error, (code, status, message, field)),
        },
    )
    error: RerankerError = made(message, field)
    return error


def _error(answer: dict[str, Any], response: httpx.Response) -> RerankerError:  # Any: JSON
    said = answer.get("message")
    message = said if isinstance(said, str) and said else f"HTTP {response.status_code} {response.reason_phrase}"
    code, field = answer.get("error_type"), answer.get("field")
    return rebuild_error(
        code if isinstance(code, str) else "", response.status_code, message, field if isinstance(field, str) else ""
    )


def _classes() -> dict[str, type[RerankerError]]:
    """Return the classes of errors.py by their code; of two with the same code, the more general one."""
    return {one.code: one for one in reversed(every_class())}


def _wait_s(retry_after: str | None, attempt: int) -> float:
    """Seconds to wait: what Retry-After says (seconds or a date); without one longer each time, and not in step."""
    try:
        wait = float(retry_after or "")
    except ValueError:
        try:
            wait = (parsedate_to_datetime(retry_after or "") - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):
            wait = _FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1)  # noqa: S311 - no cryptography
    return min(max(wait, 0.0), _LONGEST_WAIT_S)
