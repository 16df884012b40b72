"""`reranker score`, and what it and others rank with: a running service, or an engine in this process."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from deployments.cli import Subparsers
from deployments.cli.config import SERVE_CONFIG, load_config
from deployments.cli.local import LocalFleet, LocalReranker, open_local
from reranker.client import DEFAULT_URL, RerankerClient, ScoredDocument
from reranker.config import RerankerConfig
from reranker.errors import CommandError, ConfigurationError, RerankerError
from reranker.offline.evaluation import read_documents
from reranker.ranking.ranker import Ranker as ListRanker
from reranker.record import RequestRecord
from reranker.types import ANONYMOUS, RankRequest

PART_DOCUMENTS = 256
"""Documents per request: the progress bar moves, and no service limit on a list is met."""
PART_CHARACTERS = 4_000_000
"""Characters per request; at most 16 MB of UTF-8, far below what the service takes."""
API_KEY = "RERANKER_API_KEY"
"""Environment variable with the key for a service that needs one: on the command line others could read it."""
_NO_DEADLINE_S = 30 * 86_400.0  # the configured one protects a service; here a person can press Ctrl-C


class Ranker(Protocol):
    """Ranks one list; `RerankerClient` is one."""

    def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None, instruction: str | None = None
    ) -> list[ScoredDocument]:
        """Return documents best first; see `RerankerClient.rerank`."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare how the ranker is chosen."""
    parser.add_argument(
        "--url", default=DEFAULT_URL, help=f"where the service is (%(default)s); its API key: {API_KEY}"
    )
    parser.add_argument("--local", action="store_true", help="load the model here instead of asking a service")
    parser.add_argument(
        "--model",
        help="the service's adapter to rank with; with --local: demo, a local folder or a hub id, default: the "
        "configuration's",
    )
    parser.add_argument("--adapter", default="", help="with --local: one of the configuration's engine.lora_adapters")
    parser.add_argument(
        "--config", type=Path, help=f"with --local: Serve configuration; default: ./{SERVE_CONFIG} if there"
    )
    parser.add_argument("--instruction", help="what relevant means here; default: the model's own")


@contextlib.contextmanager
def open_ranker(parsed: argparse.Namespace) -> Iterator[Ranker]:
    """Give the ranker that the arguments ask for, and close it.

    Raises:
        RerankerError: The configuration or the model is no good, or the arguments contradict each other.
        pydantic.ValidationError: Unknown keys or wrong values in the configuration's `args`.
    """
    if not parsed.local and (parsed.adapter or parsed.config):
        raise CommandError("--config and --adapter need --local; a service has its own, and --model names its adapter")
    try:
        if parsed.local:
            config = local_config(parsed)
            parsed.model = config.model.name  # for `name`
            require_adapter(config, parsed.adapter)
            with contextlib.closing(_LocalRanker(config, parsed.adapter)) as local:
                yield local
        else:
            with RerankerClient(parsed.url, api_key=os.environ.get(API_KEY), model=parsed.model) as client:
                if parsed.model:
                    _require_model(client, parsed.model)
                yield client
    except KeyboardInterrupt:
        raise CommandError("stopped") from None


def name(parsed: argparse.Namespace) -> str:
    """Say in a word what ranks, once the ranker is open."""
    if not parsed.local:
        return f"{parsed.model} at {parsed.url}" if parsed.model else str(parsed.url)
    return f"{parsed.model}{' with ' * bool(parsed.adapter)}{parsed.adapter}, in this process"


def require_adapter(config: RerankerConfig, adapter: str) -> None:
    """Raise CommandError if the configuration has no adapter of this name; empty stands for none."""
    known = config.engine.lora_adapters
    if adapter and adapter not in known:
        raise CommandError(f"engine.lora_adapters has no {adapter!r}; it has {', '.join(known) or 'none'}")


def _require_model(client: RerankerClient, model: str) -> None:
    """A service ranks with the model itself whatever it is called; here a misspelt adapter must not pass for one."""
    known = client.models()
    if model not in known:
        raise CommandError(f"the service has no model {model!r}; it has {', '.join(known)}")


def rank_list(
    ranker: Ranker,
    query: str,
    documents: Sequence[str],
    *,
    instruction: str | None = None,
    advance: Callable[[int], object] | None = None,
) -> list[ScoredDocument]:
    """Rank a list of any length: in parts, merged by score. A document's score does not depend on the others'.

    Args:
        ranker: Ranks the parts.
        query: The query.
        documents: The candidates.
        instruction: What "relevant" means here.
        advance: Told the number of documents after each part.

    Returns:
        All documents, best first, ties by index.
    """
    ranked: list[ScoredDocument] = []
    for start, part in _parts(documents):
        answer = ranker.rerank(query, part, instruction=instruction)
        ranked.extend(dataclasses.replace(one, index=start + one.index) for one in answer)
        if advance is not None:
            advance(len(part))
    return sorted(ranked, key=lambda one: (-one.relevance_score, one.index))


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[int], object]]:
    """Show a bar of so many documents on stderr, if that is a terminal."""
    from tqdm import tqdm  # type: ignore[import-untyped]  # here: other commands need not wait for its import

    with tqdm(total=total, unit=" documents", disable=not sys.stderr.isatty(), leave=False, delay=1) as bar:
        yield bar.update


class _LocalRanker:
    """An engine here, behind the `Ranker` of the service."""

    def __init__(self, config: RerankerConfig, adapter: str) -> None:
        self._adapter = adapter
        limits = config.limits.model_copy(update={"timeout_s": _NO_DEADLINE_S})
        self._runner = asyncio.Runner()
        self._local = _load(config)
        config = config.model_copy(update={"limits": limits})
        self._ranker = ListRanker(config, self._local.renderer, LocalFleet(self._local.engine))

    def rerank(
        self, query: str, documents: Sequence[str], *, top_n: int | None = None, instruction: str | None = None
    ) -> list[ScoredDocument]:
        request = RankRequest(
            query, tuple(documents), instruction=instruction or None, top_n=top_n, model=self._adapter or None
        )
        [ranking] = self._runner.run(self._ranker.rank([request], ANONYMOUS, RequestRecord()))
        return [ScoredDocument(one.index, one.relevance_score, one.truncated) for one in ranking.results]

    def close(self) -> None:
        self._runner.close()
        self._local.close()


def _load(config: RerankerConfig) -> LocalReranker:
    if sys.stderr.isatty():
        print(f"loading {config.model.name} …", file=sys.stderr, flush=True)
    try:
        return open_local(config)
    except RerankerError:
        raise
    except Exception as error:
        first_line = (str(error).splitlines() or [""])[0]
        raise ConfigurationError(f"vLLM cannot load the model: {type(error).__name__}: {first_line}") from error


def local_config(parsed: argparse.Namespace) -> RerankerConfig:
    """Give the configuration that `--config` and `--model` ask for; raises as `load_config` does."""
    if parsed.config is None and SERVE_CONFIG.exists():
        parsed.config = SERVE_CONFIG  # cli.py names it when one of its values is wrong
    if parsed.config is not None:
        return load_config(parsed.config, parsed.model)
    return RerankerConfig.model_validate({"model": {"name": parsed.model}} if parsed.model else {})


def _parts(documents: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    part: list[str] = []
    characters = 0
    for index, document in enumerate(documents):
        if part and (len(part) == PART_DOCUMENTS or characters + len(document) > PART_CHARACTERS):
            yield index - len(part), part
            part, characters = [], 0
        part.append(document)
        characters += len(document)
    if part:
        yield len(documents) - len(part), part


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("score", help="rank documents, with a running service or with --local")
    parser.add_argument("--query", required=True, help="what to rank for")
    parser.add_argument(
        "file",
        nargs="?",
        help="one document a line, or JSON lines (strings, or objects with `text`); - is standard input",
    )
    parser.add_argument("--document", action="append", metavar="TEXT", help="a document; repeatable, instead of a file")
    parser.add_argument("--top-n", type=positive, metavar="N", help="show only the best N")
    parser.add_argument(
        "--json", action="store_true", help="print JSON lines {index, relevance_score, text, truncated?}, best first"
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


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
    with open_ranker(parsed) as ranker, progress(len(documents)) as advance:
        ranked = rank_list(ranker, parsed.query, documents, instruction=parsed.instruction, advance=advance)
    if len(ranked) < len(documents):
        excluded = len(documents) - len(ranked)
        print(f"{excluded} of {len(documents)} documents are left out by the configured rules", file=sys.stderr)
    lines = _json_lines if parsed.json else _table
    print("\n".join(lines(ranked[: parsed.top_n], documents)))
    return 0


def _json_lines(ranked: Sequence[ScoredDocument], documents: Sequence[str]) -> list[str]:
    lines = []
    for one in ranked:
        line = {"index": one.index, "relevance_score": one.relevance_score, "text": documents[one.index]}
        lines.append(json.dumps(line | ({"truncated": True} if one.truncated else {}), ensure_ascii=False))
    return lines


def _table(ranked: Sequence[ScoredDocument], documents: Sequence[str]) -> list[str]:
    # Whole texts into a pipe or a file, like other tools.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = ["score   index  text"]
    for one in ranked:
        line = f"{one.relevance_score:.4f}  {one.index:>5}  {_printable(documents[one.index])}"
        lines.append(line if width is None else _cut(line, width))
    return lines


def _printable(text: str) -> str:
    """One line, without the control characters by which a document could change the terminal."""
    return "".join(character if character.isprintable() else " " for character in text)


def _cut(line: str, width: int) -> str:
    """Cut to so many terminal cells; a Chinese character takes two."""
    cells = [2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line]
    if sum(cells) <= width:
        return line
    taken = end = 0
    while taken + cells[end] < width:
        taken += cells[end]
        end += 1
    return f"{line[:end]}…"
