"""Retrieval experiments: read their files, rerank their candidates, and compare two rankings of the same queries.

A line that cannot be read stops the reading with its file and number; blank lines are skipped. ir-measures computes the
measures; its readers name no line and do not read BEIR.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reranker.errors import InputFileError
from reranker.offline import MAX_LINE_BYTES, numbered_lines

Judgments: TypeAlias = dict[str, dict[str, int]]
"""Query id -> document id -> relevance; 0 and less: judged, not relevant."""
Run: TypeAlias = dict[str, list[str]]
"""Query id -> document ids, best first."""
Rank: TypeAlias = Callable[[str, Sequence[str]], Iterable[tuple[int, float]]]
"""Ranks documents for a query: (position, score), best first."""
ScoredRun: TypeAlias = dict[str, list[tuple[str, float]]]
"""Query id -> (document id, score), best first."""

METRICS = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10", "recall@10": "R@10"}
"""Our names of the metrics -> those of ir-measures."""
_RESAMPLES, _SEED = 10_000, 0
_ID_HEADERS = frozenset({"_id", "id", "qid", "docid", "query-id", "corpus-id", "query_id", "corpus_id"})


def is_heading(line: str) -> bool:
    """Whether a first line names columns instead of filling them."""
    return line.split("\t")[0] in _ID_HEADERS


def parse_text_line(path: str, number: int, line: str) -> tuple[str, str]:
    """Read id and text from a line of queries or of a corpus; raises InputFileError if it is malformed.

    The line is BEIR's JSON (`_id`, `text`, maybe `title`), or id, maybe title, and text with tabs between. A title goes
    before the text, with a space.
    """
    if line.startswith("{"):
        row = _json(path, number, line)
        key = row.get("_id")
        if isinstance(key, int) and not isinstance(key, bool):
            key = str(key)
        if not isinstance(key, str) or not key:
            raise InputFileError(path, number, "has no `_id`")
        text = _string(path, number, row, "text")
        title = _string(path, number, row, "title") if row.get("title") else ""
    else:
        key, *columns = line.split("\t")
        if not key or len(columns) not in (1, 2):
            raise InputFileError(path, number, "must be an object with `_id` and `text`, or id<TAB>text")
        *titles, text = columns
        title = "".join(titles)
    return key, f"{title} {text}".strip() if title else text


def decode_line(path: str, number: int, raw: bytes | None) -> str:
    """Give a line as text, without its end; raises InputFileError if it is too long (None) or not UTF-8."""
    if raw is None:
        raise InputFileError(path, number, f"has more than {MAX_LINE_BYTES} bytes")
    try:
        return raw.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise InputFileError(path, number, "is not UTF-8") from None


def _lines(path: str) -> Iterator[tuple[int, str]]:
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            for number, raw in numbered_lines(file):
                line = decode_line(path, number, raw)
                if line.strip():
                    yield number, line
    except OSError as error:
        raise InputFileError(path, None, error.strerror or str(error)) from None


def _json(path: str, number: int, line: str) -> Any:  # Any: JSON
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        raise InputFileError(path, number, f"is not JSON: {reason}") from None


def _string(path: str, number: int, row: dict[str, Any], key: str) -> str:
    if not isinstance(row.get(key), str):
        raise InputFileError(path, number, f"has no string `{key}`")
    return _sound(path, number, row[key])


def _sound(path: str, number: int, text: str) -> str:
    """JSON can hold half of a surrogate pair, which no encoding can carry to a service."""
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputFileError(path, number, "holds half of a surrogate pair, which is no text")
    return text


def read_documents(path: str) -> list[str]:
    """Read the candidates of one query from a text file with one document a line, or from JSON lines; "-": stdin.

    JSON lines are strings, or objects with a `text`. A file holds them if it is named `.jsonl`, or if its first line is
    such an object. Raises InputFileError if the file is unreadable, malformed or empty.
    """
    documents: list[str] = []
    as_json = path.endswith(".jsonl")
    for number, line in _lines(path):
        if not documents and not as_json:
            with contextlib.suppress(InputFileError):
                first = _json(path, number, line)
                as_json = isinstance(first, dict) and "text" in first
        value = _json(path, number, line) if as_json else line
        if isinstance(value, dict):
            documents.append(_string(path, number, value, "text"))
        elif isinstance(value, str):
            documents.append(_sound(path, number, value))
        else:
            raise InputFileError(path, number, "must be a string or an object with a `text`")
    if not documents:
        raise InputFileError(path, None, "holds no document; one a line is expected")
    return documents


def read_texts(path: str, wanted: Container[str]) -> dict[str, str]:
    """Read the wanted queries, or documents of a corpus, by id: lines of `parse_text_line`, maybe with a heading.

    Raises InputFileError if the file is unreadable or malformed, or has an id twice.
    """
    texts: dict[str, str] = {}
    for position, (number, line) in enumerate(_lines(path)):
        if position == 0 and is_heading(line):
            continue
        key, text = parse_text_line(path, number, line)
        if key in texts:
            raise InputFileError(path, number, f"has the id {key!r} a second time")
        if key in wanted:
            texts[key] = text
    return texts


def read_judgments(path: str) -> Judgments:
    """Read TREC's four columns, or BEIR's three with a line of headings.

    Raises InputFileError if the file is unreadable, malformed, contradictory or empty.
    """
    judgments: Judgments = {}
    for position, (number, line) in enumerate(_lines(path)):
        columns = line.split("\t") if line.count("\t") == 2 else line.split()
        if position == 0 and columns[0] in _ID_HEADERS:
            continue
        if len(columns) not in (3, 4):
            raise InputFileError(path, number, "must be `query 0 document relevance`, or three columns without the 0")
        query, document, relevance = columns[0], columns[-2], columns[-1]
        try:
            value = int(relevance)
        except ValueError:
            raise InputFileError(path, number, f"the relevance {relevance!r} is no whole number") from None
        if judgments.setdefault(query, {}).setdefault(document, value) != value:
            raise InputFileError(path, number, f"judges document {document!r} a second time, and differently")
    if not judgments:
        raise InputFileError(path, None, "holds no judgment")
    return judgments


def read_run(path: str) -> Run:
    """Read TREC's six columns: query, Q0, document, rank, score, tag.

    Documents are ordered by score, equal scores by rank. (trec_eval orders those by id.) Raises InputFileError if the
    file is unreadable, malformed or empty, or has a document twice for a query.
    """
    places: dict[str, dict[str, tuple[float, int]]] = {}
    for number, line in _lines(path):
        columns = line.split(maxsplit=5)
        if len(columns) != 6:
            raise InputFileError(path, number, "must be `query Q0 document rank score tag`")
        query, _, document, rank, score, _ = columns
        try:
            place = (-float(score), int(rank))
        except ValueError:
            raise InputFileError(path, number, f"rank {rank!r} or score {score!r} is no number") from None
        if not math.isfinite(place[0]):
            raise InputFileError(path, number, f"the score {score!r} is not finite")
        if document in places.setdefault(query, {}):
            raise InputFileError(path, number, f"has document {document!r} a second time for query {query!r}")
        places[query][document] = place
    if not places:
        raise InputFileError(path, None, "holds no candidate")
    return {query: sorted(of_query, key=of_query.__getitem__) for query, of_query in places.items()}


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """Write a TREC run; `run` is best first."""
    lines = (
        f"{query} Q0 {document} {rank} {score!r} {tag}\n"
        for query, ranking in run.items()
        for rank, (document, score) in enumerate(ranking, start=1)
    )
    try:
        with path.open("w", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise InputFileError(str(path), None, f"cannot be written ({error.strerror})") from None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Judged queries and their candidates: texts by id."""

    queries: dict[str, str]
    corpus: dict[str, str]
    candidates: Run
    judgments: Judgments
    unjudged_queries: int
    """Queries of the run without a relevant document: they count in no figure."""


def load(queries: str, corpus: str, candidates: str, judgments: str, *, every_query: bool = False) -> Experiment:
    """Read the four files; of queries and corpus only what is needed.

    `every_query`: queries without a relevant document, too. Raises InputFileError if a file is unreadable or malformed,
    or if the files do not belong together.
    """
    judged = read_judgments(judgments)
    run = read_run(candidates)
    measured = set(measured_queries(judged))
    chosen = run if every_query else {query: documents for query, documents in run.items() if query in measured}
    if not measured & chosen.keys():
        raise InputFileError(candidates, None, f"none of its queries has a relevant document in {judgments}")
    query_texts = _required_texts(queries, set(chosen), f"query of {candidates}")
    wanted = {document for documents in chosen.values() for document in documents}
    texts = _required_texts(corpus, wanted, f"candidate of {candidates}")
    return Experiment(query_texts, texts, chosen, judged, len(run.keys() - measured))


def _required_texts(path: str, wanted: set[str], what: str) -> dict[str, str]:
    texts = read_texts(path, wanted)
    missing = sorted(wanted - texts.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputFileError(path, None, f"lacks {missing[0]!r}{more}, a {what}")
    return texts


def rerank(
    experiment: Experiment,
    rank: Rank,
    *,
    depth: int | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> ScoredRun:
    """Rerank each query's candidates, or the first `depth` of them; `advance` gets their number after each query.

    Candidates that were not reranked follow behind, with scores from -2 down.
    """
    run: ScoredRun = {}
    for query, documents in experiment.candidates.items():
        head, rest = documents[:depth], documents[depth:] if depth is not None else []
        ranking = rank(experiment.queries[query], [experiment.corpus[document] for document in head])
        run[query] = [(head[index], score) for index, score in ranking]
        run[query] += [(document, float(-2 - place)) for place, document in enumerate(rest)]
        advance(len(head))
    return run


def measured_queries(judgments: Judgments) -> list[str]:
    """List the queries that count: those with a relevant document. For the others every ranking is as good."""
    return [query for query, documents in judgments.items() if any(relevance > 0 for relevance in documents.values())]


def per_query(judgments: Judgments, run: Mapping[str, Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """Measure every query that counts; one without candidates has 0 everywhere, and unjudged documents are irrelevant.

    Returns:
        Metric -> shape (queries,), in the order of `measured_queries`. nDCG has the relevance as gain (trec_eval's,
        not 2^relevance - 1).
    """
    import ir_measures  # here: commands that measure nothing need not wait for it

    queries = {query: place for place, query in enumerate(measured_queries(judgments))}
    # Places instead of scores: trec_eval would order equal scores by document id.
    scored = {query: {doc: float(-place) for place, doc in enumerate(run.get(query, ()))} for query in queries}
    measures = {ir_measures.parse_measure(name): metric for metric, name in METRICS.items()}
    measured = {metric: np.zeros(len(queries)) for metric in METRICS}
    judged = {query: judgments[query] for query in queries}
    for one in ir_measures.iter_calc(list(measures), judged, {query: docs for query, docs in scored.items() if docs}):
        measured[measures[one.measure]][queries[one.query_id]] = one.value
    return measured


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric before and after, over the same queries."""

    metric: str
    before: float
    before_error: float
    """Standard error of the mean; NaN with fewer than two queries."""
    after: float
    after_error: float
    difference: float
    low: float
    """The difference's 95 % interval: paired bootstrap over the queries."""
    high: float


def compare(
    judgments: Judgments, before: Mapping[str, Sequence[str]], after: Mapping[str, Sequence[str]]
) -> list[Comparison]:
    """Compare two runs, metric by metric."""
    first, second = per_query(judgments, before), per_query(judgments, after)
    return [
        Comparison(metric, *_mean(first[metric]), *_mean(second[metric]), *_mean_and_interval(second[metric] - values))
        for metric, values in first.items()
    ]


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean and its standard error."""
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(values.mean()), error


def _mean_and_interval(differences: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean, and its 2.5th and 97.5th percentile over resampled queries; the same at every call."""
    mean, count = float(differences.mean()), len(differences)
    if count < 2:
        return mean, math.nan, math.nan
    draw = np.random.default_rng(_SEED)
    # A multinomial says how often each query is drawn. In blocks, for memory.
    share = np.full(count, 1 / count)
    block = max(1, 5_000_000 // count)
    means = [
        draw.multinomial(count, share, size=min(block, _RESAMPLES - start)) @ differences
        for start in range(0, _RESAMPLES, block)
    ]
    low, high = np.percentile(np.concatenate(means) / count, [2.5, 97.5])
    return mean, float(low), float(high)
