"""The parts that the answers of several dialects are made of, with their types; and the body of an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Annotated, Any, NotRequired, TypeAlias

from pydantic import Field
from typing_extensions import TypedDict  # pydantic reads no other before Python 3.12

from reranker.dialects.base import JSON, RankingCall
from reranker.errors import RerankerError
from reranker.record import RequestRecord
from reranker.types import ExcludedDocument, RankedDocument, Ranking, Span, Stages

_SEARCH_UNIT_DOCUMENTS = 100  # Cohere's unit: one query with up to 100 documents

Index: TypeAlias = Annotated[int, Field(description="Position in the request's documents.")]
Score: TypeAlias = Annotated[float, Field(description="In [0, 1]; log-odds with `raw_scores`.")]


class Head(TypedDict):
    """How an answer begins."""

    id: str
    object: str
    model: str
    created: Annotated[int, Field(description="Unix time.")]


class Usage(TypedDict):
    """What a request took, in numbers only: several clients break on anything else in it."""

    prompt_tokens: int
    total_tokens: int
    deduplicated_pairs: int
    cached_documents: int
    coalesced_documents: int


class Marks(TypedDict, total=False):
    """What happened to a long document; nothing for the others. For results that are only ours."""

    truncated: Annotated[bool, Field(description="The document was too long and lost tokens; absent otherwise.")]
    windows: Annotated[int, Field(description="Prompts it took to score a long document; absent when it was one.")]


class UnscoredDocument(TypedDict):
    """A document that there was no time for."""

    index: Index


class RelevantSpan(TypedDict):
    """A part of a document's text, as it was scored, that made it relevant."""

    start: Annotated[int, Field(description="Its first character, in Unicode code points.")]
    end: Annotated[int, Field(description="Just past its last.")]
    score: Score


class Exclusion(UnscoredDocument):
    """A document that a rule or the threshold left out."""

    rule: str


class Windows(UnscoredDocument):
    """A document that was scored in several prompts."""

    windows: int


class CascadeStages(TypedDict):
    """Which of a cascade's two models ranked which documents."""

    first: Annotated[str, Field(description="The model that ranked all of them.")]
    then: Annotated[str, Field(description="The model that ranked the best of these again; they come first.")]
    ranked_again: Annotated[list[Index], Field(description="The documents whose score is the second model's, rising.")]
    missed: NotRequired[
        Annotated[str, Field(description="`error_type` for which the second ranked none: all is the first's.")]
    ]


class Omissions(TypedDict, total=False):
    """The documents that are not among the results, if there are any, and why; and what happened to long ones.

    Beside the results and not in them: several clients break on a field that they do not know.
    """

    unscored: list[UnscoredDocument]
    excluded: list[Exclusion]
    cut_off: Annotated[list[UnscoredDocument], Field(description="With `complete`: results beyond `top_n`.")]
    truncated: Annotated[list[Index], Field(description="Documents that were too long and lost tokens.")]
    windows: Annotated[list[Windows], Field(description="Documents that were scored in several prompts.")]
    spans_unscored: Annotated[
        list[Index], Field(description="Of the results, those in which there was no time to look for spans.")
    ]


class ShardTiming(TypedDict):
    """Where one shard was scored, and how long that took."""

    replica: str | None
    documents: list[Index]
    pairs: int
    tokens: int
    queue_ms: float
    engine_ms: float
    total_ms: float
    attempts: int


class Timings(TypedDict):
    """What a request went through."""

    total_ms: float
    stages_ms: dict[str, float]
    shards: NotRequired[list[ShardTiming]]


class Tail(Omissions):
    """How an answer to one list ends."""

    usage: Usage
    stages: NotRequired[Annotated[CascadeStages, Field(description="When `model` is a cascade.")]]
    timings: NotRequired[Annotated[Timings, Field(description="When asked for.")]]


class Meta(TypedDict):
    """Cohere's `meta`, and how the lists were scored."""

    api_version: dict[str, str]
    billed_units: dict[str, int]
    tokens: dict[str, int]
    pairs: int
    truncated_documents: int
    shards: int
    replicas: int
    retries: int
    hedges: int


class RankedResult(TypedDict):
    """One document's place in the ranking."""

    index: Index
    relevance_score: Score
    document: NotRequired[
        Annotated[Any, Field(description="When asked for: an object; Infinity and Voyage: a string.")]
    ]


class WithSpans(TypedDict):
    """What made a document relevant."""

    relevant_spans: NotRequired[
        Annotated[list[RelevantSpan], Field(description="When asked for, best first; absent where there is none.")]
    ]


class ResultWithSpans(RankedResult, WithSpans):
    """One document's place in the ranking, and what made it relevant."""


class ErrorBody(TypedDict):
    """An error, with the sentence under every name that a client looks for it."""

    message: Annotated[str, Field(description="A sentence a person can act on.")]
    detail: Annotated[str, Field(description="The same, under another client's name for it.")]
    error: Annotated[str | dict[str, Any], Field(description="The same; on /score an object with it as `message`.")]
    error_type: Annotated[str, Field(description="What kind of error; does not change with the wording.")]
    field: NotRequired[Annotated[str, Field(description="The request's field that it is about: documents[3].text.")]]
    code: NotRequired[Annotated[str, Field(description="In TEI's dialect, whose `error_type` is TEI's own word.")]]


def error_body(error: RerankerError) -> ErrorBody:
    """The sentence, under the name that each client looks for: `detail` (Jina, Voyage, xinference), `error` (TEI)."""
    said = str(error)
    body: ErrorBody = {"message": said, "detail": said, "error": said, "error_type": error.code}
    if error.field:
        body["field"] = error.field
    return body


def head_of(kind: str, model: str, record: RequestRecord) -> Head:
    return {"id": record.request_id, "object": kind, "model": model, "created": record.began_unix_ns // 10**9}


def score_of(ranked: RankedDocument, call: RankingCall) -> float:
    return ranked.log_odds if call.body.log_odds else ranked.relevance_score


def marks_of(ranked: RankedDocument) -> Marks:
    marks: Marks = {}
    if ranked.truncated:
        marks["truncated"] = True
    if ranked.windows > 1:
        marks["windows"] = ranked.windows
    return marks


def results_of(
    call: RankingCall,
    ranking: Ranking,
    document_of: Callable[[RankingCall, int], JSON],
    score: str = "relevance_score",
) -> list[Any]:  # Any: RankedResult, or what others have in its place
    """The documents, best first; `score` is their field's name."""
    results = []
    for ranked in ranking.results:
        result: dict[str, Any] = {"index": ranked.index, score: score_of(ranked, call)}
        if call.body.shows_evidence:
            text = evidence_of(text_of(call, ranked.index), ranked.spans)
            result["document"] = text if document_of is text_of else {"text": text}
        elif call.body.return_documents:  # left out otherwise, never null: several clients break on null
            result["document"] = document_of(call, ranked.index)
        if call.body.shows_spans and ranked.spans:
            result["relevant_spans"] = spans_of(ranked.spans, call)
        results.append(result)
    return results


def spans_of(spans: Sequence[Span], call: RankingCall) -> list[RelevantSpan]:
    of = attrgetter("log_odds" if call.body.log_odds else "relevance_score")
    return [{"start": one.start, "end": one.end, "score": of(one)} for one in spans]


def evidence_of(text: str, spans: Sequence[Span]) -> str:
    """Give the text of the spans, in its order: on lines of their own where something between two is left out."""
    pieces, before = [], None
    for start, end, *_ in sorted(spans):
        gap = "" if before is None else text[before:start]
        pieces += ["\n" if gap.strip() or len(gap) > 1 else gap, text[start:end]]
        before = end
    return "".join(pieces)


def text_of(call: RankingCall, index: int) -> str:
    return call.lists[0].documents[index]


def omissions_of(
    unscored: Sequence[int],
    excluded: Sequence[ExcludedDocument],
    results: Sequence[RankedDocument] = (),
    cut_off: Sequence[int] = (),
) -> Omissions:
    omissions: Omissions = {}
    if unscored:
        omissions["unscored"] = [{"index": index} for index in unscored]
    if excluded:
        omissions["excluded"] = [{"index": one.index, "rule": one.rule} for one in excluded]
    if cut_off:
        omissions["cut_off"] = [{"index": index} for index in cut_off]
    if truncated := sorted(one.index for one in results if one.truncated):
        omissions["truncated"] = truncated
    if windows := sorted((one.index, one.windows) for one in results if one.windows > 1):
        omissions["windows"] = [{"index": index, "windows": number} for index, number in windows]
    return omissions


def usage_of(rankings: Sequence[Ranking]) -> Usage:
    tokens = sum(ranking.prompt_tokens for ranking in rankings)
    return {
        "prompt_tokens": tokens,
        "total_tokens": tokens,
        "deduplicated_pairs": sum(ranking.deduplicated_pairs for ranking in rankings),
        "cached_documents": sum(ranking.cached_documents for ranking in rankings),
        "coalesced_documents": sum(ranking.coalesced_documents for ranking in rankings),
    }


def tail_of(call: RankingCall, ranking: Ranking, record: RequestRecord) -> Tail:
    tail: Tail = {"usage": usage_of([ranking])}
    if ranking.stages:
        tail["stages"] = stages_of(ranking.stages)
    if call.body.timings:
        tail["timings"] = timings_of(record, shards=True)
    if ranking.spans_unscored:
        tail["spans_unscored"] = list(ranking.spans_unscored)
    return {**tail, **omissions_of(ranking.unscored, ranking.excluded, ranking.results, ranking.cut_off)}


def stages_of(stages: Stages) -> CascadeStages:
    said: CascadeStages = {"first": stages.first, "then": stages.then, "ranked_again": list(stages.ranked_again)}
    if stages.missed:
        said["missed"] = stages.missed
    return said


def units_of(call: RankingCall) -> int:
    return sum(-(-len(one.documents) // _SEARCH_UNIT_DOCUMENTS) for one in call.lists)


def meta_of(call: RankingCall, rankings: Sequence[Ranking], record: RequestRecord) -> Meta:
    return {
        "api_version": {"version": "1"},
        "billed_units": {"search_units": units_of(call)},
        "tokens": {"input_tokens": sum(one.prompt_tokens for one in rankings), "output_tokens": 0},
        "pairs": record.pairs,
        "truncated_documents": sum(one.truncated_documents for one in rankings),
        "shards": len(record.shards),
        "replicas": record.replicas,
        "retries": record.retries,
        "hedges": record.hedges,
    }


def timings_of(record: RequestRecord, *, shards: bool = False) -> Timings:
    stages = {stage: _ms(took_s) for stage, took_s in record.stages_s().items()}
    timings: Timings = {"total_ms": _ms(record.total_s), "stages_ms": stages}
    if shards:
        timings["shards"] = [
            {
                "replica": one.replica or None,
                "documents": one.documents,
                "pairs": one.pairs,
                "tokens": one.tokens,
                "queue_ms": _ms(one.queue_s),
                "engine_ms": _ms(one.engine_s),
                "total_ms": _ms(one.total_s),
                "attempts": len(one.attempts),
            }
            for one in record.shards
        ]
    return timings


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
