"""`reranker score`, `reranker check`, and what others rank with: a running service, or an engine in this process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import itertools
import json
import os
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from deployments.cli import Subparsers
from deployments.cli.config import SERVE_CONFIG, engine_lines, load_config, machine_cores
from reranker.client import DEFAULT_URL, RelevantSpan, RerankerClient, ScoredDocument
from reranker.config import RerankerConfig
from reranker.engine.device import device_for
from reranker.engine.loop import Engine
from reranker.engine.startup_check import run_checks, tolerance_for
from reranker.engine.vllm import VllmEngine, environment
from reranker.errors import CommandError, ConfigurationError, RerankerError
from reranker.model.checkpoint import Checkpoint, find_checkpoint
from reranker.model.prompt import PromptRenderer
from reranker.offline.evaluation import read_documents
from reranker.ranking.placement import Placement
from reranker.ranking.ranker import Ranker
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, RankedDocument, RankRequest, Shard, ShardScores, ShardTerms, SpanTerms

PART_DOCUMENTS = 256
"""Documents per request: the progress bar moves, and no service limit on a list is met."""
PART_CHARACTERS = 4_000_000
"""Characters per request; at most 16 MB of UTF-8, far below what the service takes."""
API_KEY = "RERANKER_API_KEY"
"""Environment variable with the key for a service that needs one: on the command line others could read it."""
_MARKED = 100  # documents with spans in one answer: `evidence.max_documents` as it comes
_BOLD, _STARS = ("\x1b[1m", "\x1b[0m"), ("**", "**")  # in a terminal; in a pipe or a file
_NO_DEADLINE_S = 30 * 86_400.0  # the configured one protects a service; here a person can press Ctrl-C

Rank: TypeAlias = Callable[..., list[ScoredDocument]]
"""`RerankerClient.rerank`, or what does the same here."""


@dataclasses.dataclass(frozen=True, slots=True)
class RankWhole:
    """A `Rank` that wants whole lists: a cascade's, where a document's score depends on the others."""

    rank: Rank

    def __call__(self, *arguments: Any, **options: Any) -> list[ScoredDocument]:
        return self.rank(*arguments, **options)


class LocalReranker(NamedTuple):
    """A model loaded here."""

    checkpoint: Checkpoint
    renderer: PromptRenderer
    engine: Engine
    tolerance: float
    """Of the start-up check."""


class LocalFleet:
    """One engine in this process, as a fleet of one. A `scatter.Fleet`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.placement = Placement()
        self.placement.set_live(["local"])

    async def ready(self) -> None:
        """It always is."""

    async def score(self, replica: str, shard: Shard, terms: ShardTerms) -> ShardScores:
        scores = await self._engine.score_within(shard, terms.weight, terms.timeout_s, terms.list_id)
        return ShardScores(scores, replica, self._engine.load)


@contextlib.contextmanager
def open_local(config: RerankerConfig) -> Iterator[LocalReranker]:
    """Load the model in this process, for as long as the block lasts; it takes as long as a replica's start."""
    checkpoint = find_checkpoint(config.model)
    renderer = PromptRenderer.of(checkpoint, config.model)
    os.environ.update(environment(machine_cores(), config.engine.cpu_threads) | dict(os.environ))
    device = device_for(config.engine, checkpoint.dtype_on("cuda"))
    try:
        engine = VllmEngine(checkpoint, config.engine, device=device)
    except RerankerError:
        raise
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise ConfigurationError(f"vLLM cannot load the model: {type(error).__name__}: {first_line}") from error
    try:
        tolerance = tolerance_for(checkpoint.dtype_on(device), config.engine.quantization, device)
        yield LocalReranker(checkpoint, renderer, engine, tolerance)
    finally:
        engine.shutdown()


def add_arguments(parser: argparse.ArgumentParser, *, several: bool = False) -> None:
    """Declare how the ranker is chosen; `several`: `--model` may be given more than once, and is a list or None."""
    said = f"where the service is (%(default)s); its API key: {API_KEY}"
    parser.add_argument("--url", default=DEFAULT_URL, help=said)
    parser.add_argument("--local", action="store_true", help="load the model here instead of asking a service")
    said = "the service's model, adapter or cascade to rank with; with --local: one of the configuration's models, "
    said += "demo, a local folder or a hub id; default: the configuration's"
    if several:
        said += "; repeatable: the first is compared with each other one"
        parser.add_argument("--model", action="append", help=said)
    else:
        parser.add_argument("--model", help=said)
    parser.add_argument("--adapter", default="", help="with --local: one of the configuration's engine.lora_adapters")
    said = f"with --local: Serve configuration; default: ./{SERVE_CONFIG} if there"
    parser.add_argument("--config", type=Path, help=said)
    parser.add_argument("--instruction", help="what relevant means here; default: the model's own")


@contextlib.contextmanager
def open_ranker(parsed: argparse.Namespace) -> Iterator[Rank]:
    """Give what ranks as the arguments ask, for as long as the block lasts."""
    if parsed.local:
        config = local_config(parsed)
        parsed.model = config.model.name  # for `name`
        require_adapter(config, parsed.adapter)
        with _local_rank(config, parsed.adapter) as rank:
            yield rank
        return
    with _client(parsed) as client:
        remote: Rank = client.rerank
        if parsed.model and parsed.model in client.cascades():
            remote = RankWhole(remote)
        yield remote


@contextlib.contextmanager
def _client(parsed: argparse.Namespace) -> Iterator[RerankerClient]:
    if parsed.adapter or parsed.config:
        raise CommandError("--config and --adapter need --local; a service has its own, and --model names its adapter")
    with RerankerClient(parsed.url, api_key=os.environ.get(API_KEY), model=parsed.model) as client:
        # A service ranks with its default whatever a model is called; here a misspelt name must not pass for one.
        if parsed.model and parsed.model not in (known := client.models()):
            raise CommandError(f"the service has no model {parsed.model!r}; it has {', '.join(known)}")
        yield client


def check(parsed: argparse.Namespace) -> None:
    """Raise what `open_ranker` does where there is no such model or adapter, before anything is loaded."""
    if not parsed.local:
        with _client(parsed):
            return
    config = local_config(parsed)
    require_adapter(config, parsed.adapter)
    find_checkpoint(config.model)


@contextlib.contextmanager
def _local_rank(config: RerankerConfig, adapter: str) -> Iterator[Rank]:
    if sys.stderr.isatty():
        print(f"loading {config.model.name} …", file=sys.stderr, flush=True)
    limits = config.limits.model_copy(update={"timeout_s": _NO_DEADLINE_S})
    with open_local(config) as local, asyncio.Runner() as runner:
        ranker = Ranker(config.model_copy(update={"limits": limits}), local.renderer, LocalFleet(local.engine))

        def rank(
            query: str, documents: Sequence[str], *, instruction: str | None = None, relevant_spans: bool = False
        ) -> list[ScoredDocument]:
            spans = SpanTerms() if relevant_spans else None
            request = RankRequest(
                query, tuple(documents), instruction=instruction or None, model=adapter or None, spans=spans
            )
            [ranking] = runner.run(ranker.rank([request], ANONYMOUS, RequestRecord()))
            return [_scored(one) for one in ranking.results]

        yield rank


def _scored(one: RankedDocument) -> ScoredDocument:
    spans = tuple(RelevantSpan(start, end, score) for start, end, score, _ in one.spans)
    return ScoredDocument(one.index, one.relevance_score, one.truncated, spans)


def name(parsed: argparse.Namespace) -> str:
    """Say in a word what ranks, once it is open."""
    if parsed.local:
        return f"{parsed.model}{' with ' * bool(parsed.adapter)}{parsed.adapter}, in this process"
    return f"{parsed.model} at {parsed.url}" if parsed.model else str(parsed.url)


def require_adapter(config: RerankerConfig, adapter: str) -> None:
    """Raise CommandError if the configuration has no adapter of this name; empty stands for none."""
    known = config.engine.lora_adapters
    if adapter and adapter not in known:
        raise CommandError(f"engine.lora_adapters has no {adapter!r}; it has {', '.join(known) or 'none'}")


def find_config(parsed: argparse.Namespace) -> None:
    """Fill in `--config`, if its default is there: main.py names it when one of its values is wrong."""
    if parsed.config is None and SERVE_CONFIG.exists():
        parsed.config = SERVE_CONFIG


def local_config(parsed: argparse.Namespace) -> RerankerConfig:
    """Give the configuration that `--config` and `--model` ask for; raises as `load_config` does."""
    find_config(parsed)
    if parsed.config is not None:
        return load_config(parsed.config, parsed.model)
    return RerankerConfig.model_validate({"model": {"name": parsed.model}} if parsed.model else {})


def rank_list(
    rank: Rank,
    query: str,
    documents: Sequence[str],
    *,
    instruction: str | None = None,
    advance: Callable[[int], object] = int,
) -> list[ScoredDocument]:
    """Rank a list of any length: in parts, merged by score, unless a document's score depends on the others'.

    `advance` is told the number of documents after each part. Gives all documents, best first, ties as in the answer:
    by index, and in a cascade in its order.
    """
    if isinstance(rank, RankWhole):
        whole = rank(query, documents, instruction=instruction) if documents else []
        advance(len(documents))
        return whole
    ranked: list[ScoredDocument] = []
    start = 0
    while start < len(documents):
        end, characters = start + 1, len(documents[start])
        for document in documents[end : start + PART_DOCUMENTS]:
            characters += len(document)
            if characters > PART_CHARACTERS:
                break
            end += 1
        answer = rank(query, documents[start:end], instruction=instruction)
        ranked.extend(dataclasses.replace(one, index=start + one.index) for one in answer)
        advance(end - start)
        start = end
    return sorted(ranked, key=lambda one: (-one.relevance_score, one.index))


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar of so many documents on stderr, if that is a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # here: other commands need not wait for its import

    with tqdm(total=total, unit=" documents", disable=not sys.stderr.isatty(), leave=False, delay=1) as bar:
        yield bar.update


def add_parser(commands: Subparsers) -> None:
    parser = commands.add_parser("score", help="rank documents, with a running service or with --local")
    parser.add_argument("--query", required=True, help="what to rank for")
    said = "one document a line, or JSON lines (strings, or objects with `text`); - is standard input"
    parser.add_argument("file", nargs="?", help=said)
    parser.add_argument("--document", action="append", metavar="TEXT", help="a document; repeatable, instead of a file")
    parser.add_argument("--top-n", type=positive, metavar="N", help="show only the best N")
    said = "mark what in each document made it relevant, of the best 100 that are shown"
    parser.add_argument("--evidence", action="store_true", help=said)
    said = "print JSON lines {index, relevance_score, text, truncated?, relevant_spans?}, best first"
    parser.add_argument("--json", action="store_true", help=said)
    add_arguments(parser)
    parser.set_defaults(run=run)
    model = commands.add_parser("check", help="load the model and check that its scores can be trusted")
    model.add_argument("--config", type=Path, default=SERVE_CONFIG, help="Serve configuration (%(default)s)")
    model.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")
    model.set_defaults(run=_check_model)


def positive(text: str) -> int:
    """Read a whole number from 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def run(parsed: argparse.Namespace) -> int:
    """Print score, index (from 0) and text, best first; returns the exit status."""
    if (parsed.file is None) == (parsed.document is None):
        raise CommandError("give either a FILE (- for standard input) or documents with --document")
    if not parsed.query.strip():
        raise CommandError("--query is empty")
    documents: list[str] = parsed.document or read_documents(parsed.file)
    with open_ranker(parsed) as rank, progress(len(documents)) as advance:
        ranked = rank_list(rank, parsed.query, documents, instruction=parsed.instruction, advance=advance)
        if parsed.evidence and ranked:  # of those that are shown: the others need none
            shown = ranked[: parsed.top_n][:_MARKED]
            texts = [documents[one.index] for one in shown]
            found = rank(parsed.query, texts, instruction=parsed.instruction, relevant_spans=True)
            spans = {shown[one.index].index: one.relevant_spans for one in found}
            ranked = [dataclasses.replace(one, relevant_spans=spans.get(one.index, ())) for one in ranked]
    if excluded := len(documents) - len(ranked):
        print(f"{excluded} of {len(documents)} documents are left out by the configured rules", file=sys.stderr)
    # Whole texts into a pipe or a file, like other tools.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    if not parsed.json:
        print("score   index  text")
    for one in ranked[: parsed.top_n]:
        text = documents[one.index]
        if parsed.json:
            line = {"index": one.index, "relevance_score": one.relevance_score, "text": text}
            line |= {"truncated": True} if one.truncated else {}
            line |= {"relevant_spans": list(map(dataclasses.asdict, one.relevant_spans))} if one.relevant_spans else {}
            print(json.dumps(line, ensure_ascii=False))
        else:
            # One line, without the control characters by which a document could change the terminal.
            printable = "".join(character if character.isprintable() else " " for character in text)
            if parsed.evidence:
                printable = _marked(printable, one.relevant_spans, _BOLD if sys.stdout.isatty() else _STARS)
            shown_width = None if parsed.evidence else width
            print(_cut(f"{one.relevance_score:.4f}  {one.index:>5}  {printable}", shown_width))
    return 0


def _marked(text: str, spans: Sequence[RelevantSpan], marks: tuple[str, str]) -> str:
    pieces, before = [], 0
    for one in sorted(spans, key=lambda span: span.start):
        pieces += [text[before : one.start], marks[0], text[one.start : one.end], marks[1]]
        before = one.end
    return "".join([*pieces, text[before:]])


def _cut(line: str, width: int | None) -> str:
    """Cut to so many terminal cells; a Chinese character takes two."""
    cells = [2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line]
    if width is None or sum(cells) <= width:
        return line
    ends = itertools.accumulate(cells)
    return line[: sum(end < width for end in ends)] + "…"


def _check_model(parsed: argparse.Namespace) -> int:
    """Print one line for each check, and the cause of what failed; returns the exit status."""
    config = load_config(parsed.config, parsed.model)
    checkpoint = find_checkpoint(config.model)
    print(*engine_lines(config, checkpoint), f"Loading {config.model.name} …", sep="\n", flush=True)
    with open_local(config) as local:
        started = time.perf_counter()
        results = [
            (f"{result.name} {adapter}".strip(), result)
            for adapter in ("", *config.engine.lora_adapters)
            for result in asyncio.run(run_checks(local.engine, local.renderer, local.tolerance, adapter))
        ]
        seconds = time.perf_counter() - started
    for name, result in results:
        print(f"{'failed' if result.cause else 'ok':<6}  {name:<10}  {result.measured}")
    # Only the first cause: what fails after it is mostly its consequence.
    cause = next((result.cause for _, result in results if result.cause), None)
    print(f"{len(results)} checks in {seconds:.2f} s" + (f"; likeliest cause: {cause}" if cause else ": all ok"))
    return 1 if cause else 0
