"""`reranker eval`: how good is the ranking on judged queries, before and after reranking, or by several models?"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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

T = TypeVar("T")


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("eval", help="measure nDCG@10, MRR@10 and recall@10 on judged queries")
    said = "where the four files are, unless given one by one; several: one table of them all"
    parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help=said)
    for option, (file, form) in _FILES.items():
        parser.add_argument(f"--{option}", metavar="FILE", help=f"{form} (default: FOLDER/{file})")
    parser.add_argument("--depth", type=positive, metavar="N", help="rerank the first N candidates only (default: all)")
    said = "candidates come from POST /v1/search on this index of the service; the ids must be its documents'"
    parser.add_argument("--search", metavar="INDEX", help=said)
    parser.add_argument("--first-stage", help="with --search: bm25, dense, hybrid or milvus; default: the index's")
    said = "say in words whether the ranking helps beside this one: first-stage (or its name, such as bm25), "
    said += "a TREC run, another service's URL, or a model of the service; default: the first stage, without the words"
    parser.add_argument("--against", metavar="BASELINE", help=said)
    said = "write all candidates, reranked (by the first model), as a TREC run"
    parser.add_argument("--run-out", type=Path, metavar="FILE", help=said)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    rankers.add_arguments(parser, several=True)
    parser.set_defaults(run=run)


@dataclasses.dataclass(frozen=True, slots=True)
class _Ranking:
    """What one ranker, or a run, makes of a judged set."""

    label: str
    run: Run
    ranker: str = ""
    """The ranker in words; empty: it was a run."""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True, slots=True)
class _Judged:
    """A judged set with its rankings, of which the first is compared with each of the others."""

    name: str
    judgments: Judgments
    candidates: Run
    unjudged_queries: int
    rankings: Sequence[_Ranking]


def run(parsed: argparse.Namespace) -> int:
    """Rank, measure, print; returns the exit status."""
    sets = [_search(parsed)] if parsed.search is not None else _rerank(parsed)
    one_baseline = len(sets) == 1 and len(sets[0].rankings) <= 2
    told, lines = _comparison(parsed, sets[0]) if one_baseline else _comparisons(parsed, sets)
    print(json.dumps(told, ensure_ascii=False) if parsed.json else "\n".join(lines))
    return 0


def _rerank(parsed: argparse.Namespace) -> list[_Judged]:
    """Rerank the candidates of each set with each model."""
    if parsed.local:
        rankers.find_config(parsed)
    if len(parsed.folders) > 1:
        for option in (*_FILES, "run_out"):
            if getattr(parsed, option) is not None:
                raise CommandError(f"--{option.replace('_', '-')} is of one FOLDER, and here are several")
    paths = [{option: _path(parsed, folder, option) for option in _FILES} for folder in parsed.folders or [None]]
    loaded = [evaluation.load(**one, every_query=parsed.run_out is not None) for one in paths]
    first, *others = parsed.model or [None]
    asked = [_asked(parsed, model=first, run_out=parsed.run_out), *(_asked(parsed, model=one) for one in others)]
    baseline = _baseline(parsed, loaded, [one["candidates"] for one in paths])
    if isinstance(baseline, argparse.Namespace):
        asked.append(baseline)
    for one in asked if len(asked) > 1 else ():  # a name that is none is told before anything is ranked
        rankers.check(one)
    by_ranker = [_ranked(one, loaded) for one in asked]
    if isinstance(baseline, list):
        by_ranker.append([_Ranking(parsed.against, run) for run in baseline])
    names = [one.resolve().name for one in parsed.folders] or [""]
    if len(set(names)) < len(names):
        names = list(map(str, parsed.folders))
    return [
        _Judged(name, one.judgments, one.candidates, one.unjudged_queries, rankings)
        for name, one, *rankings in zip(names, loaded, *by_ranker, strict=True)
    ]


def _asked(parsed: argparse.Namespace, **changed: Any) -> argparse.Namespace:
    """The arguments of one ranker: its `label` is the name that was given for it, if one was."""
    return argparse.Namespace(**vars(parsed) | {"run_out": None, "label": changed["model"]} | changed)


def _ranked(asked: argparse.Namespace, sets: Sequence[Experiment]) -> list[_Ranking]:
    """Rank all sets with one ranker, which is open no longer than that: with `--local` two might not fit."""
    found = []
    pairs = sum(len(documents[: asked.depth]) for one in sets for documents in one.candidates.values())
    with rankers.open_ranker(asked) as ranker, rankers.progress(pairs) as advance:

        def rank(query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
            ranked = rankers.rank_list(ranker, query, documents, instruction=asked.instruction)
            return [(one.index, one.relevance_score) for one in ranked]

        name = rankers.name(asked)
        for one in sets:
            started_s = time.monotonic()
            scored = evaluation.rerank(one, rank, depth=asked.depth, advance=advance)
            seconds = round(time.monotonic() - started_s, 3)
            if asked.run_out is not None:
                evaluation.write_run(asked.run_out, scored)
            run = {query: [document for document, _ in ranking] for query, ranking in scored.items()}
            found.append(_Ranking(asked.label or name, run, name, seconds))
    return found


def _baseline(
    parsed: argparse.Namespace, loaded: Sequence[Experiment], candidates: Sequence[str]
) -> list[Run] | argparse.Namespace | None:
    """Find what `--against` names: runs of the sets, or the arguments of a ranker that has yet to make them."""
    against, first_stages = parsed.against, [one.candidates for one in loaded]
    if against is None:
        return None
    if against == _FIRST_STAGE:
        return first_stages
    if Path(against).is_file():
        run = evaluation.read_run(against)
        for one in first_stages:
            if missing := one.keys() - run.keys():
                said = f"lacks {min(missing)!r} and {len(missing) - 1} more of the queries"
                raise InputFileError(against, None, said)
        return [run for _ in loaded]
    if against.startswith(("http://", "https://")):
        elsewhere = {"url": against, "local": False, "model": None, "adapter": "", "config": None}
        return _asked(parsed, **elsewhere, label=against)
    tags = [evaluation.run_tags(path) for path in candidates]
    if all(against.casefold() in of_set for of_set in tags):
        return first_stages
    if parsed.local or against in _FIRST_STAGES:
        cure = "if it is a model, give it as a second --model"
        named = f"no such file, and the candidates' tag is {' or '.join(sorted(set().union(*tags)))}"
        raise CommandError(f"--against {against}: {named}; {cure}")
    return _asked(parsed, model=against)


def _search(parsed: argparse.Namespace) -> _Judged:
    """Search with every judged query; `candidates` are in the order of the first stage."""
    if parsed.local or parsed.run_out or parsed.candidates:
        raise CommandError("--search asks a service: without --local, --run-out and --candidates")
    if parsed.against not in (None, _FIRST_STAGE, parsed.first_stage):
        raise CommandError(f"with --search the baseline is the first stage: --against {_FIRST_STAGE}")
    if len(parsed.folders) > 1 or len(parsed.model or ()) > 1:
        raise CommandError("--search is for one FOLDER and one --model")
    [folder], [model] = parsed.folders or [None], parsed.model or [None]
    judgments = evaluation.read_judgments(_path(parsed, folder, "judgments"))
    wanted = evaluation.measured_queries(judgments)
    queries = evaluation.read_texts(_path(parsed, folder, "queries"), set(wanted))
    options = {name: getattr(parsed, name) for name in ("first_stage", "depth", "instruction")}
    before, after = {}, {}
    rankers.check(_asked(parsed, model=model))
    started_s = time.monotonic()
    client = RerankerClient(parsed.url, api_key=os.environ.get(rankers.API_KEY), model=model)
    with client, rankers.progress(len(queries)) as advance:
        for query, text in queries.items():
            before[query], after[query] = search(client, text, index=parsed.search, **options)
            advance(1)
    ranker = f"{parsed.url}, index {parsed.search}"
    rankings = [_Ranking(model or ranker, after, ranker, round(time.monotonic() - started_s, 3))]
    rankings += [_Ranking(parsed.against, before)] * (parsed.against is not None)
    return _Judged("", judgments, before, len(judgments) - len(wanted), rankings)


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


def _path(parsed: argparse.Namespace, folder: Path | None, option: str) -> str:
    file = _FILES[option][0]
    if given := getattr(parsed, option):
        return str(given)
    if folder is None:
        raise CommandError(f"give a FOLDER with {file} in it, or --{option} FILE")
    return str(folder / file)


def _figures(parsed: argparse.Namespace, one: _Judged) -> dict[str, Any]:
    """What is the same for all rankings of a set."""
    wanted = evaluation.measured_queries(one.judgments)
    return {
        "queries": len(wanted),
        "queries_without_candidates": sum(not one.candidates.get(query) for query in wanted),
        "unjudged_queries": one.unjudged_queries,
        "pairs": sum(len(documents[: parsed.depth]) for documents in one.candidates.values()),
        "instruction": parsed.instruction,
    }


def _comparison(parsed: argparse.Namespace, one: _Judged) -> tuple[dict[str, Any], list[str]]:
    """One ranker and one baseline on one set, by all metrics: for JSON, and in lines of Markdown."""
    first, *others = one.rankings
    baseline = others[0] if others else _Ranking("before", one.candidates)
    compared = evaluation.compare(one.judgments, baseline.run, first.run)
    told = _figures(parsed, one) | {"ranker": first.ranker, "seconds": first.seconds}
    told |= {"first_stage": parsed.first_stage} if parsed.search is not None else {}
    told |= {"against": _verdict(compared, baseline, told["queries"])} if others else {}
    lines = ["{queries} queries, {pairs} pairs in {seconds:.1f} s, ranked by {ranker}".format(**told), *_left_out(told)]
    after = first.label if others and parsed.model else "after"
    lines += ["", f"| metric | {baseline.label} | {after} | difference (95 % interval) |", "|---|---|---|---|"]
    lines += [
        f"| {one.metric} | {one.before:.3f} ± {one.before_error:.3f} | {one.after:.3f} ± {one.after_error:.3f}"
        f" | {one.difference:+.3f} ({one.low:+.3f} to {one.high:+.3f}) |"
        for one in compared
    ]
    return told | _metrics(compared), lines + (["", told["against"]["in_words"]] if others else [])


def _comparisons(parsed: argparse.Namespace, sets: Sequence[_Judged]) -> tuple[dict[str, Any], list[str]]:
    """Several rankers or sets: a row for each set, a column for each ranking; and the first beside each other one."""
    named = any(ranking.run is sets[0].candidates for ranking in sets[0].rankings)
    metric, rows, words = next(iter(evaluation.METRICS)), list[str](), list[str]()
    of_sets: list[dict[str, Any]] = []
    for one in [*sets, _together(sets)] if len(sets) > 1 else sets:
        first, *others = one.rankings
        columns = [*([] if named else [_Ranking("first stage", one.candidates)]), *one.rankings]
        means = {ranking.label: evaluation.means(one.judgments, ranking.run) for ranking in columns}
        told: dict[str, Any] = {"set": one.name, **_figures(parsed, one), "rankings": {}, "against": []}
        for ranking in columns:
            figures = {name: _finite(mean=mean, error=error) for name, (mean, error) in means[ranking.label].items()}
            told["rankings"][ranking.label] = {"seconds": ranking.seconds, "metrics": figures}
        for other in others:
            compared = evaluation.compare(one.judgments, other.run, first.run)
            told["against"].append(_verdict(compared, other, told["queries"]) | _metrics(compared))
        cells = [f"{mean:.3f} ± {error:.3f}" for mean, error in (found[metric] for found in means.values())]
        rows += [f"| {one.name} | {told['queries']} | {' | '.join(cells)} |"]
        words += [f"- {one.name}: {found['in_words']}" for found in told["against"]]
        of_sets.append(told)
    last = of_sets[-1]
    # Not the seconds: where scores are remembered, a later model's are less than it takes.
    lines = [f"{last['queries']} queries, {last['pairs']} pairs", *_left_out(last), ""]
    lines += [f"| {metric} | queries | {' | '.join(last['rankings'])} |"]
    lines += [f"|{'---|' * (2 + len(last['rankings']))}", *rows]
    return {"sets": of_sets}, lines + (["", f"{sets[0].rankings[0].label} is, by {metric}:", *words] if words else [])


def _together(sets: Sequence[_Judged]) -> _Judged:
    """All queries of all sets as one set."""

    def joined(parts: Iterable[Mapping[str, T]]) -> dict[str, T]:
        return {f"{place}/{query}": value for place, part in enumerate(parts) for query, value in part.items()}

    rankings = [
        dataclasses.replace(
            of_sets[0], run=joined(one.run for one in of_sets), seconds=sum(one.seconds for one in of_sets)
        )
        for of_sets in zip(*(one.rankings for one in sets), strict=True)
    ]
    judgments, candidates = joined(one.judgments for one in sets), joined(one.candidates for one in sets)
    return _Judged("all", judgments, candidates, sum(one.unjudged_queries for one in sets), rankings)


def _left_out(told: Mapping[str, Any]) -> Iterator[str]:
    if told["queries_without_candidates"]:
        yield f"{told['queries_without_candidates']} of them have no candidates and count as 0"
    if told["unjudged_queries"]:
        yield f"{told['unjudged_queries']} more queries are left out: no relevant document is known for them"


def _verdict(compared: Sequence[Comparison], baseline: _Ranking, queries: int) -> dict[str, Any]:
    words = evaluation.in_words(compared[0], baseline.label, queries)
    return {"baseline": baseline.label, "verdict": compared[0].verdict, "in_words": words}


def _metrics(compared: Sequence[Comparison]) -> dict[str, Any]:
    figures = {one.metric: dataclasses.asdict(one) for one in compared}
    return {"metrics": {figures[name].pop("metric"): _finite(**figures[name]) for name in figures}}


def _finite(**figures: float) -> dict[str, float | None]:
    return {name: None if math.isnan(value) else round(value, 6) for name, value in figures.items()}
