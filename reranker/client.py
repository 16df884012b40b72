"""Ask a running service to rank documents, from Python. Never loads a model.

>>> client = RerankerClient("http://127.0.0.1:8000")
>>> client.rerank("capital of China", ["Gravity attracts bodies.", "Beijing is the capital of China."], top_n=1)
[ScoredDocument(index=1, relevance_score=0.98..., truncated=False)]
"""

from __future__ import annotations

import contextlib
import math
import random
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Self, TypeVar

import httpx
from pydantic import AliasChoices, BaseModel, Field, ValidationError
from tenacity import AsyncRetrying, RetryCallState, Retrying, retry_if_result, stop_after_attempt

from reranker.errors import ClientError, RerankerError, ServiceError, UnreachableError, every_class

DEFAULT_URL = "http://127.0.0.1:8000"
_RETRIED = frozenset({429, 503})  # "not now": overload, or no engine yet
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_CLASSES = {one.code: one for one in reversed(every_class())}
"""By code; of two with the same code, the more general one."""


@dataclass(frozen=True, slots=True)
class RelevantSpan:
    """A part of a document, `[start, end)` in its characters, that made it relevant."""

    start: int
    end: int
    score: float
    """On the scale of the documents' relevance scores."""


@dataclass(frozen=True, slots=True)
class ScoredDocument:
    """One line of an answer."""

    index: int
    """Position in the documents given."""
    relevance_score: float
    """In [0, 1]."""
    truncated: bool = False
    """The document was too long and lost tokens."""
    relevant_spans: tuple[RelevantSpan, ...] = ()
    """Best first, where they were asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDocument:
    """One line of a search's answer."""

    id: str
    chunk: int
    """Of the document's chunks, from 0."""
    relevance_score: float | None = None
    """In [0, 1]. None: the search was without reranking."""
    first_stage_score: float
    first_stage_rank: int
    """From 1."""
    text: str = ""
    title: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)  # Any: JSON
    relevant_spans: tuple[RelevantSpan, ...] = ()
    """Of the text, best first, where they were asked for."""


class _Model(BaseModel):
    id: str
    cascade: tuple[str, ...] = ()


_Line = TypeVar("_Line")


class _Listing(BaseModel, Generic[_Line]):
    lines: list[_Line] = Field(validation_alias=AliasChoices("results", "data"))
    truncated: frozenset[int] = frozenset()


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

        `model` is the name of one of the service's models, cascades or adapters; None, or any other name: its default
        (a service may refuse other names). `retries` is how often to ask again after a 429 or 503, having waited as
        long as its `Retry-After` says.
        """
        self.url = url.rstrip("/")
        self._model = model
        self._retries = retries
        self._sleep = sleep
        with _reachable(url):
            self._http = httpx.Client(base_url=self.url, timeout=timeout_s, headers=_authorization(api_key))

    def rerank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        instruction: str | None = None,
        relevant_spans: bool | Mapping[str, Any] = False,
    ) -> list[ScoredDocument]:
        """Rank documents by their relevance to a query, best first, without those that the service's rules exclude.

        `instruction` says what "relevant" means here; None: the service's default. `relevant_spans`: which parts of a
        document made it relevant, True or the API's options (docs/evidence.md): `{"threshold": 0.3, "max_spans": 2}`.

        Raises:
            UnreachableError: No service there.
            RerankerError: What the service refused or failed with, in the class that its `error_type` names, such as
                QueryTooLongError; `str()` is the service's own sentence.
        """
        body: dict[str, object] = {"query": query, "documents": list(documents), "top_n": top_n}
        body |= {"instruction": instruction, "relevant_spans": _spans(relevant_spans)}
        ranking = self._ask(_Listing[ScoredDocument], "ranking", "/v1/rerank", body | {"model": self._model})
        return [replace(one, truncated=one.index in ranking.truncated) for one in ranking.lines]

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
        relevant_spans: bool | Mapping[str, Any] = False,
    ) -> list[FoundDocument]:
        """Find the documents of an index that answer a query, and rank them, best first. Raises as `rerank`.

        All options are the API's (docs/search.md); None: as configured. `filter` is on metadata. `candidates` is how
        many the first stage ("bm25", "dense", "hybrid" or "milvus") finds, `top_n` how many are returned (None: 10;
        0: all), `max_per_document` how many chunks of one document. Without `rerank`: in the first stage's order.
        """
        body: dict[str, object] = {"query": query, "index": index, "top_n": top_n, "candidates": candidates}
        body |= {"filter": filter, "instruction": instruction, "score_threshold": score_threshold}
        body |= {"first_stage": first_stage, "max_per_document": max_per_document, "rerank": rerank}
        body |= {"relevant_spans": _spans(relevant_spans), "model": self._model}
        return self._ask(_Listing[FoundDocument], "search results", "/v1/search", body).lines

    def models(self) -> list[str]:
        """Names of the models, the default first, of adapters and cascades; raises as `rerank` does."""
        return [one.id for one in self._listed()]

    def cascades(self) -> list[str]:
        """Which of them are cascades: a document's score depends on the others of its list."""
        return [one.id for one in self._listed() if one.cascade]

    def _listed(self) -> list[_Model]:
        return self._ask(_Listing[_Model], "list of models", "/v1/models").lines

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self, listing: type[_Listing[_Line]], wanted: str, path: str, body: Mapping[str, object] | None = None
    ) -> _Listing[_Line]:
        """Send what is not None of a body; without one, GET. `wanted` names the listing in words."""
        given = None if body is None else {key: value for key, value in body.items() if value is not None}
        retrying = Retrying(**_retry_policy(self._retries), sleep=self._sleep)
        with _reachable(self.url):
            response = retrying(self._http.request, "GET" if given is None else "POST", path, json=given)
        try:
            return listing.model_validate_json(_answered(response, self.url).content)
        except ValidationError:
            raise UnreachableError(self.url, f"what answers there gave no {wanted}") from None


class AsyncRerankerClient:
    """For asyncio, and for the service's whole answers: any path of its API, with a key for each request."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 300,
        retries: int = 5,
        verify: ssl.SSLContext | bool = True,
        trust_env: bool = True,
    ) -> None:
        """Open no connection yet; `verify` and `trust_env` are httpx's, all else as for `RerankerClient`."""
        self.url = url.rstrip("/")
        self._retries = retries
        timeout = httpx.Timeout(timeout_s, connect=5.0)
        with _reachable(url):
            self._http = httpx.AsyncClient(base_url=self.url, timeout=timeout, verify=verify, trust_env=trust_env)

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, api_key: str | None = None
    ) -> httpx.Response:
        """Ask for anything that the API has, with a body in JSON, and give the answer. Raises as `RerankerClient`."""
        headers = _authorization(api_key)
        retrying = AsyncRetrying(**_retry_policy(self._retries))
        with _reachable(self.url):
            response: httpx.Response = await retrying(self._http.request, method, path, json=body, headers=headers)
        return _answered(response, self.url)

    async def aclose(self) -> None:
        await self._http.aclose()


def _spans(asked: bool | Mapping[str, Any]) -> Mapping[str, Any] | None:  # Any: JSON
    if asked is False:
        return None
    return {"mode": "enabled"} if asked is True else {"mode": "enabled", **asked}


def _authorization(api_key: str | None) -> dict[str, str]:
    if not api_key:
        return {}
    if not (api_key.isascii() and api_key.isprintable()):  # no header can carry it; and httpx's error would quote it
        raise rebuild_error("unauthorized", 401, "this is no API key: it has characters that no key has")
    return {"Authorization": f"Bearer {api_key}"}


@contextlib.contextmanager
def _reachable(url: str) -> Iterator[None]:
    """Turn what httpx raises into our error. A lost connection is not tried again: the list may be scored already."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreachableError(url, str(error) or type(error).__name__) from None


def _retry_policy(retries: int) -> dict[str, Any]:  # Any: tenacity's own options, each of another type
    return {
        "retry": retry_if_result(lambda response: response.status_code in _RETRIED),
        "stop": stop_after_attempt(retries + 1),
        "wait": _wait_s,
        "retry_error_callback": lambda state: state.outcome.result(),
    }


def _wait_s(state: RetryCallState) -> float:
    """Seconds until the next attempt: as Retry-After says; without one longer each time, and not in step."""
    wait: float | None = _retry_after_s(state.outcome.result())  # type: ignore[union-attr]  # there is one after each attempt
    if wait is None:
        wait = _FIRST_WAIT_S * 2 ** (state.attempt_number - 1) * random.uniform(0.5, 1)  # noqa: S311 - no cryptography
    return min(wait, _LONGEST_WAIT_S)


def _retry_after_s(response: httpx.Response) -> int | None:
    """Read Retry-After, which gives seconds or a date. None: it is not there, or neither."""
    said = response.headers.get("retry-after", "")
    try:
        if said.isdecimal():
            return int(said)
        return max(math.ceil((parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()), 0)
    except (TypeError, ValueError):
        return None


def _answered(response: httpx.Response, url: str) -> httpx.Response:
    """Give the response if it is an answer; raise what the service says otherwise."""
    if response.status_code == 200:
        return response
    try:
        answer = response.json()
    except ValueError:
        raise UnreachableError(url, f"HTTP {response.status_code}, not in JSON") from None
    texts = {name: said for name, said in answer.items() if isinstance(said, str)} if isinstance(answer, dict) else {}
    message = texts.get("message") or f"HTTP {response.status_code} {response.reason_phrase}"
    code, field = texts.get("error_type", ""), texts.get("field", "")
    raise rebuild_error(code, response.status_code, message, field, _retry_after_s(response))


def rebuild_error(
    code: str, status: int, message: str, field: str = "", retry_after_s: int | None = None
) -> RerankerError:
    """Make the error that a service reported, as an instance of the class in errors.py that has its code.

    A code that this version does not know becomes a ClientError (4xx) or a ServiceError.
    """
    base = _CLASSES.get(code) or (ClientError if 400 <= status < 500 else ServiceError)
    attributes: dict[str, Any] = {  # Any: a class's
        "code": code,
        "status_code": status,
        "field": field,
        "__doc__": base.__doc__,
        "__init__": Exception.__init__,  # the class's own wants the numbers that the message was made of
        "__str__": lambda _: message,
        # The class is made here, so pickle cannot find it by name.
        "__reduce__": lambda _: (rebuild_error, (code, status, message, field, retry_after_s)),
    }
    if retry_after_s is not None:
        attributes["retry_after_s"] = retry_after_s
    error: RerankerError = type(base.__name__, (base,), attributes)(message)
    return error
