"""Errors cross process borders and become HTTP statuses; both must work for every class, also for those to come."""

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from reranker import errors
from reranker.errors import InputFileError, UnreachableError

EXAMPLES: dict[type[errors.RerankerError], tuple[object, ...]] = {
    errors.RerankerError: ("a sentence",),
    errors.ClientError: ("a sentence",),
    errors.InvalidRequestError: ("documents[3]", "must be a string"),
    errors.UnknownInstructionError: (("@medical", "@web"),),
    errors.UnknownNameError: (("one", "two"),),
    errors.CommandError: ("a sentence",),
    errors.BatchError: ("a sentence",),
    errors.UnknownIndexError: (("docs", "wiki"),),
    errors.IndexUnavailableError: ("docs",),
    errors.RetrievalError: (),
    errors.RequestTooLargeError: ("documents", 5, 3, "documents"),
    errors.QueryTooLongError: (9_000, 8_192),
    errors.UrlTooLongError: ("URL", 9_000, 8_192, "bytes"),
    errors.HeadersTooLargeError: ("headers", 40_000, 32_768, "bytes"),
    errors.UnknownEncodingError: (),
    errors.UnknownCharsetError: (),
    errors.SlowRequestError: (60.0,),
    errors.UnauthorizedError: (True,),
    errors.ForbiddenError: (),
    errors.QuotaExceededError: ("4 requests at the same time", 1),
    errors.ConfigurationError: ("a sentence",),
    errors.DeviceError: ("there is no GPU", "take one"),
    errors.ModelNotFoundError: ("no/model", "the hub answered 404"),
    errors.UnsupportedModelError: ("a/model", "it has no tokenizer.json"),
    errors.StartupCheckError: ("spread", "log-odds from 0.000 to 0.000", "a head of zeros"),
    InputFileError: ("file.jsonl", 3, "not JSON"),
    UnreachableError: ("http://127.0.0.1:8000", "refused"),
    errors.ServiceError: ("a sentence",),
    errors.OverloadedError: (12.3, 8),
    errors.MemoryFullError: (512 * 2**20, 2),
    errors.CallerMemoryError: (256 * 2**20, 2),
    errors.NotReadyError: (),
    errors.NoAnswerError: (),
    errors.CacheUnavailableError: (),
    errors.StartFailedError: (),
    errors.LeavingError: (),
    errors.ModelNotReadyError: ("best", ("fast",)),
    errors.ModelFailedError: ("best", ()),
    errors.UnknownModelError: (("fast", "best"),),
    errors.PlaygroundUnavailableError: (),
    errors.NoPlaygroundError: (),
    errors.NotFoundError: ("no such model",),
    errors.MethodNotAllowedError: ("GET, HEAD",),
    errors.MalformedRequestError: (),
    errors.InternalError: (),
    errors.DeadlineExceededError: (2.5,),
    errors.EngineFailedError: (),
    errors.ReplicaLostError: (4,),
    errors.ScoringError: (),
    errors.InvalidScoreError: (7, 1, 20),
}


def _tree(root: type[errors.RerankerError]) -> Iterator[type[errors.RerankerError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def test_every_error_has_an_example_here() -> None:
    """A new error without an example would escape the tests below."""
    ours = {kind for kind in _tree(errors.RerankerError) if kind.__module__ == errors.__name__}
    assert ours <= set(EXAMPLES)


@pytest.mark.parametrize("kind", EXAMPLES, ids=lambda kind: kind.__name__)
def test_error_survives_pickle_with_its_class_and_attributes(kind: type[errors.RerankerError]) -> None:
    """What cannot be unpickled reaches the caller as a RaySystemError, and the client as a 500."""
    error = kind(*EXAMPLES[kind])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(again) is kind
    assert str(again) == str(error)
    assert vars(again) == vars(error)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.InvalidRequestError, 400),
        (errors.QueryTooLongError, 400),
        (errors.RequestTooLargeError, 413),
        (errors.OverloadedError, 429),
        (errors.NotReadyError, 503),
        (errors.DeadlineExceededError, 504),
        (errors.EngineFailedError, 500),
        (errors.ReplicaLostError, 503),
        (errors.InvalidScoreError, 500),
    ],
)
def test_error_carries_its_status(kind: type[errors.RerankerError], status: int) -> None:
    """Clients retry, or do not, by these numbers."""
    assert kind.status_code == status


def test_codes_of_leaves_are_distinct() -> None:
    """`error_type` is what a program switches on."""
    leaves = [kind for kind in EXAMPLES if not kind.__subclasses__()]
    assert len({kind.code for kind in leaves}) == len(leaves)


def test_query_too_long_says_by_how_much() -> None:
    """The reader must know what to cut: 8,193 of 8,192 with a one-token document is two too many."""
    assert "Shorten it by 2 tokens" in str(errors.QueryTooLongError(8_193, 8_192))


def test_no_other_module_defines_an_error_that_a_client_can_be_answered_with() -> None:
    """Its line in docs/errors.md would be missing."""
    ours = {"ClientError", "ServiceError", *(kind.__name__ for kind in errors.for_clients())}
    product = [file for folder in ("reranker", "deployments") for file in Path(folder).rglob("*.py")]
    assert len(product) > 50
    found = {
        node.name
        for file in product
        if file.name != "errors.py"
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).split(".")[-1] in ours for base in node.bases)
    }
    assert found == set()
