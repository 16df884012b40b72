"""`reranker eval`: how good is the ranking on judged queries, before and after reranking."""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from deployments.cli import Subparsers, rankers
from deployments.cli.rankers import positive
from reranker.client import RerankerClient
from reranker.errors import CommandError
from reranker.offline import evaluation, formats
from reranker.offline.evaluation import Comparison

_FILES = {
    "queries": ("queries.jsonl", "BEIR JSON lines with _id and text, or id<TAB>text"),
    "corpus": ("corpus.jsonl", "the same, maybe with a title; may hold more than the candidates"),
    "candidates": ("candidates.trec", "TREC run: query Q0 document rank score tag; its order is `before`"),
    "judgments": ("qrels/test.tsv", "TREC qrels or BEIR TSV"),
}


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("eval", help="measure nDCG@10, MRR@10 and recall@10 on judged queries")
    parser.add_argument("folder", nargs="?", type=Path, help="where the four files are, unless given one by one")
    for option, (file, form) in _FILES.items():
        parser.add_argument(f"--{option}", metavar="FILE", help=f"{form} (default: FOLDER/{file})")
    parser.add_argument("--depth", type=positive, metavar="N", help="rerank the first N candidates only (default: all)")
    parser.add_argument(
        "--search",
        metavar="INDEX",
        help="candidates come from POST /v1/search on this index of the service; the ids must be its documents'",
    )
    parser.add_argument("--first-stage", help="with --search: bm25, dense, hybrid or milvus; default: the index's")
    parser.add_argument("--run-out", type=Path, metavar="FILE", help="write all reranked candidates as a TREC run")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    rankers.add_arguments(parser)
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Rank, measure, print; returns the exit status."""
    facts, compared = _search(parsed) if parsed.search is not None else _rerank(parsed)
    print(_json(facts, compared) if parsed.json else "\n".join(_table(facts, compared)))
    return 0


def _rerank(parsed: argparse.Namespace) -> tuple[dict[str, object], list[Comparison]]:
    paths = {option: _path(parsed, option) for option in _FILES}
    loaded = evaluation.load(**paths, every_query=parsed.run_out is not None)
    pairs = sum(len(documents[: parsed.depth]) for documents in loaded.candidates.values())
    with rankers.open_ranker(parsed) as ranker, rankers.progress(pairs) as advance:

        def rank(query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
            ranked = rankers.rank_list(ranker, query, documents, instruction=parsed.instruction)
            return [(one.index, one.relevance_score) for one in ranked]

        started = time.monotonic()
        reranked = evaluation.rerank(loaded, rank, depth=parsed.depth, advance=advance)
        seconds = time.monotonic() - started
    if parsed.run_out is not None:
        formats.write_run(parsed.run_out, reranked, tag="reranker")
    after = {query: [document for document, _ in ranking] for query, ranking in reranked.items()}
    facts = {
        "ranker": rankers.name(parsed),
        "instruction": parsed.instruction,
        "queries": len(evaluation.measured_queries(loaded.judgments)),
        "queries_without_candidates": loaded.queries_without_candidates,
        "unjudged_queries": loaded.unjudged_queries,
        "pairs": pairs,
        "seconds": round(seconds, 3),
    }
    return facts, evaluation.compare(loaded.judgments, loaded.candidates, after)


def _search(parsed: argparse.Namespace) -> tuple[dict[str, object], list[Comparison]]:
    """Search with every judged query; `before` is the order of the first stage."""
    if parsed.local or parsed.run_out or parsed.candidates:
        raise CommandError("--search asks a service: without --local, --run-out and --candidates")
    judgments = formats.read_judgments(_path(parsed, "judgments"))
    wanted = evaluation.measured_queries(judgments)
    queries = formats.read_texts(_path(parsed, "queries"), set(wanted))
    asked = {name: getattr(parsed, name) for name in ("first_stage", "depth", "instruction")}
    before: dict[str, list[str]] = {}
    after: dict[str, list[str]] = {}
    started = time.monotonic()
    with (
        RerankerClient(parsed.url, api_key=os.environ.get(rankers.API_KEY)) as client,
        rankers.progress(len(queries)) as advance,
    ):
        for query, text in queries.items():
            before[query], after[query] = search(client, text, index=parsed.search, **asked)
            advance(1)
    facts: dict[str, object] = {
        "ranker": f"{parsed.url}, index {parsed.search}",
        "instruction": parsed.instruction,
        "first_stage": parsed.first_stage,
        "queries": len(wanted),
        "queries_without_candidates": sum(not before.get(query) for query in wanted),
        "unjudged_queries": len(judgments) - len(wanted),
        "pairs": sum(len(documents) for documents in before.values()),
        "seconds": round(time.monotonic() - started, 3),
    }
    return facts, evaluation.compare(judgments, before, after)


def search(
    client: RerankerClient,
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
    found = client.search(
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


def _path(parsed: argparse.Namespace, option: str) -> str:
    given: str | None = getattr(parsed, option)
    if given is not None:
        return given
    if parsed.folder is None:
        raise CommandError(f"give a FOLDER with {_FILES[option][0]} in it, or --{option} FILE")
    return str(parsed.folder / _FILES[option][0])


def _json(facts: dict[str, object], compared: Sequence[Comparison]) -> str:
    figures = {
        one.metric: {
            field: None if math.isnan(value) else round(value, 6)
            for field in ("before", "before_error", "after", "after_error", "difference", "low", "high")
            for value in [getattr(one, field)]
        }
        for one in compared
    }
    return json.dumps(facts | {"metrics": figures}, ensure_ascii=False)


def _table(facts: dict[str, object], compared: Sequence[Comparison]) -> list[str]:
    """Markdown, so that it can be pasted."""
    lines = [
        f"{facts['queries']} queries, {facts['pairs']} pairs in {facts['seconds']:.1f} s, ranked by {facts['ranker']}"
    ]
    if facts["queries_without_candidates"]:
        lines.append(f"{facts['queries_without_candidates']} of them have no candidates and count as 0")
    if facts["unjudged_queries"]:
        lines.append(f"{facts['unjudged_queries']} more queries are left out: no relevant document is known for them")
    lines += ["", "| metric | before | after | difference (95 % interval) |", "|---|---|---|---|"]
    for one in compared:
        before = f"{one.before:.3f} ± {one.before_error:.3f}"
        after = f"{one.after:.3f} ± {one.after_error:.3f}"
        lines.append(
            f"| {one.metric} | {before} | {after} | {one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f}) |"
        )
    return lines
