"""Retrieval experiments: read their files, rerank their candidates, and compare two rankings of the same queries.

Blank lines are skipped. What cannot be read, or does not belong together, is an InputFileError with file and line.
ir-measures computes the measures; its readers name no line and do not read BEIR.
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from reranker.errors import InputFileError
from reranker.offline import RowError, lines_of, parse_json, string, text_of

Judgments: TypeAlias = dict[str, dict[str, int]]
"""Query id -> document id -> relevance; 0 and less: judged, not relevant."""
Run: TypeAlias = dict[str, list[str]]
"""Query id -> document ids, best first."""

METRICS = {"nDCG@10": "nDCG@10", "MRR@10": "RR@10", "recall@10": "R@10"}
"""Our names of the metrics -> those of ir-measures."""
_RESAMPLES, _SEED = 10_000, 0
_LEVEL = 0.05


def parse_text_line(line: str) -> tuple[str, str]:
    """Read id and text, with a title before it: of BEIR's JSON, or of id, maybe title, and text with tabs between."""
    if line.startswith("{"):
        row = parse_json(line)
        key = row.get("_id")
        key = str(key) if isinstance(key, int) and not isinstance(key, bool) else string(key, "has no `_id`")
        text = string(row.get("text"), "has no string `text`")
        title = string(row.get("title") or "", "has no string `title`")
    else:
        key, *columns = line.split("\t")
        if len(columns) not in (1, 2):
            raise RowError("must be an object with `_id` and `text`, or id<TAB>text")
        title, text = columns if len(columns) == 2 else ("", *columns)
    if not key:
        raise RowError("has no id")
    return key, f"{title} {text}".strip() if title else text


@contextlib.contextmanager
def _opened(path: str, *, headed: bool = False) -> Iterator[Iterator[str]]:
    """Give the lines of a file that are not blank; what is wrong in the block is told with the file and the line."""
    number: int | None = None

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in lines_of(file, headed=headed):  # noqa: B007 - told when a line is no good
            yield text_of(line)
        number = None

    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            yield lines()
    except RowError as error:
        raise InputFileError(path, number, error.problem) from None
    except OSError as error:
        raise InputFileError(path, None, error.strerror or str(error)) from None


def read_documents(path: str) -> list[str]:
    """Read the candidates of one query from a text file with one document a line, or from JSON lines; "-": stdin.

    JSON lines are strings, or objects with a `text`. A file holds them if it is named `.jsonl`, or if its first line is
    such an object.
    """
    documents: list[str] = []
    as_json = path.endswith(".jsonl")
    with _opened(path) as lines:
        for line in lines:
            if not documents and not as_json:
                with contextlib.suppress(RowError):
                    first = parse_json(line)
                    as_json = isinstance(first, dict) and "text" in first
            value = parse_json(line) if as_json else line
            if isinstance(value, dict):
                documents.append(string(value.get("text"), "has no string `text`"))
            else:
                documents.append(string(value, "must be a string or an object with a `text`"))
        if not documents:
            raise RowError("holds no document; one a line is expected")
    return documents


def read_texts(path: str, wanted: Container[str]) -> dict[str, str]:
    """Read the wanted queries, or documents of a corpus, by id."""
    texts: dict[str, str] = {}
    with _opened(path, headed=True) as lines:
        for key, text in map(parse_text_line, lines):
            if key in texts:
                raise RowError(f"has the id {key!r} a second time")
            if key in wanted:
                texts[key] = text
    return texts


def read_judgments(path: str) -> Judgments:
    """Read TREC's four columns, or BEIR's three with a line of headings."""
    judgments: Judgments = {}
    with _opened(path, headed=True) as lines:
        for line in lines:
            columns = line.split("\t") if line.count("\t") == 2 else line.split()
            if len(columns) not in (3, 4):
                raise RowError("must be `query 0 document relevance`, or three columns without the 0")
            query, document, relevance = columns[0], columns[-2], columns[-1]
            try:
                value = int(relevance)
            except ValueError:
                raise RowError(f"the relevance {relevance!r} is no whole number") from None
            if judgments.setdefault(query, {}).setdefault(document, value) != value:
                raise RowError(f"judges document {document!r} a second time, and differently")
        if not judgments:
            raise RowError("holds no judgment")
    return judgments


def read_run(path: str) -> Run:
    """Read TREC's six columns, and order by score, equal scores by rank; trec_eval orders those by id."""
    places: dict[str, dict[str, tuple[float, int]]] = {}
    with _opened(path) as lines:
        for line in lines:
            columns = line.split(maxsplit=5)
            if len(columns) != 6:
                raise RowError("must be `query Q0 document rank score tag`")
            query, _, document, rank, score, _ = columns
            try:
                place = (-float(score), int(rank))
            except ValueError:
                raise RowError(f"rank {rank!r} or score {score!r} is no number") from None
            if not math.isfinite(place[0]):
                raise RowError(f"the score {score!r} is not finite")
            if places.setdefault(query, {}).setdefault(document, place) is not place:
                raise RowError(f"has document {document!r} a second time for query {query!r}")
        if not places:
            raise RowError("holds no candidate")
    return {query: sorted(of_query, key=of_query.__getitem__) for query, of_query in places.items()}


def run_tags(path: str) -> set[str]:
    """Read the last of TREC's six columns, in lower case: who made the run."""
    if path == "-":
        return set()
    with _opened(path) as lines:
        return {columns[5].casefold() for columns in (line.split(maxsplit=5) for line in lines) if len(columns) == 6}


def write_run(path: Path, run: Mapping[str, Sequence[tuple[str, float]]]) -> None:
    """Write a TREC run; `run` is best first."""
    try:
        with path.open("w", encoding="utf-8") as file:
            for query, ranking in run.items():
                for rank, (document, score) in enumerate(ranking, start=1):
                    file.write(f"{query} Q0 {document} {rank} {score!r} reranker\n")
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
    """Read the four files; of queries and corpus what is needed. `every_query`: also those that do not count."""
    judged, run = read_judgments(judgments), read_run(candidates)
    measured = set(measured_queries(judged))
    chosen = {query: documents for query, documents in run.items() if every_query or query in measured}
    if not measured & chosen.keys():
        raise InputFileError(candidates, None, f"none of its queries has a relevant document in {judgments}")
    texts: list[dict[str, str]] = []
    documents = {document for of_query in chosen.values() for document in of_query}
    for path, wanted, what in ((queries, set(chosen), "query"), (corpus, documents, "candidate")):
        texts.append(read_texts(path, wanted))
        if missing := sorted(wanted - texts[-1].keys()):
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise InputFileError(path, None, f"lacks {missing[0]!r}{more}, a {what} of {candidates}")
    return Experiment(texts[0], texts[1], chosen, judged, len(run.keys() - measured))


def rerank(
    experiment: Experiment,
    rank: Callable[[str, Sequence[str]], Iterable[tuple[int, float]]],
    *,
    depth: int | None = None,
    advance: Callable[[int], object] = lambda rows: None,
) -> dict[str, list[tuple[str, float]]]:
    """Rerank each query's candidates, or the first `depth` of them; `advance` gets their number after each query.

    `rank` gives (position, score) of a query's documents, best first; so does this, with the documents' ids. Candidates
    that were not reranked follow behind, with scores from -2 down.
    """
    run = {}
    for query, documents in experiment.candidates.items():
        head = documents[:depth]
        ranking = rank(experiment.queries[query], [experiment.corpus[document] for document in head])
        run[query] = [(head[index], score) for index, score in ranking]
        run[query] += [(document, float(-2 - place)) for place, document in enumerate(documents[len(head) :])]
        advance(len(head))
    return run


def measured_queries(judgments: Judgments) -> list[str]:
    """Queries that count: those with a relevant document. For the others every ranking is as good."""
    return [query for query, documents in judgments.items() if any(relevance > 0 for relevance in documents.values())]


def per_query(judgments: Judgments, run: Run) -> dict[str, NDArray[np.float64]]:
    """Measure every query that counts: metric -> shape (queries,), in the order of `measured_queries`.

    One without candidates has 0 everywhere; unjudged documents are irrelevant. nDCG has the relevance as gain
    (trec_eval's, not 2^relevance - 1).
    """
    import ir_measures  # here: commands that measure nothing need not wait for it

    queries = {query: place for place, query in enumerate(measured_queries(judgments))}
    # Places instead of scores: trec_eval would order equal scores by document id.
    scored = {
        query: {doc: float(-place) for place, doc in enumerate(run[query])} for query in queries if run.get(query)
    }
    measures = {ir_measures.parse_measure(name): metric for metric, name in METRICS.items()}
    measured = {metric: np.zeros(len(queries)) for metric in METRICS}
    for one in ir_measures.iter_calc(list(measures), {query: judgments[query] for query in queries}, scored):
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
    difference_error: float
    low: float
    """The difference's 95 % interval: paired bootstrap over the queries."""
    high: float
    p_value: float
    """Of a difference as large or larger if the two were alike: paired randomization test; NaN as above."""

    @property
    def verdict(self) -> Literal["better", "worse", "cannot be told"]:
        """Whether `after` is better: only where interval and test agree; with few queries the first is too narrow."""
        if self.p_value < _LEVEL and (self.low > 0 or self.high < 0):
            return "better" if self.difference > 0 else "worse"
        return "cannot be told"


def means(judgments: Judgments, run: Run) -> dict[str, tuple[float, float]]:
    """Measure a run: metric -> the mean over the queries that count, and its standard error."""
    return {metric: _mean(values) for metric, values in per_query(judgments, run).items()}


def compare(judgments: Judgments, before: Run, after: Run) -> list[Comparison]:
    """Compare two runs, metric by metric."""
    first, second = per_query(judgments, before), per_query(judgments, after)
    compared = []
    for metric, values in first.items():
        differences = second[metric] - values
        figures = (*_mean(values), *_mean(second[metric]), *_mean(differences))
        compared.append(Comparison(metric, *figures, *_interval(differences), _p_value(differences)))
    return compared


def in_words(compared: Comparison, baseline: str, queries: int) -> str:
    """Say in one sentence whether a ranker helps, beside `baseline`."""
    interval = f"95 % interval {compared.low:+.3f} to {compared.high:+.3f}, p = {compared.p_value:.2g}"
    error = f" ± {compared.difference_error:.3f}"
    if math.isnan(compared.low):
        error, interval = "", "one query has no interval"
    figures = f"{error} {compared.metric} ({interval}, queries: {queries})"
    if compared.verdict == "cannot be told":
        return f"cannot be told from {baseline}: {compared.difference:+.3f}{figures}"
    return f"{compared.verdict} than {baseline} by {abs(compared.difference):.3f}{figures}"


def _mean(values: NDArray[np.float64]) -> tuple[float, float]:
    """The mean and its standard error."""
    error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan
    return float(values.mean()), error


def _interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of the mean over resampled queries; the same at every call."""
    count = len(differences)
    if count < 2:
        return math.nan, math.nan
    # A multinomial says how often each query is drawn.
    drawn = _drawn(differences, lambda draw, size: draw.multinomial(count, np.full(count, 1 / count), size=size))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return float(low), float(high)


def _p_value(differences: NDArray[np.float64]) -> float:
    """How often the mean is as far from 0 when chance says which of the two rankings is which, query by query."""
    if len(differences) < 2:
        return math.nan
    signs = _drawn(differences, lambda draw, size: draw.choice((-1.0, 1.0), size=(size, len(differences))))
    as_far = np.abs(signs) >= abs(float(differences.mean())) - 1e-12  # sums in another order
    return float((as_far.sum() + 1) / (_RESAMPLES + 1))


def _drawn(
    differences: NDArray[np.float64], weights: Callable[[np.random.Generator, int], NDArray[Any]]
) -> NDArray[np.float64]:
    """Means of the differences with weights drawn anew, the same ones at every call."""
    draw, count = np.random.default_rng(_SEED), len(differences)
    block = max(1, 5_000_000 // count)  # for memory
    sizes = [min(block, _RESAMPLES - start) for start in range(0, _RESAMPLES, block)]
    means: NDArray[np.float64] = np.concatenate([weights(draw, size) @ differences for size in sizes]) / count
    return means
