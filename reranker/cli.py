"""`reranker …`: run the service, and ask a running one."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import httpx
from pydantic import ValidationError

from reranker import launcher
from reranker.errors import RerankerError

_ANSWER_TIMEOUT_S = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and run one command.

    Returns:
        Exit status: 0, or 1 with one sentence on stderr.
    """
    parser = argparse.ArgumentParser(prog="reranker", description="Rank documents by their relevance to a query.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('reranker')}")
    commands = parser.add_subparsers(dest="command", required=True)

    serve = commands.add_parser("serve", help="run the service (`serve run`, with overrides and a clean stop)")
    serve.add_argument(
        "--config", type=Path, default=Path("serve_config.yaml"), help="Serve configuration (%(default)s)"
    )
    serve.add_argument("--port", type=int, help="HTTP port; default: the configuration's")
    serve.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")

    rank = commands.add_parser("rank", help="ask a running service to rank documents")
    rank.add_argument("query")
    rank.add_argument("documents", nargs="*", help="the candidates; none: one per line from standard input")
    rank.add_argument("--url", default="http://127.0.0.1:8000", help="where the service is (%(default)s)")
    rank.add_argument("--top-n", type=int, help="show only the best N")
    rank.add_argument("--instruction", help="what relevant means here")

    parsed = parser.parse_args(arguments)
    try:
        if parsed.command == "serve":
            return launcher.run(launcher.load(parsed.config, port=parsed.port, model=parsed.model))
        return _rank(parsed)
    except RerankerError as error:
        print(f"reranker: {error}", file=sys.stderr)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            key = ".".join(str(part) for part in problem["loc"])
            print(f"reranker: {parsed.config}: args.{key}: {problem['msg']}", file=sys.stderr)
    return 1


def _rank(parsed: argparse.Namespace) -> int:
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
    results = answer["results"]
    for result in results:
        print(f"{result['relevance_score']:.4f}  {result['index']:>3}  {result['document']['text']}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
