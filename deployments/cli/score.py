"""`reranker score`: rank documents from a file, standard input or the command line."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import unicodedata
from collections.abc import Sequence

from deployments.cli import Subparsers, rankers
from reranker.client import ScoredDocument
from reranker.offline.formats import read_documents


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
    rankers.add_arguments(parser)
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
        raise rankers.CommandError("give either a FILE (- for standard input) or documents with --document")
    if not parsed.query.strip():
        raise rankers.CommandError("--query is empty")
    documents: list[str] = parsed.document or read_documents(parsed.file)
    with rankers.open_ranker(parsed) as ranker, rankers.progress(len(documents)) as advance:
        ranked = rankers.rank_list(ranker, parsed.query, documents, instruction=parsed.instruction, advance=advance)
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
