"""Judged queries with their candidates, and what a ranker makes of them. Knows neither HTTP nor an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from reranker.offline.evaluation import formats
from reranker.offline.evaluation.formats import InputFileError, Judgments, Run
from reranker.offline.evaluation.metrics import measured_queries

Rank: TypeAlias = Callable[[str, Sequence[str]], Iterable[tuple[int, float]]]
"""Ranks documents for a query: (position, score), best first."""
ScoredRun: TypeAlias = dict[str, list[tuple[str, float]]]
"""Query id -> (document id, score), best first."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything one evaluation needs, read and checked."""

    queries: dict[str, str]
    """Texts of the queries to rerank, by id."""
    corpus: dict[str, str]
    """Texts of their candidates, by id."""
    candidates: Run
    """For the queries to rerank only."""
    judgments: Judgments
    unjudged_queries: int
    """Queries of the run that count in no figure: nothing relevant is known for them."""

    @property
    def queries_without_candidates(self) -> int:
        """Queries that count as 0 before and after, because the run has nothing for them."""
        return sum(query not in self.candidates for query in measured_queries(self.judgments))


def load(queries: str, corpus: str, candidates: str, judgments: str, *, every_query: bool = False) -> Experiment:
    """Read the four files, and of queries and corpus only what is needed.

    Args:
        queries: Path; see `formats.read_texts`.
        corpus: Path; see `formats.read_texts`.
        candidates: Path; see `formats.read_run`.
        judgments: Path; see `formats.read_judgments`.
        every_query: Rerank queries that have no relevant judgment too.

    Raises:
        InputFileError: A file is unreadable or malformed, or they do not belong together.
    """
    judged = formats.read_judgments(judgments)
    run = formats.read_run(candidates)
    counted = set(measured_queries(judged))
    chosen = run if every_query else {query: documents for query, documents in run.items() if query in counted}
    if not counted & chosen.keys():
        raise InputFileError(candidates, None, f"none of its queries has a relevant document in {judgments}")
    query_texts = formats.read_texts(queries, chosen.keys())
    wanted = {document for documents in chosen.values() for document in documents}
    texts = formats.read_texts(corpus, wanted)
    _require(query_texts, chosen.keys(), queries, f"query of {candidates}")
    _require(texts, wanted, corpus, f"candidate of {candidates}")
    return Experiment(query_texts, texts, chosen, judged, sum(query not in counted for query in run))


def rerank(
    experiment: Experiment, rank: Rank, *, depth: int | None = None, advance: Callable[[int], object] | None = None
) -> ScoredRun:
    """Rerank every query's candidates.

    Args:
        experiment: What to rerank.
        rank: The ranker.
        depth: Rerank only the best so many of each query; the others keep their order, behind them.
        advance: Told the number of documents after each query.

    Returns:
        What the ranker gave, and behind it the candidates that were not reranked, with scores from -2 down.
    """
    run: ScoredRun = {}
    for query, documents in experiment.candidates.items():
        head, rest = documents[:depth], documents[depth:] if depth is not None else []
        ranking = rank(experiment.queries[query], [experiment.corpus[document] for document in head])
        run[query] = [(head[index], score) for index, score in ranking]
        run[query] += [(document, float(-2 - place)) for place, document in enumerate(rest)]
        if advance is not None:
            advance(len(head))
    return run


class Searcher(Protocol):
    """Searches an index; `RerankerClient` does."""

    def search(
        self,
        query: str,
        *,
        index: str | None = None,
        top_n: int | None = None,
        candidates: int | None = None,
        instruction: str | None = None,
        score_threshold: float | None = None,
        first_stage: str | None = None,
    ) -> Sequence[Found]:
        """See `RerankerClient.search`."""
        ...


class Found(Protocol):
    """A chunk that was found."""

    @property
    def id(self) -> str:
        """The document's."""
        ...

    @property
    def first_stage_rank(self) -> int:
        """From 1."""
        ...


def search(
    searcher: Searcher,
    query: str,
    *,
    index: str | None = None,
    first_stage: str | None = None,
    depth: int | None = None,
    instruction: str | None = None,
) -> tuple[list[str], list[str]]:
    """Search once, and give the documents in both orders: the first stage's, and that after reranking.

    A document is where its best chunk is. What the service's rules exclude is in neither.
    """
    found = searcher.search(
        query,
        index=index,
        top_n=0,
        candidates=depth,
        instruction=instruction,
        score_threshold=0.0,
        first_stage=first_stage,
    )
    by_first_stage = sorted(found, key=lambda one: one.first_stage_rank)
    return list(dict.fromkeys(one.id for one in by_first_stage)), list(dict.fromkeys(one.id for one in found))


def _require(texts: dict[str, str], wanted: Iterable[str], path: str, what: str) -> None:
    missing = sorted(set(wanted) - texts.keys())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputFileError(path, None, f"lacks {missing[0]!r}{more}, a {what}")
