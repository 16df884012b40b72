"""`reranker eval`: how good is the ranking on judged queries, before and after reranking."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deployments.cli import Subparsers, rankers
from deployments.cli.rankers import positive
from reranker.client import RerankerClient
from reranker.errors import CommandError, InputFileError
from reranker.offline import evaluation
from reranker.offline.evaluation import Comparison, Experiment, Judgments, Run

_FILES = {
    "queries": ("queries.jsonl", "BEIR JSON lines with _id and text, or id<TAB>text"),
    "corpus": ("corpus.jsonl", "the same, maybe with a title; may hold more than the candidates"),
    "candidates": ("candidates.trec", "TREC run: query Q0 document rank score tag; its order is `before`"),
    "judgments": ("qrels/test.tsv", "TREC qrels or BEIR TSV"),
}
_FIRST_STAGE = "first-stage"
_FIRST_STAGES = ("bm25", "dense", "hybrid", "milvus")  # names that are no model's, whatever the candidates' tag says


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("eval", help="measure nDCG@10, MRR@10 and recall@10 on judged queries")
    parser.add_argument("folder", nargs="?", type=Path, help="where the four files are, unless given one by one")
    for option, (file, form) in _FILES.items():
        parser.add_argument(f"--{option}", metavar="FILE", help=f"{form} (default: FOLDER/{file})")
    parser.add_argument("--depth", type=positive, metavar="N", help="rerank the first N candidates only (default: all)")
    said = "candidates come from POST /v1/search on this index of the service; the ids must be its documents'"
    parser.add_argument("--search", metavar="INDEX", help=said)
    parser.add_argument("--first-stage", help="with --search: bm25, dense, hybrid or milvus; default: the index's")
    said = "say in words whether the ranking helps beside this one: first-stage (or its name, such as bm25), "
    said += "a TREC run, another service's URL, or a model of the service; default: the first stage, without the words"
    parser.add_argument("--against", metavar="BASELINE", help=said)
    parser.add_argument("--run-out", type=Path, metavar="FILE", help="write all reranked candidates as a TREC run")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    rankers.add_arguments(parser)
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Rank, measure, print; returns the exit status."""
    judgments, before, after, summary = (_rerank if parsed.search is None else _search)(parsed)
    baseline = summary.pop("baseline")
    wanted = evaluation.measured_queries(judgments)
    summary |= {
        "pairs": sum(len(documents[: parsed.depth]) for documents in before.values()),
        "instruction": parsed.instruction,
        "queries": len(wanted),
        "queries_without_candidates": sum(not before.get(query) for query in wanted),
    }
    compared = evaluation.compare(judgments, before, after)
    words = evaluation.in_words(compared[0], baseline, len(wanted)) if baseline else None
    if parsed.json:
        if baseline:
            summary["against"] = {"baseline": baseline, "verdict": compared[0].verdict, "in_words": words}
        metrics = {one.metric: dataclasses.asdict(one) for one in compared}
        for figures in metrics.values():
            del figures["metric"]
            figures |= {name: None if math.isnan(value) else round(value, 6) for name, value in figures.items()}
        print(json.dumps(summary | {"metrics": metrics}, ensure_ascii=False))
    else:
        print("\n".join([*_table(summary, compared, baseline), *(["", words] if words else [])]))
    return 0


def _rerank(parsed: argparse.Namespace) -> tuple[Judgments, Run, Run, dict[str, Any]]:
    """Rerank the candidates; gives judgments, the orders before and after, and some figures."""
    paths = {option: _path(parsed, option) for option in _FILES}
    loaded = evaluation.load(**paths, every_query=parsed.run_out is not None)
    before, other = _baseline(parsed, loaded, paths["candidates"])
    if other is not None:  # first: a name that is none is told at once
        before = _order(_reranked(other, loaded))
    started_s = time.monotonic()
    reranked = _reranked(parsed, loaded)
    seconds = round(time.monotonic() - started_s, 3)
    if parsed.run_out is not None:
        evaluation.write_run(parsed.run_out, reranked)
    summary = {"ranker": rankers.name(parsed), "unjudged_queries": loaded.unjudged_queries, "seconds": seconds}
    return loaded.judgments, before, _order(reranked), summary | {"baseline": parsed.against}


def _reranked(parsed: argparse.Namespace, loaded: Experiment) -> dict[str, list[tuple[str, float]]]:
    pairs = sum(len(documents[: parsed.depth]) for documents in loaded.candidates.values())
    with rankers.open_ranker(parsed) as ranker, rankers.progress(pairs) as advance:

        def rank(query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
            ranked = rankers.rank_list(ranker, query, documents, instruction=parsed.instruction)
            return [(one.index, one.relevance_score) for one in ranked]

        return evaluation.rerank(loaded, rank, depth=parsed.depth, advance=advance)


def _order(reranked: Mapping[str, Sequence[tuple[str, float]]]) -> Run:
    return {query: [document for document, _ in ranking] for query, ranking in reranked.items()}


def _baseline(parsed: argparse.Namespace, loaded: Experiment, candidates: str) -> tuple[Run, argparse.Namespace | None]:
    """Find what `--against` names: a run, or the candidates and the arguments of a ranker that has yet to make it."""
    against = parsed.against
    if against in (None, _FIRST_STAGE):
        return loaded.candidates, None
    if Path(against).is_file():
        run = evaluation.read_run(against)
        if missing := loaded.candidates.keys() - run.keys():
            raise InputFileError(against, None, f"lacks {min(missing)!r} and {len(missing) - 1} more of the queries")
        return run, None
    if against.startswith(("http://", "https://")):
        service = {"url": against, "local": False, "model": None, "adapter": "", "config": None}
        return loaded.candidates, argparse.Namespace(**vars(parsed) | service)
    tags = evaluation.run_tags(candidates)
    if against.casefold() in tags:
        return loaded.candidates, None
    if parsed.local or against in _FIRST_STAGES:
        cure = "if it is a model, rank with it first, with --run-out FILE, and give --against FILE"
        named = f"no such file, and the candidates' tag is {' or '.join(sorted(tags))}"
        raise CommandError(f"--against {against}: {named}; {cure}")
    return loaded.candidates, argparse.Namespace(**vars(parsed) | {"model": against})


def _search(parsed: argparse.Namespace) -> tuple[Judgments, Run, Run, dict[str, Any]]:
    """Search with every judged query, and give what `_rerank` does; `before` is the order of the first stage."""
    if parsed.local or parsed.run_out or parsed.candidates:
        raise CommandError("--search asks a service: without --local, --run-out and --candidates")
    if parsed.against not in (None, _FIRST_STAGE, parsed.first_stage):
        raise CommandError(f"with --search the baseline is the first stage: --against {_FIRST_STAGE}")
    judgments = evaluation.read_judgments(_path(parsed, "judgments"))
    wanted = evaluation.measured_queries(judgments)
    queries = evaluation.read_texts(_path(parsed, "queries"), set(wanted))
    options = {name: getattr(parsed, name) for name in ("first_stage", "depth", "instruction")}
    before, after = {}, {}
    started_s = time.monotonic()
    client = RerankerClient(parsed.url, api_key=os.environ.get(rankers.API_KEY))
    with client, rankers.progress(len(queries)) as advance:
        for query, text in queries.items():
            before[query], after[query] = search(client, text, index=parsed.search, **options)
            advance(1)
    summary = {
        "ranker": f"{parsed.url}, index {parsed.search}",
        "first_stage": parsed.first_stage,
        "baseline": parsed.against,
        "unjudged_queries": len(judgments) - len(wanted),
        "seconds": round(time.monotonic() - started_s, 3),
    }
    return judgments, before, after, summary


def search(
    client: RerankerClient, query: str, *, index: str | None = None, depth: int | None = None, **options: Any
) -> tuple[list[str], list[str]]:
    """Search once, and give the documents in both orders: the first stage's, and that after reranking.

    A document is where its best chunk is. What the service's rules exclude is in neither. `options` are those of
    `RerankerClient.search`.
    """
    hits = client.search(query, index=index, top_n=0, candidates=depth, score_threshold=0.0, **options)
    by_first_stage = sorted(hits, key=lambda one: one.first_stage_rank)
    return list(dict.fromkeys(one.id for one in by_first_stage)), list(dict.fromkeys(one.id for one in hits))


def _path(parsed: argparse.Namespace, option: str) -> str:
    file = _FILES[option][0]
    if parsed.folder is None and getattr(parsed, option) is None:
        raise CommandError(f"give a FOLDER with {file} in it, or --{option} FILE")
    return getattr(parsed, option) or str(parsed.folder / file)


def _table(summary: dict[str, Any], compared: Sequence[Comparison], baseline: str | None) -> list[str]:
    """Markdown, so that it can be pasted."""
    lines = ["{queries} queries, {pairs} pairs in {seconds:.1f} s, ranked by {ranker}".format(**summary)]
    if summary["queries_without_candidates"]:
        lines.append(f"{summary['queries_without_candidates']} of them have no candidates and count as 0")
    if summary["unjudged_queries"]:
        lines.append(f"{summary['unjudged_queries']} more queries are left out: no relevant document is known for them")
    lines += ["", f"| metric | {baseline or 'before'} | after | difference (95 % interval) |", "|---|---|---|---|"]
    lines += [
        f"| {one.metric} | {one.before:.3f} ± {one.before_error:.3f} | {one.after:.3f} ± {one.after_error:.3f}"
        f" | {one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f}) |"
        for one in compared
    ]
    return lines
