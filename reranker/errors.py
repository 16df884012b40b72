"""Every error we raise, in one tree. A class carries its HTTP status and code; `deployments/http/` answers with them.

RerankerError
├── ClientError          the request must change: 4xx
├── ConfigurationError   the operator must change something; raised before an engine takes a device
└── ServiceError         ours, or the machine's: 5xx, and 429 when the service is full

docs/errors.md lists those that a client can meet. No message holds a query or a document.
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
    _takes: tuple[str, ...] = ()

    def __init_subclass__(
        cls, status: int = 0, code: str = "", takes: str = "", field: str = "", retry_after_s: int = 0
    ) -> None:
        """What a class leaves out is as in the one above it. `takes` names the arguments, which become attributes."""
        said = {"status_code": status, "code": code, "field": field, "retry_after_s": retry_after_s}
        for name, value in (said | {"_takes": tuple(takes.split())}).items():
            if value:
                setattr(cls, name, value)

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # errors cross process borders, and pickle rebuilds from these alone
        if self._takes:
            vars(self).update(zip(self._takes, arguments, strict=True))

    def __str__(self) -> str:
        return self.sentence.format_map(vars(self)) if self.sentence else super().__str__()


class ClientError(RerankerError, status=400, code="bad_request"):
    """The request cannot be answered as it stands; sending it again changes nothing."""


class InvalidRequestError(ClientError, code="invalid_request", takes="field problem"):
    """A field of the request is missing or has a wrong type or value."""

    problem: str

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}" if self.field else self.problem


class MalformedRequestError(ClientError, code="http_400"):
    """What came is not an HTTP request."""

    sentence = "this is not an HTTP request"


class UnknownNameError(InvalidRequestError, takes="known"):
    """The request names something that the configuration does not have."""

    def __init__(self, known: tuple[str, ...]) -> None:
        super().__init__(known)
        self.problem = f"no {self.field} of this name; known are {', '.join(known) or 'none'}"


class UnknownInstructionError(UnknownNameError, code="unknown_instruction", field="instruction"):
    """The request names an instruction that the configuration does not have."""


class UnknownIndexError(UnknownNameError, code="unknown_index", field="index"):
    """The request names an index that the configuration does not have."""


class UnknownModelError(UnknownNameError, status=404, code="unknown_model", field="model"):
    """The request names a model that the service does not have, where `access.strict_models` is set."""


class RequestTooLargeError(ClientError, status=413, code="request_too_large", takes="field amount limit unit"):
    """The request is larger than the service ever accepts."""

    sentence = "{field}: {amount} {unit}; the limit is {limit} in one request"


class UrlTooLongError(RequestTooLargeError, status=414, code="url_too_long"):
    """The URL is longer than the service reads."""


class HeadersTooLargeError(RequestTooLargeError, status=431, code="headers_too_large"):
    """The headers are larger than the service reads."""


class UnknownEncodingError(ClientError, status=415, code="unknown_encoding"):
    """The body is compressed in a way that the service does not know."""

    sentence = "Content-Encoding: only gzip and deflate are known; or send the body as it is"


class UnknownCharsetError(ClientError, status=415, code="unknown_charset"):
    """The body is not UTF-8, nor in a charset that its Content-Type names and the service reads."""

    sentence = "the body is not UTF-8, as JSON is; send it as UTF-8"


class SlowRequestError(ClientError, status=408, code="slow_request", takes="timeout_s part"):
    """The client did not send its request in time."""

    sentence = "the request's {part} did not arrive within {timeout_s:g} s"

    def __init__(self, timeout_s: float, part: str = "body") -> None:
        super().__init__(timeout_s, part)


class UnauthorizedError(ClientError, status=401, code="unauthorized", takes="sent"):
    """No API key, or one that the service does not know."""

    sentence = "{said} as header `Authorization: Bearer KEY`"

    def __init__(self, sent: bool) -> None:
        super().__init__(sent)
        self.said = "this API key is not known here; send another" if sent else "an API key is needed; send it"


class ForbiddenError(ClientError, status=403, code="forbidden"):
    """The API key is known, and may not do this."""

    sentence = "this API key may not do this; a key with `admin: true` may"


class NotFoundError(ClientError, status=404, code="http_404"):
    """No such path, or no such model."""


class NoPlaygroundError(NotFoundError):
    """The service runs without the playground."""

    sentence = "this service runs without the playground; docs/playground.md says how to add it"


class MethodNotAllowedError(ClientError, status=405, code="http_405", takes="allowed"):
    """The path does not take this method."""

    allowed: str
    sentence = "wrong method for this path; it takes {allowed}"


class QuotaExceededError(ClientError, status=429, code="quota_exceeded", takes="amount retry_after_s"):
    """The API key has used up what it may have now."""

    sentence = "this API key may have {amount}; send the request again in {retry_after_s} s"


class QueryTooLongError(ClientError, code="query_too_long", takes="tokens limit exact", field="query"):
    """Instruction and query alone leave no room for a document."""

    tokens: int
    limit: int
    sentence = (
        "query: with its instruction and the template it needs {tokens} tokens{more}; the limit is {limit}, and a "
        "document needs at least one. Shorten it by {excess} tokens{more}"
    )

    def __init__(self, tokens: int, limit: int, exact: bool = True) -> None:
        super().__init__(tokens, limit, exact)
        self.excess = tokens - limit + 1
        self.more = "" if exact else " or more"  # not exact: nobody counted to the end


class ConfigurationError(RerankerError, code="configuration_error"):
    """The service cannot start as configured."""


class DeviceError(ConfigurationError, code="unusable_device", takes="problem remedy"):
    """An engine cannot run on this machine, or not with what is installed."""

    sentence = "{problem}: {remedy}"


class ModelNotFoundError(ConfigurationError, code="model_not_found", takes="name reason"):
    """The model is neither a folder here nor to be had from the hub."""

    sentence = (
        "model {name!r}: no such folder on this machine, and the model hub did not give it ({reason}). "
        "Give a local folder, a hub id such as Qwen/Qwen3-Reranker-0.6B, or 'demo' for the bundled model"
    )


class UnsupportedModelError(ConfigurationError, code="unsupported_model", takes="name reason"):
    """The checkpoint is there, but it is not one we can score with."""

    sentence = "model {name!r} cannot be served: {reason}"


class StartupCheckError(ConfigurationError, code="startup_check_failed", takes="check measured cause"):
    """The model was loaded, but it does not score as a reranker does."""

    check: str
    cause: str
    sentence = "the model fails the start-up check {check!r} ({measured}); likeliest cause: {cause}"


class CommandError(RerankerError, code="command_error"):
    """A command cannot go on; the message says what to do."""


class BatchError(CommandError, code="batch_error"):
    """A batch cannot go on; the message says what to do."""


class InputFileError(CommandError, code="input_file"):
    """A file given to a command cannot be used."""

    sentence = "{where}: {problem}"

    def __init__(self, path: str, line: int | None, problem: str) -> None:
        super().__init__(path, line, problem)
        place = "standard input" if path == "-" else path
        self.where, self.problem = f"{place}:{line}" if line else place, problem


class ServiceError(RerankerError, code="service_error"):
    """The request was fine; we could not answer it."""


class OverloadedError(ServiceError, status=429, code="overloaded", takes="queue_s retry_after_s"):
    """The list does not fit beside what is queued already."""

    queue_s: float
    sentence = "overloaded: what is queued takes about {queue_s:.1f} s; send the request again in {retry_after_s} s"


class MemoryFullError(ServiceError, status=503, code="memory_full", takes="limit retry_after_s"):
    """The requests that are being worked on take all the memory that they may."""

    sentence = (
        "the requests in hand take the {limit} bytes that limits.max_bytes_in_hand allows; send it again in "
        "{retry_after_s} s"
    )


class CallerMemoryError(MemoryFullError, status=429, code="too_many_bytes"):
    """The requests of this API key take all the memory that one key's may."""

    sentence = "this API key's requests in hand take the {limit} bytes of its share; send it again in {retry_after_s} s"


class NotReadyError(ServiceError, status=503, code="not_ready", retry_after_s=5):
    """No engine can score yet."""

    status = "starting"
    """What /health says of it."""
    sentence = "no engine is ready to score yet; try again in a few seconds"


class StartFailedError(NotReadyError, code="start_failed"):
    """No engine can score, and the service has given up starting one."""

    status = "failed"
    sentence = "no engine could be started; the service's log says why"


class ModelNotReadyError(NotReadyError, code="model_not_ready", takes="model ready", retry_after_s=5):
    """No engine of the model that the request names can score yet; others may."""

    sentence = "no engine of {model} is ready to score yet; ready are: {names}"

    def __init__(self, model: str, ready: tuple[str, ...]) -> None:
        super().__init__(model, ready)
        self.names = ", ".join(ready) or "none"


class ModelFailedError(ModelNotReadyError, code="model_failed"):
    """The service has given up starting engines of the model that the request names; others may score."""

    status = "failed"
    sentence = "no engine of {model} could be started; the service's log says why. Ready are: {names}"


class LeavingError(NotReadyError, code="leaving"):
    """This ingress is to end; whoever asks for its health is to send requests to another."""

    status = "leaving"
    sentence = "this ingress is ending, and others answer"


class PlaygroundUnavailableError(ServiceError, status=503, code="playground_unavailable", retry_after_s=2):
    """The playground is starting, has ended, or has as many visitors as it can have."""

    sentence = "the playground does not answer now; try again in a few seconds"


class NoAnswerError(ServiceError, status=503, code="no_answer", retry_after_s=5):
    """A part of the service that was asked about itself did not answer in time; rankings go on."""

    sentence = "a part of the service did not answer in time; try again in a few seconds"


class CacheUnavailableError(ServiceError, status=503, code="cache_unavailable"):
    """What is remembered in Redis could not be forgotten."""

    sentence = "Redis did not answer, or not to the end: of the scores in it some are still there; try again"


class IndexUnavailableError(ServiceError, status=503, code="index_unavailable", takes="index", retry_after_s=5):
    """The index that a search asks for cannot be read."""

    sentence = "the index {index} cannot be read now; the service's log says why"


class RetrievalError(ServiceError, status=503, code="retrieval_failed", retry_after_s=5):
    """What finds the candidates of a search did not answer, or not rightly."""

    sentence = "the search for candidates failed; the service's log has more"


class DeadlineExceededError(ServiceError, status=504, code="deadline_exceeded", takes="timeout_s"):
    """The list was not scored in time."""

    sentence = "the list was not scored within {timeout_s:g} s"


class EngineFailedError(ServiceError, code="engine_failed"):
    """The engine of a replica stopped working."""

    sentence = "the engine that was scoring this list failed"


class ReplicaLostError(EngineFailedError, status=503, code="replica_lost", takes="attempts", retry_after_s=2):
    """A replica ended, or cannot be reached, with a shard in its hands."""

    sentence = "the replica that was scoring this list was lost, {attempts} times in a row; send it again in 2 s"

    def __init__(self, attempts: int = 1) -> None:
        super().__init__(attempts)


class UnreachableError(ServiceError, code="unreachable", takes="url reason"):
    """Nothing answers at the URL, or what answers is not our service. Of our client; no service answers with it."""

    sentence = "no reranking service at {url} ({reason}); start one with `make serve`, or give another URL"


class InternalError(ServiceError, code="internal_error"):
    """A bug of ours."""

    sentence = "internal error; the service's log has more"


class ScoringError(ServiceError, code="scoring_failed"):
    """A replica could not score a shard, for a reason that is a bug."""

    sentence = "the list could not be scored; the service's log has more"


class InvalidScoreError(ServiceError, code="invalid_score", takes="index invalid_pairs pairs"):
    """The model gave a logit that is not a finite number, so no order of the documents can be trusted."""

    index: int
    invalid_pairs: int
    pairs: int
    sentence = (
        "the model gave no finite score for {invalid_pairs} of {pairs} pairs, the first of them documents[{index}]"
    )


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
