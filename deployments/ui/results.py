"""What an answer says about each document, how two rankings differ, and what to do about an error. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from deployments.ui.documents import Document, text_of
from reranker import errors
from reranker.errors import RerankerError, UnreachableError

_PASSAGES = 5  # the best of a search, which a prompt quotes


class Row(NamedTuple):
    """One document of a ranking."""

    rank: int
    """From 1."""
    moved: int | None
    """Ranks up (positive) or down, against what it is compared with. None: it was not there."""
    score: float
    marks: tuple[str, ...]
    """What happened to it, in words."""
    place: int
    """In the input, from 0."""
    name: str
    text: str
    spans: tuple[tuple[int, int], ...] = ()
    """Parts of the text that made it relevant, in its order."""

    @property
    def pieces(self) -> list[tuple[str, bool]]:
        """The text in pieces, and whether each is a span."""
        bounds = [0, *(place for span in self.spans for place in span), len(self.text)]
        return [(self.text[start:end], number % 2 == 1) for number, (start, end) in enumerate(pairwise(bounds))]


class Omission(NamedTuple):
    """A document that is not in the ranking."""

    why: str
    place: int
    name: str
    text: str


class Advice(NamedTuple):
    """What is shown in place of an answer."""

    title: str
    message: str
    remedy: str


def rows(documents: Sequence[Document], answer: Mapping[str, Any]) -> list[Row]:
    """Give the ranking, best first, compared with the input order."""
    cut, windows = answer.get("truncated", ()), {one["index"]: one["windows"] for one in answer.get("windows", ())}
    marks = {index: {"truncated": index in cut, "windows": windows.get(index)} for index in {*cut, *windows}}
    stages = answer.get("stages") or {}
    for index in stages.get("ranked_again", ()):
        marks[index] = marks.get(index, {}) | {"ranked_again": stages.get("then", "?")}
    # Another object is shown otherwise than it was scored.
    unlike = [
        n for n, one in enumerate(documents) if not isinstance(one if isinstance(one, str) else one.get("text"), str)
    ]
    marks |= {index: marks.get(index, {}) | {"relevant_spans": ()} for index in unlike}
    return [
        _row(rank, one["index"] + 1, one | marks.get(one["index"], {}), *_input(documents, one["index"]))
        for rank, one in enumerate(answer["results"], start=1)
    ]


def omissions(documents: Sequence[Document], answer: Mapping[str, Any], top_n: int | None) -> list[Omission]:
    """Give the documents that are not in the ranking, and why, in input order."""
    ranked = {result["index"] for result in answer["results"]}
    why = {one["index"]: "not scored in time" for one in answer.get("unscored", ())}
    why |= {one["index"]: _exclusion(one) for one in answer.get("excluded", ())}
    below = f"not among the best {top_n}" if top_n else "not returned"
    left = (index for index in range(len(documents)) if index not in ranked)
    return [Omission(why.get(index, below), *_input(documents, index)) for index in left]


def search_rows(answer: Mapping[str, Any]) -> list[Row]:
    """Give a search's results, best first, with the ranks they had in the first stage."""
    found = []
    for rank, one in enumerate(answer["results"], start=1):
        before = one["first_stage_rank"]
        text = f"{one['title']}\n{one['text']}" if one.get("title") else one["text"]
        found.append(_row(rank, before, one, before - 1, _search_name(one), text))
    return found


def search_omissions(answer: Mapping[str, Any]) -> list[Omission]:
    """Give what rules and threshold took out of a search; the texts are not in the answer."""
    excluded = answer.get("excluded", ())
    return [Omission(_exclusion(one), place, _search_name(one), "") for place, one in enumerate(excluded)]


def prompt(query: str, answer: Mapping[str, Any]) -> str:
    """Write what a language model would be asked, with the best passages of a search as its sources."""
    sources = "\n\n".join(
        f"[{number}] {one['id']}\n{one['text']}" for number, one in enumerate(answer["results"][:_PASSAGES], start=1)
    )
    return f"Answer the question from these sources only, and name them by number.\n\n{sources}\n\nQuestion: {query}"


class Side(NamedTuple):
    """One of two rankings of the same list."""

    asked: str
    """The service and the model, where they were chosen."""
    instruction: str
    answer: Mapping[str, Any]
    took_ms: float
    reads: bool
    """False: the model reads no instruction, and was asked without."""
    rows: list[Row]

    @property
    def model(self) -> str:
        return str(self.answer.get("model", "?"))


def face(first: Side, second: Side) -> tuple[Side, Side]:
    """Give both, with how far each document moved from the first ranking to the second."""
    before, after = ({row.place: row.rank for row in side.rows} for side in (first, second))
    moved = {place: before[place] - after[place] for place in before.keys() & after.keys()}
    one, other = (
        side._replace(rows=[row._replace(moved=moved.get(row.place)) for row in side.rows]) for side in (first, second)
    )
    return one, other


def difference(first: Side, second: Side) -> str:
    """Say in a sentence or two how the second ranking differs from the first, and why if it does not."""
    if [row.place for row in first.rows] == [row.place for row in second.rows]:
        same = all(_shown(a.score) == _shown(b.score) for a, b in zip(first.rows, second.rows, strict=True))
        if first.asked != second.asked or not same:
            return "Both give the same order."
        if first.instruction == second.instruction:
            return "Both are the same: they were asked the same."
        if not (first.reads and second.reads):
            return f"Both are the same: {first.model} reads no instruction."
        return f"Both are the same: the instruction changes no score of {first.model}."
    moves = [row for row in face(first, second)[1].rows if row.moved]
    said = f"{len(moves)} of {len(second.rows)} documents have another rank."
    if first.rows and second.rows and first.rows[0].place == second.rows[0].place:
        said += " The best one is the same."
    if moves:
        most = max(moves, key=lambda row: abs(row.moved or 0))
        rank = most.rank + (most.moved or 0)
        said += f" Document {most.place + 1} moves most: from rank {rank} to {most.rank}."
    return said


def _shown(score: float) -> str:
    return f"{score:.3f}"


def choices(service: str, cards: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Give the names of a service's models, adapters and cascades (`GET /v1/models`), and what is shown of each."""
    found = {}
    for card in cards:
        kind = f"adapter of {card['parent']}" if card.get("parent") else ", then ".join(card.get("cascade", ()))
        shown = f"{card['id']}: {kind}" if kind else str(card["id"])
        found[str(card["id"])] = f"{service} / {shown}" if service else shown
    return found


def _row(rank: int, before: int, result: Mapping[str, Any], place: int, name: str, text: str) -> Row:
    cut = ("cut: too long for the model",) if result.get("truncated") else ()
    windows = (f"scored in {result['windows']} windows",) if result.get("windows") else ()
    again = (f"ranked again by {result['ranked_again']}",) if result.get("ranked_again") else ()
    spans = tuple(sorted((one["start"], one["end"]) for one in result.get("relevant_spans", ())))
    return Row(rank, before - rank, result.get("relevance_score", 0.0), cut + windows + again, place, name, text, spans)


def _input(documents: Sequence[Document], index: int) -> tuple[int, str, str]:
    """Give a document's place in the input, its name and its text."""
    return index, f"document {index + 1}", text_of(documents[index])


def _exclusion(excluded: Mapping[str, Any]) -> str:
    rule = str(excluded.get("rule", ""))
    return "below the threshold" if "threshold" in rule else f"excluded by the rule {rule}"


def _search_name(result: Mapping[str, Any]) -> str:
    return str(result["id"]) + (f", chunk {result['chunk'] + 1}" if result["chunk"] else "")


_LATER = ""
"""Try again, when the service says."""
_ADVICE: dict[type[RerankerError], tuple[str, str]] = {
    errors.RerankerError: ("The service failed", "Try again; if it happens again, its log says more."),
    errors.ClientError: ("The request was not understood", "Change what the sentence above names."),
    errors.UnknownInstructionError: ("No such instruction", "Names begin with @; write the instruction out instead."),
    errors.QueryTooLongError: ("The query is too long", "Shorten the query or the instruction."),
    errors.UnauthorizedError: ("An API key is needed", "Ask whoever runs the service; the field is at the top."),
    errors.ForbiddenError: ("Not allowed with this key", "Use a key that may do this."),
    errors.NotFoundError: ("Not found", "This service may be another version. Look at its /docs."),
    errors.SlowRequestError: ("The request did not arrive in time", "Try again."),
    errors.RequestTooLargeError: ("Too much at once", "Send fewer or shorter documents."),
    errors.QuotaExceededError: ("This key's share is used up", _LATER),
    errors.OverloadedError: ("The service is busy", _LATER),
    errors.NotReadyError: ("The model is still loading", _LATER),
    errors.StartFailedError: ("The model could not be loaded", "The service's log, for whoever runs it, says why."),
    errors.DeadlineExceededError: ("It took too long", "Send fewer or shorter documents, or try when it is quieter."),
    UnreachableError: ("No service there", "It may be restarting: try again. If it stays away, look at its log."),
}
"""Title and remedy of an error, and of all errors below it that are not named."""
_BY_STATUS = {kind.status_code: words for kind, words in _ADVICE.items() if kind.status_code not in (400, 500)} | {
    429: _ADVICE[errors.OverloadedError],
    503: ("The service is not ready", _LATER),
}
"""For codes that have no class of their own, such as those of another version."""


def advice(error: RerankerError) -> Advice:
    """Say what happened and what to do."""
    kind = next(one for one in type(error).__mro__ if one in _ADVICE)
    title, remedy = _ADVICE[kind]
    if kind in (errors.RerankerError, errors.ClientError):
        title, remedy = _BY_STATUS.get(error.status_code, (title, remedy))
    # Where the service is is not for visitors.
    message = "the service cannot be reached" if kind is UnreachableError else str(error)
    if kind is errors.UnauthorizedError and message == str(errors.UnauthorizedError(True)):
        title, remedy = "This API key is not known", "Check the key at the top of the page: no space, nothing missing."
    if remedy == _LATER:
        wait_s = error.retry_after_s
        remedy = "Try again in a moment." if wait_s is None else f"Try again in {wait_s} second{'s' * (wait_s != 1)}."
    return Advice(title, message[:1].upper() + message[1:], remedy)
