"""Every error we raise, in one tree. The class carries its HTTP status and code; only the ingress reads them.

RerankerError
├── ClientError                 the request must change
│   ├── InvalidRequestError     400
│   │   ├── UnknownInstructionError
│   │   └── UnknownIndexError
│   ├── QueryTooLongError       400
│   ├── UnauthorizedError       401
│   ├── ForbiddenError          403
│   ├── SlowRequestError        408
│   ├── RequestTooLargeError    413
│   │   ├── UrlTooLongError     414
│   │   └── HeadersTooLargeError 431
│   ├── UnknownEncodingError    415
│   └── QuotaExceededError      429; of one key
├── ConfigurationError          the operator must change something; raised before an engine takes a device
│   ├── ModelNotFoundError
│   ├── UnsupportedModelError
│   └── StartupCheckError       raised with the model loaded: it does not score as a reranker does
└── ServiceError                ours, or the machine's
    ├── OverloadedError         429; of the service
    ├── NotReadyError           503
    │   └── StartFailedError
    ├── CacheUnavailableError   503
    ├── IndexUnavailableError   503
    ├── RetrievalError          503
    ├── DeadlineExceededError   504
    ├── EngineFailedError       500; another replica can still score the shard
    │   └── ReplicaLostError
    ├── ScoringError            500
    └── InvalidScoreError       500

Errors cross process borders: every argument goes to `super().__init__`, positionally, because pickle rebuilds from
`args`. No message holds a query or a document.
"""

from __future__ import annotations


class RerankerError(Exception):
    """Base of all errors of this project."""

    status_code: int = 500
    code: str = "internal_error"


class ClientError(RerankerError):
    """The request cannot be answered as it stands; sending it again changes nothing."""

    status_code, code = 400, "bad_request"


class InvalidRequestError(ClientError):
    """A field of the request is missing or has a wrong type or value."""

    code = "invalid_request"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)  # pickle rebuilds from these
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class UnknownInstructionError(InvalidRequestError):
    """The request names an instruction that the configuration does not have."""

    code = "unknown_instruction"

    def __init__(self, known: tuple[str, ...]) -> None:
        super().__init__("instruction", f"no instruction of this name; known are {', '.join(known) or 'none'}")
        self.args = (known,)  # pickle rebuilds from these
        self.known = known


class UnknownIndexError(InvalidRequestError):
    """The request names an index that the configuration does not have."""

    code = "unknown_index"

    def __init__(self, known: tuple[str, ...]) -> None:
        super().__init__("index", f"no index of this name; known are {', '.join(known)}")
        self.args = (known,)  # pickle rebuilds from these
        self.known = known


class RequestTooLargeError(ClientError):
    """The request is larger than the service ever accepts."""

    status_code, code = 413, "request_too_large"

    def __init__(self, field: str, amount: int, limit: int, unit: str) -> None:
        super().__init__(field, amount, limit, unit)
        self.field, self.amount, self.limit, self.unit = field, amount, limit, unit

    def __str__(self) -> str:
        return f"{self.field}: {self.amount} {self.unit}; the limit is {self.limit} in one request"


class UrlTooLongError(RequestTooLargeError):
    """The URL is longer than the service reads."""

    status_code, code = 414, "url_too_long"


class HeadersTooLargeError(RequestTooLargeError):
    """The headers are larger than the service reads."""

    status_code, code = 431, "headers_too_large"


class UnknownEncodingError(ClientError):
    """The body is compressed in a way that the service does not know."""

    status_code, code = 415, "unknown_encoding"

    def __str__(self) -> str:
        return "Content-Encoding: only gzip and deflate are known; or send the body as it is"


class SlowRequestError(ClientError):
    """The client did not send its request in time."""

    status_code, code = 408, "slow_request"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"the request's body did not arrive within {self.timeout_s:g} s"


class UnauthorizedError(ClientError):
    """No API key, or one that the service does not know."""

    status_code, code = 401, "unauthorized"

    def __init__(self, sent: bool) -> None:
        super().__init__(sent)
        self.sent = sent

    def __str__(self) -> str:
        if self.sent:
            return "this API key is not known here; send another as header `Authorization: Bearer KEY`"
        return "an API key is needed; send it as header `Authorization: Bearer KEY`"


class ForbiddenError(ClientError):
    """The API key is known, and may not do this."""

    status_code, code = 403, "forbidden"

    def __str__(self) -> str:
        return "this API key may not do this; a key with `admin: true` may"


class QuotaExceededError(ClientError):
    """The API key has used up what it may have now."""

    status_code, code = 429, "quota_exceeded"

    def __init__(self, amount: str, retry_after_s: int) -> None:
        super().__init__(amount, retry_after_s)
        self.amount, self.retry_after_s = amount, retry_after_s

    def __str__(self) -> str:
        return f"this API key may have {self.amount}; send the request again in {self.retry_after_s} s"


class QueryTooLongError(ClientError):
    """Instruction and query alone leave no room for a document."""

    code = "query_too_long"
    field = "query"

    def __init__(self, tokens: int, limit: int) -> None:
        super().__init__(tokens, limit)
        self.tokens, self.limit = tokens, limit

    def __str__(self) -> str:
        return (
            f"query: with its instruction and the template it needs {self.tokens} tokens; the limit is {self.limit}, "
            f"and a document needs at least one. Shorten it by {self.tokens - self.limit + 1} tokens"
        )


class ConfigurationError(RerankerError):
    """The service cannot start as configured."""

    code = "configuration_error"


class ModelNotFoundError(ConfigurationError):
    """The model is neither a folder here nor to be had from the hub."""

    code = "model_not_found"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return (
            f"model {self.name!r}: no such folder on this machine, and the model hub did not give it ({self.reason}). "
            "Give a local folder, a hub id such as Qwen/Qwen3-Reranker-0.6B, or 'demo' for the bundled model"
        )


class UnsupportedModelError(ConfigurationError):
    """The checkpoint is there, but it is not one we can score with."""

    code = "unsupported_model"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason

    def __str__(self) -> str:
        return f"model {self.name!r} cannot be served: {self.reason}"


class StartupCheckError(ConfigurationError):
    """The model was loaded, but it does not score as a reranker does."""

    code = "startup_check_failed"

    def __init__(self, check: str, measured: str, cause: str) -> None:
        super().__init__(check, measured, cause)
        self.check, self.measured, self.cause = check, measured, cause

    def __str__(self) -> str:
        return f"the model fails the start-up check {self.check!r} ({self.measured}); likeliest cause: {self.cause}"


class ServiceError(RerankerError):
    """The request was fine; we could not answer it."""

    code = "service_error"


class OverloadedError(ServiceError):
    """The list does not fit beside what is queued already."""

    status_code, code = 429, "overloaded"

    def __init__(self, queue_s: float, retry_after_s: int) -> None:
        super().__init__(queue_s, retry_after_s)
        self.queue_s, self.retry_after_s = queue_s, retry_after_s

    def __str__(self) -> str:
        return (
            f"overloaded: what is queued already takes about {self.queue_s:.1f} s; "
            f"send the request again in {self.retry_after_s} s"
        )


class NotReadyError(ServiceError):
    """No engine can score yet."""

    status_code, code = 503, "not_ready"
    retry_after_s = 5
    status = "starting"
    """What /health says of it."""

    def __str__(self) -> str:
        return "no engine is ready to score yet; try again in a few seconds"


class StartFailedError(NotReadyError):
    """No engine can score, and the service has given up starting one."""

    code = "start_failed"
    status = "failed"

    def __str__(self) -> str:
        return "no engine could be started; the service's log says why"


class PlaygroundUnavailableError(ServiceError):
    """The playground is starting, or has ended."""

    status_code, code = 503, "playground_unavailable"
    retry_after_s = 2

    def __str__(self) -> str:
        return "the playground does not answer now; try again in a few seconds"


class NoPlaygroundError(RerankerError):
    """The service runs without the playground."""

    status_code, code = 404, "no_playground"

    def __str__(self) -> str:
        return "this service runs without the playground; docs/playground.md says how to add it"


class CacheUnavailableError(ServiceError):
    """What is remembered in Redis could not be forgotten."""

    status_code, code = 503, "cache_unavailable"

    def __str__(self) -> str:
        return "Redis did not answer, or not to the end: of the scores in it some are still there; try again"


class IndexUnavailableError(ServiceError):
    """The index that a search asks for cannot be read."""

    status_code, code = 503, "index_unavailable"
    retry_after_s = 5

    def __init__(self, index: str) -> None:
        super().__init__(index)  # pickle rebuilds from these
        self.index = index

    def __str__(self) -> str:
        return f"the index {self.index} cannot be read now; the service's log says why"


class RetrievalError(ServiceError):
    """What finds the candidates of a search did not answer, or not rightly."""

    status_code, code = 503, "retrieval_failed"
    retry_after_s = 5

    def __str__(self) -> str:
        return "the search for candidates failed; the service's log has more"


class DeadlineExceededError(ServiceError):
    """The list was not scored in time."""

    status_code, code = 504, "deadline_exceeded"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s

    def __str__(self) -> str:
        return f"the list was not scored within {self.timeout_s:g} s"


class EngineFailedError(ServiceError):
    """The engine of a replica stopped working."""

    code = "engine_failed"

    def __str__(self) -> str:
        return "the engine that was scoring this list failed"


class ReplicaLostError(EngineFailedError):
    """A replica ended, or cannot be reached, with a shard in its hands."""

    code = "replica_lost"

    def __init__(self, attempts: int = 1) -> None:
        super().__init__(attempts)
        self.attempts = attempts

    def __str__(self) -> str:
        return f"the replica that was scoring this list was lost, {self.attempts} times in a row"


class ScoringError(ServiceError):
    """A replica could not score a shard, for a reason that is a bug."""

    code = "scoring_failed"

    def __str__(self) -> str:
        return "the list could not be scored; the service's log has more"


class InvalidScoreError(ServiceError):
    """The model gave a logit that is not a finite number, so no order of the documents can be trusted."""

    code = "invalid_score"

    def __init__(self, index: int, invalid_pairs: int, pairs: int) -> None:
        super().__init__(index, invalid_pairs, pairs)
        self.index, self.invalid_pairs, self.pairs = index, invalid_pairs, pairs

    def __str__(self) -> str:
        return (
            f"the model gave no finite score for {self.invalid_pairs} of {self.pairs} pairs, "
            f"the first of them documents[{self.index}]"
        )


def every_class() -> list[type[RerankerError]]:
    """Give every error we raise, the more general ones first."""
    found: list[type[RerankerError]] = []
    waiting: list[type[RerankerError]] = [RerankerError]
    while waiting:
        one = waiting.pop(0)
        if one.__module__ == __name__:
            found.append(one)
            waiting.extend(one.__subclasses__())
    return found


def for_clients() -> list[type[RerankerError]]:
    """Give every error that a client can be answered with, by status."""
    roots = ClientError, ServiceError
    found = [one for one in every_class() if issubclass(one, roots) and one not in roots]
    return sorted(found, key=lambda one: one.status_code)
