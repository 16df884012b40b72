"""Every error we raise, in one tree. A class carries its HTTP status and code; `deployments/http/` answers with them.

RerankerError
├── ClientError          the request must change: 4xx
├── ConfigurationError   the operator must change something; raised before an engine takes a device
└── ServiceError         ours, or the machine's: 5xx, and 429 when the service is full

docs/errors.md lists those that a client can meet. Errors cross process borders: every argument goes to
`super().__init__`, positionally, because pickle rebuilds from `args`. No message holds a query or a document.
"""

from __future__ import annotations


class RerankerError(Exception):
    """Base of all errors of this project."""

    status_code: int = 500
    code: str = "internal_error"
    sentence: str = ""
    """What `str()` gives, with the instance's attributes in braces. Empty: the arguments."""
    field: str = ""
    """The field of the request that is wrong, as a path: documents[3].text. Empty: none."""
    retry_after_s: int | None = None
    """Seconds after which the same request may succeed; becomes the header Retry-After."""

    def __str__(self) -> str:
        return self.sentence.format_map(vars(self)) if self.sentence else super().__str__()


class ClientError(RerankerError):
    """The request cannot be answered as it stands; sending it again changes nothing."""

    status_code, code = 400, "bad_request"


class InvalidRequestError(ClientError):
    """A field of the request is missing or has a wrong type or value."""

    code = "invalid_request"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field, self.problem = field, problem

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class MalformedRequestError(ClientError):
    """What came is not an HTTP request."""

    code = "http_400"
    sentence = "this is not an HTTP request"


class UnknownNameError(InvalidRequestError):
    """The request names something that the configuration does not have."""

    def __init__(self, known: tuple[str, ...]) -> None:
        problem = f"no {self.field} of this name; known are {', '.join(known) or 'none'}"
        super().__init__(self.field, problem)
        self.args = (known,)
        self.known = known


class UnknownInstructionError(UnknownNameError):
    """The request names an instruction that the configuration does not have."""

    code, field = "unknown_instruction", "instruction"


class UnknownIndexError(UnknownNameError):
    """The request names an index that the configuration does not have."""

    code, field = "unknown_index", "index"


class RequestTooLargeError(ClientError):
    """The request is larger than the service ever accepts."""

    status_code, code = 413, "request_too_large"
    sentence = "{field}: {amount} {unit}; the limit is {limit} in one request"

    def __init__(self, field: str, amount: int, limit: int, unit: str) -> None:
        super().__init__(field, amount, limit, unit)
        self.field, self.amount, self.limit, self.unit = field, amount, limit, unit


class UrlTooLongError(RequestTooLargeError):
    """The URL is longer than the service reads."""

    status_code, code = 414, "url_too_long"


class HeadersTooLargeError(RequestTooLargeError):
    """The headers are larger than the service reads."""

    status_code, code = 431, "headers_too_large"


class UnknownEncodingError(ClientError):
    """The body is compressed in a way that the service does not know."""

    status_code, code = 415, "unknown_encoding"
    sentence = "Content-Encoding: only gzip and deflate are known; or send the body as it is"


class SlowRequestError(ClientError):
    """The client did not send its request in time."""

    status_code, code = 408, "slow_request"
    sentence = "the request's {part} did not arrive within {timeout_s:g} s"

    def __init__(self, timeout_s: float, part: str = "body") -> None:
        super().__init__(timeout_s, part)
        self.timeout_s, self.part = timeout_s, part


class UnauthorizedError(ClientError):
    """No API key, or one that the service does not know."""

    status_code, code = 401, "unauthorized"

    def __init__(self, sent: bool) -> None:
        super().__init__(sent)
        self.sent = sent

    def __str__(self) -> str:
        said = "this API key is not known here; send another" if self.sent else "an API key is needed; send it"
        return f"{said} as header `Authorization: Bearer KEY`"


class ForbiddenError(ClientError):
    """The API key is known, and may not do this."""

    status_code, code = 403, "forbidden"
    sentence = "this API key may not do this; a key with `admin: true` may"


class NotFoundError(ClientError):
    """No such path, or no such model."""

    status_code, code = 404, "http_404"


class NoPlaygroundError(NotFoundError):
    """The service runs without the playground."""

    sentence = "this service runs without the playground; docs/playground.md says how to add it"


class MethodNotAllowedError(ClientError):
    """The path does not take this method."""

    status_code, code = 405, "http_405"
    sentence = "wrong method for this path; it takes {allowed}"

    def __init__(self, allowed: str) -> None:
        super().__init__(allowed)
        self.allowed = allowed


class QuotaExceededError(ClientError):
    """The API key has used up what it may have now."""

    status_code, code = 429, "quota_exceeded"
    sentence = "this API key may have {amount}; send the request again in {retry_after_s} s"

    def __init__(self, amount: str, retry_after_s: int) -> None:
        super().__init__(amount, retry_after_s)
        self.amount, self.retry_after_s = amount, retry_after_s


class QueryTooLongError(ClientError):
    """Instruction and query alone leave no room for a document."""

    code, field = "query_too_long", "query"
    sentence = (
        "query: with its instruction and the template it needs {tokens} tokens{more}; the limit is {limit}, and a "
        "document needs at least one. Shorten it by {excess} tokens{more}"
    )

    def __init__(self, tokens: int, limit: int, exact: bool = True) -> None:
        """Say so. Not exact: it was not counted to its end."""
        super().__init__(tokens, limit, exact)
        self.tokens, self.limit, self.excess = tokens, limit, tokens - limit + 1
        self.more = "" if exact else " or more"


class ConfigurationError(RerankerError):
    """The service cannot start as configured."""

    code = "configuration_error"


class ModelNotFoundError(ConfigurationError):
    """The model is neither a folder here nor to be had from the hub."""

    code = "model_not_found"
    sentence = (
        "model {name!r}: no such folder on this machine, and the model hub did not give it ({reason}). "
        "Give a local folder, a hub id such as Qwen/Qwen3-Reranker-0.6B, or 'demo' for the bundled model"
    )

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class UnsupportedModelError(ConfigurationError):
    """The checkpoint is there, but it is not one we can score with."""

    code = "unsupported_model"
    sentence = "model {name!r} cannot be served: {reason}"

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason


class StartupCheckError(ConfigurationError):
    """The model was loaded, but it does not score as a reranker does."""

    code = "startup_check_failed"
    sentence = "the model fails the start-up check {check!r} ({measured}); likeliest cause: {cause}"

    def __init__(self, check: str, measured: str, cause: str) -> None:
        super().__init__(check, measured, cause)
        self.check, self.measured, self.cause = check, measured, cause


class CommandError(RerankerError):
    """A command cannot go on; the message says what to do."""

    code = "command_error"


class BatchError(CommandError):
    """A batch cannot go on; the message says what to do."""

    code = "batch_error"


class InputFileError(CommandError):
    """A file given to a command cannot be used."""

    code = "input_file"
    sentence = "{where}: {problem}"

    def __init__(self, path: str, line: int | None, problem: str) -> None:
        super().__init__(path, line, problem)
        place = "standard input" if path == "-" else path
        self.where, self.problem = f"{place}:{line}" if line else place, problem


class ServiceError(RerankerError):
    """The request was fine; we could not answer it."""

    code = "service_error"


class OverloadedError(ServiceError):
    """The list does not fit beside what is queued already."""

    status_code, code = 429, "overloaded"
    sentence = "overloaded: what is queued takes about {queue_s:.1f} s; send the request again in {retry_after_s} s"

    def __init__(self, queue_s: float, retry_after_s: int) -> None:
        super().__init__(queue_s, retry_after_s)
        self.queue_s, self.retry_after_s = queue_s, retry_after_s


class MemoryFullError(ServiceError):
    """The requests that are being worked on take all the memory that they may."""

    status_code, code = 503, "memory_full"
    sentence = (
        "the requests in hand take the {limit} bytes that limits.max_bytes_in_hand allows; send it again in "
        "{retry_after_s} s"
    )

    def __init__(self, limit: int, retry_after_s: int) -> None:
        super().__init__(limit, retry_after_s)
        self.limit, self.retry_after_s = limit, retry_after_s


class CallerMemoryError(MemoryFullError):
    """The requests of this API key take all the memory that one key's may."""

    status_code, code = 429, "too_many_bytes"
    sentence = "this API key's requests in hand take the {limit} bytes of its share; send it again in {retry_after_s} s"


class NotReadyError(ServiceError):
    """No engine can score yet."""

    status_code, code, retry_after_s = 503, "not_ready", 5
    status = "starting"
    """What /health says of it."""
    sentence = "no engine is ready to score yet; try again in a few seconds"


class StartFailedError(NotReadyError):
    """No engine can score, and the service has given up starting one."""

    code, status = "start_failed", "failed"
    sentence = "no engine could be started; the service's log says why"


class PlaygroundUnavailableError(ServiceError):
    """The playground is starting, or has ended."""

    status_code, code, retry_after_s = 503, "playground_unavailable", 2
    sentence = "the playground does not answer now; try again in a few seconds"


class CacheUnavailableError(ServiceError):
    """What is remembered in Redis could not be forgotten."""

    status_code, code = 503, "cache_unavailable"
    sentence = "Redis did not answer, or not to the end: of the scores in it some are still there; try again"


class IndexUnavailableError(ServiceError):
    """The index that a search asks for cannot be read."""

    status_code, code, retry_after_s = 503, "index_unavailable", 5
    sentence = "the index {index} cannot be read now; the service's log says why"

    def __init__(self, index: str) -> None:
        super().__init__(index)
        self.index = index


class RetrievalError(ServiceError):
    """What finds the candidates of a search did not answer, or not rightly."""

    status_code, code, retry_after_s = 503, "retrieval_failed", 5
    sentence = "the search for candidates failed; the service's log has more"


class DeadlineExceededError(ServiceError):
    """The list was not scored in time."""

    status_code, code = 504, "deadline_exceeded"
    sentence = "the list was not scored within {timeout_s:g} s"

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)
        self.timeout_s = timeout_s


class EngineFailedError(ServiceError):
    """The engine of a replica stopped working."""

    code = "engine_failed"
    sentence = "the engine that was scoring this list failed"


class ReplicaLostError(EngineFailedError):
    """A replica ended, or cannot be reached, with a shard in its hands."""

    code = "replica_lost"
    sentence = "the replica that was scoring this list was lost, {attempts} times in a row"

    def __init__(self, attempts: int = 1) -> None:
        super().__init__(attempts)
        self.attempts = attempts


class UnreachableError(ServiceError):
    """Nothing answers at the URL, or what answers is not our service. Of our client; no service answers with it."""

    code = "unreachable"
    sentence = "no reranking service at {url} ({reason}); start one with `make serve`, or give another URL"

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)
        self.url, self.reason = url, reason


class InternalError(ServiceError):
    """A bug of ours."""

    code = "internal_error"
    sentence = "internal error; the service's log has more"


class ScoringError(ServiceError):
    """A replica could not score a shard, for a reason that is a bug."""

    code = "scoring_failed"
    sentence = "the list could not be scored; the service's log has more"


class InvalidScoreError(ServiceError):
    """The model gave a logit that is not a finite number, so no order of the documents can be trusted."""

    code = "invalid_score"
    sentence = (
        "the model gave no finite score for {invalid_pairs} of {pairs} pairs, the first of them documents[{index}]"
    )

    def __init__(self, index: int, invalid_pairs: int, pairs: int) -> None:
        super().__init__(index, invalid_pairs, pairs)
        self.index, self.invalid_pairs, self.pairs = index, invalid_pairs, pairs


def every_class() -> list[type[RerankerError]]:
    """Give every error we raise, the more general ones first."""
    found: list[type[RerankerError]] = [RerankerError]
    for one in found:  # grows on the way
        found += [child for child in one.__subclasses__() if child.__module__ == __name__]
    return found


def for_clients() -> list[type[RerankerError]]:
    """Give every error that the service can answer with, one for each code, by status."""
    others = ClientError, ServiceError, UnreachableError
    found = [one for one in every_class() if issubclass(one, others) and one not in others and "code" in vars(one)]
    return sorted(found, key=lambda one: one.status_code)
