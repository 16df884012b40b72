"""The fields that dialects share, and how a document or query becomes text.

Lenient where clients differ: `null` for every optional field, "true" for true, unknown fields. Strict where a wrong
value would give a wrong ranking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    StrictStr,
    ValidationError,
)

from reranker.errors import InvalidRequestError
from reranker.types import Aggregate, CacheMode, LongDocuments, RankRequest, SpanTerms, TruncationSide

Item = StrictStr | dict[str, Any]
"""A document or query as it may come; Any: JSON."""
Items = Annotated[list[Item], Field(fail_fast=True), BeforeValidator(lambda items: _parts_of(items))]
"""Failing fast: a list of a million wrong ones would bring a million complaints."""
Seconds = Annotated[float, Field(ge=0.001, allow_inf_nan=False)]
_SIDES: dict[str | None, TruncationSide | None] = {"left": "start", "right": "end", None: None}
NOT_OBEYED: dict[str, tuple[object, ...]] = {
    "truncate": (True, "true", "END"),  # TEI, NVIDIA: false or "NONE" refuses the list when a document is too long
    "truncation": (True, "true"),  # Voyage: the same
    "truncate_prompt_tokens": (-1,),  # vLLM: cuts the whole prompt, and with it the end of its template
    "max_tokens_per_query": (0,),  # vLLM
    "max_query_length": (),  # Jina
    "max_doc_length": (),  # Jina
    "add_special_tokens": (True, "true"),  # vLLM
    "chat_template": (),  # vLLM
    "mm_processor_kwargs": ({},),  # vLLM
    "use_activation": (True, "true"),  # vLLM: the scale of scores; `raw_scores` chooses it here
    "softmax": (True, "true"),  # vLLM's older names for it
    "activation": (True, "true"),
    "normalize": (True, "true"),  # FlagEmbedding and servers made of it: the same
    "kwargs": ("{}", "", {}),  # xinference
    "metadata": (),  # Contextual: a text for each document, which is ranked too
    "relevant_spans": ({"mode": "disabled"},),  # Cohere
    "max_evidence_tokens": (),  # ours, with them
    "return_embeddings": (False, "false"),  # Jina
    "threshold": (),  # of several servers, on scales of their own; `score_threshold` is ours
    "min_score": (),
    "filter": (),  # servers that hold documents
    "rank_fields": ([],),  # Cohere v1, Pinecone, Mixedbread: obeyed where documents may be objects
    "embedding_top_k": (),  # servers that rank twice
    "rewrite_query": (False, "false"),  # Mixedbread
    "webhook": (),  # DeepInfra: where the answer is to go instead
    "return_len": (False, "false"),  # xinference
    "max_length": (),  # FlagEmbedding: of a pair
    "modality": ("text",),  # Infinity
    "media_io_kwargs": ({},),  # vLLM
    "cache_salt": (),  # vLLM: whose prefixes are shared; `cache.namespace` parts the callers here
    "padding": ("do_not_pad",),  # vLLM
    "latency": ("fast",),  # ZeroEntropy
    "service_tier": ("default", "auto"),  # DeepInfra; `priority` says it here
    "task": (),  # Fireworks: its name for `instruction`; other services' tasks are something else
    "parameters": ({},),  # Pinecone, DashScope: obeyed in their dialects
    # Obeyed in some dialects.
    "top_n": (0, "0"),
    "top_k": (0, "0"),
    "k": (0, "0"),
    "return_documents": (False, "false"),
    "return_text": (False, "false"),
    "return_input": (False, "false"),
    "truncation_direction": ("Right", "right"),
}
"""Fields of other services that would change the ranking or the answer, and what of them happens anyway: with null, or
with these values, nothing is named. A dialect that has the field in its body obeys it."""
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # ten times as fast, where PyYAML was built with it
_INSTRUCTIONS = ("instruction", "instruct")
_LOOKED_AT = 1_000_000
_IMAGE = frozenset(("image", "image_url"))
_NO_TEXT = "this model reads text only"


class Options(BaseModel):
    """What may come with a list in every dialect."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    model: str | None = None
    """The name of a model, adapter or cascade that the service has, to be ranked with it. Clients send all sorts of
    names: any other stands for the default model, or is refused (404) where the service is strict. The answer says what
    it was."""
    instruction: str | None = None
    """What "relevant" means for this list, or the name of a configured one ("@medical"); absent, null or empty: the
    configured default."""
    instruct: str | None = None
    """SGLang's and DashScope's name for `instruction`."""
    chat_template_kwargs: dict[str, Any] | None = None
    """vLLM's other place for `instruction`, or `instruct`, which counts first; nothing else in it is used."""
    max_tokens_per_doc: NonNegativeInt | None = None
    """Cut every document to so many tokens (Cohere v2, vLLM); 0: not cut."""
    truncation_side: Literal["left", "right"] | None = None
    """Which end of a too long document is cut off (vLLM): "right" is its end."""
    long_documents: LongDocuments | None = None
    """What happens to a document that does not fit the model: "truncate", or "windows" to score all of it."""
    window_aggregate: Aggregate | None = None
    """The document's score from its windows': "max", "mean" or "first"."""
    max_chunks_per_doc: PositiveInt | None = None
    """Score long documents in windows, at most so many for each (Cohere v1)."""
    overlap_tokens: NonNegativeInt | None = None
    """Tokens that neighbouring windows share."""
    raw_scores: bool | None = None
    """Return log-odds in place of scores in [0, 1]."""
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out documents with a lower relevance score; they are listed under `excluded`."""
    priority: Literal["interactive", "bulk"] | Annotated[int, BeforeValidator(lambda one: _not_true(one))] | None = None
    """"interactive" (the default): somebody waits for the answer; "bulk": it may take its time. As a number (Cohere v2,
    vLLM), what is above 0 is bulk."""
    timeout_s: Seconds | None = None
    """Seconds until an answer is due, within the service's own limit; also as header X-Reranker-Timeout-S."""
    allow_partial: bool | None = None
    """When time is up, answer with the documents scored so far; the others are listed under `unscored`."""
    complete: bool | None = None
    """Return every document: what rules, threshold or `top_n` leave out comes last, with its score, and is listed under
    `excluded` and `cut_off`. For clients that take the scores by position. Absent: as the service or the key has it."""
    cache: CacheMode | None = None
    """Scores computed before: absent: use and remember them; "read": only use them; "refresh": compute and remember
    anew; "off": neither."""

    timings: bool | None = None
    """Say what each stage took and which replica scored which documents, under `timings`; not on /score, nor to TEI's
    client."""

    @property
    def log_odds(self) -> bool:
        return bool(self.raw_scores)

    @property
    def shows_spans(self) -> bool:
        return False

    @property
    def shows_evidence(self) -> bool:
        return False

    @property
    def span_terms(self) -> SpanTerms | None:
        return None

    def terms(self) -> dict[str, Any]:  # Any: of every type
        """The arguments of `RankRequest` that these fields are."""
        said: list[str | None] = []
        within = self.chat_template_kwargs or {}
        for name in _INSTRUCTIONS:
            said.append(within.get(name))
            if not isinstance(said[-1], str | None):
                raise InvalidRequestError(f"chat_template_kwargs.{name}", "must be a string")
        said += self.instruction, self.instruct
        priority = self.priority
        if isinstance(priority, int):
            priority = "bulk" if priority > 0 else "interactive"
        return {
            "instruction": next((one for one in said if one and one.strip()), None),
            "max_document_tokens": self.max_tokens_per_doc or None,
            "truncation_side": _SIDES[self.truncation_side],
            "long_documents": self.long_documents or ("windows" if self.max_chunks_per_doc else None),
            "aggregate": self.window_aggregate,
            "max_windows": self.max_chunks_per_doc,
            "overlap_tokens": self.overlap_tokens,
            "score_threshold": self.score_threshold,
            "priority": priority or "interactive",
            "timeout_s": self.timeout_s,
            "allow_partial": bool(self.allow_partial),
            "complete": self.complete,
            "cache": self.cache,
            "model": self.model,
            "spans": self.span_terms,
        }


class RelevantSpans(BaseModel):
    """Whether and which spans are wanted, as Cohere's client sends it."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    mode: Literal["enabled", "disabled"] = "enabled"
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    """Leave out spans with a lower score; absent: as configured, 0.1."""
    max_spans: PositiveInt | None = None
    """At most so many of each document; absent: all."""


class EvidenceOptions(Options):
    """What may come where an answer has a place for evidence."""

    relevant_spans: RelevantSpans | None = None
    """Say which parts of each returned document made it relevant: `{"mode": "enabled"}` (Cohere v2)."""
    return_documents: bool | Literal["evidence"] | None = None
    """Return each document too; "evidence": of its text only the spans."""
    max_evidence_tokens: PositiveInt | None = None
    """Tokens of all spans together, at most: the best are kept."""

    @property
    def shows_spans(self) -> bool:
        return self.relevant_spans is not None and self.relevant_spans.mode == "enabled"

    @property
    def shows_evidence(self) -> bool:
        return self.return_documents == "evidence"

    @property
    def span_terms(self) -> SpanTerms | None:
        if not (self.shows_spans or self.shows_evidence):
            return None
        asked = self.relevant_spans or RelevantSpans()
        return SpanTerms(asked.threshold, asked.max_spans, self.max_evidence_tokens)


class ListOptions(Options):
    """What may come with one query and its documents."""

    query: Item
    """What the documents are ranked for: a string, or an object with a `text`."""
    top_n: Annotated[int, Field(ge=0)] | None = None
    """How many of the best to return; absent, null or 0: all."""


def validate(model: type[Options], fields: Mapping[str, Any]) -> Options:
    """Check a body; raises InvalidRequestError, which names the first wrong field and never quotes its value."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=False, include_context=False)
    # A value of a wrong type brings a complaint from each branch of its union, with the branch's name in the path. So
    # only numbers, which are places in lists, and a nested object's fields are taken; the deepest is the most exact.
    top = found[0]["loc"][0]
    problems = [
        ([part for part in one["loc"][1:] if isinstance(part, int) or part in RelevantSpans.model_fields], one)
        for one in found
        if one["loc"][0] == top
    ]
    places, problem = max(problems, key=lambda one: len(one[0]))
    types = {one["type"] for where, one in problems if where == places}
    message = problem["msg"]
    if {"string_type", "dict_type"} <= types:
        message = "must be a string or an object" + (", or a list of these" if "list_type" in types else "")
    if problem["type"] == "too_short":
        message = "must not be empty"
    field = f"{top}" + "".join(f"[{place}]" if isinstance(place, int) else f".{place}" for place in places)
    raise InvalidRequestError(field, message[:1].lower() + message[1:])


def ignored_fields(fields: Mapping[str, Any], body: type[Options]) -> tuple[str, ...]:
    """The fields that a body of this type does not obey, as a client should know."""
    sent = fields.keys() & NOT_OBEYED.keys() - body.model_fields.keys()
    ignored = [name for name in NOT_OBEYED if name in sent and fields[name] not in (None, *NOT_OBEYED[name])]
    if isinstance(kwargs := fields.get("chat_template_kwargs"), dict) and kwargs.keys() - _INSTRUCTIONS:
        ignored.append("chat_template_kwargs")
    return tuple(ignored)


def texts_of(items: Sequence[Item], where: str, rank_fields: Sequence[str] = ()) -> tuple[str, ...]:
    """The text of each document; `where` is the field they came in.

    A string is its own text. An object's is its `text`; with `rank_fields`, these fields in this order, as YAML;
    without either, all of it as YAML, as Cohere advises. vLLM's `{"content": [{"type": "text", …}]}` is its parts.
    """
    order = {name: place for place, name in enumerate(rank_fields)}
    return tuple(
        item if isinstance(item, str) else _text_of(item, f"{where}[{index}]", order)
        for index, item in enumerate(items)
    )


def list_of(
    body: ListOptions, where: str, top_n: int | None, rank_fields: Sequence[str] = ()
) -> tuple[RankRequest, ...]:
    """The one list that was sent, its documents from the field `where`. See `texts_of`; a `top_n` of 0 is all."""
    items = getattr(body, where)
    query, texts = query_of(body.query, "query"), texts_of(items, where, rank_fields)
    return (RankRequest(query, texts, metadata=metadata_of(items), top_n=top_n or None, **body.terms()),)


def query_of(item: Item, where: str) -> str:
    if not (isinstance(item, str) or "text" in item or _is_content(item.get("content"))):
        raise InvalidRequestError(where, "must be a string or an object with a string `text`")
    text = item if isinstance(item, str) else _text_of(item, where, {})
    if not text[:_LOOKED_AT].strip():  # of 60 MB of spaces, all would take half a second
        raise InvalidRequestError(where, "must not be empty")
    return text


def _text_of(item: dict[str, Any], where: str, order: Mapping[str, int]) -> str:
    """Give an object's text. `order`: rank_fields, with their places."""
    if order:
        named = sorted(item.keys() & order.keys(), key=order.__getitem__)  # as long as the shorter of both
        chosen = {name: item[name] for name in named if item[name] is not None}
        if not chosen:
            raise InvalidRequestError(where, "has none of the fields that rank_fields names")
        if list(chosen) != ["text"]:
            return _as_yaml(chosen)
    if "text" in item:
        text = item["text"]
        if not isinstance(text, str):
            raise InvalidRequestError(f"{where}.text", "must be a string")
        return text
    if _is_content(item.get("content")):
        for number, part in enumerate(item["content"]):
            if not (part["type"] == "text" and isinstance(part.get("text"), str)):
                raise InvalidRequestError(f"{where}.content[{number}]", _NO_TEXT)
        return "\n".join(part["text"] for part in item["content"])
    if not item:
        raise InvalidRequestError(where, "must not be an empty object; give it a text")
    if item.keys() & _IMAGE and item.keys() <= {"type", *_IMAGE}:
        raise InvalidRequestError(where, _NO_TEXT)
    return _as_yaml(item)


def _not_true(number: Any) -> Any:  # Any: what has come
    if isinstance(number, bool):
        raise ValueError("must not be true or false")  # noqa: TRY004 - pydantic's own kind
    return number


def _parts_of(items: Any) -> Any:  # Any: what has come
    """Turn vLLM's one object for many documents, `{"content": [part, …]}`, into one for each."""
    if isinstance(items, dict) and _is_content(items.get("content")):
        return [{"content": [part]} for part in items["content"]]
    return items


def metadata_of(items: Sequence[Item]) -> tuple[Mapping[str, object], ...]:
    """What came with each document besides its text; empty when all are strings."""
    if all(isinstance(item, str) for item in items):
        return ()
    return tuple(
        {} if isinstance(item, str) else {key: value for key, value in item.items() if key != "text"} for item in items
    )


def _is_content(content: object) -> bool:
    return isinstance(content, list) and bool(content) and all(isinstance(p, dict) and "type" in p for p in content)


def _as_yaml(fields: Mapping[str, Any]) -> str:
    return str(yaml.dump(dict(fields), Dumper=_DUMPER, sort_keys=False, allow_unicode=True, width=2**30))
