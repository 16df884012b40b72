"""`reranker rank`: ask a running service to rank documents."""

from __future__ import annotations

import argparse
import json
import sys

import httpx

from reranker.commands import Subparsers

_ANSWER_TIMEOUT_S = 300


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("rank", help="ask a running service to rank documents")
    parser.add_argument("query")
    parser.add_argument("documents", nargs="*", help="the candidates; none: one per line from standard input")
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="where the service is (%(default)s)")
    parser.add_argument("--top-n", type=int, help="show only the best N")
    parser.add_argument("--instruction", help="what relevant means here")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Print score, index and text, best first; returns the exit status."""
    documents = parsed.documents or [line for line in sys.stdin.read().splitlines() if line.strip()]
    body = {
        "query": parsed.query,
        "documents": documents,
        "top_n": parsed.top_n,
        "instruction": parsed.instruction,
        "return_documents": True,
    }
    try:
        response = httpx.post(f"{parsed.url.rstrip('/')}/v1/rerank", json=body, timeout=_ANSWER_TIMEOUT_S)
        answer = response.json()
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        print(f"reranker: no service at {parsed.url} ({error}); start one with `make serve`", file=sys.stderr)
        return 1
    if response.status_code != 200:
        print(f"reranker: {answer.get('message', response.reason_phrase)}", file=sys.stderr)
        return 1
    for result in answer["results"]:
        print(f"{result['relevance_score']:.4f}  {result['index']:>3}  {result['document']['text']}")
    return 0
