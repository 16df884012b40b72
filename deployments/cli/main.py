"""`reranker …`: the command line. Finds the command, and turns our errors into one sentence on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pydantic import ValidationError

from deployments.cli import batch, compare, config, evaluate, index, rankers, serve, verify
from reranker.errors import RerankerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 1 with a sentence on stderr, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="reranker", description="Rank documents by their relevance to a query.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('reranker')}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (serve, config, index, rankers, verify, evaluate, compare, batch):
        command.add_parser(commands)
    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except KeyboardInterrupt:
        print("reranker: stopped", file=sys.stderr)
        return 130
    except RerankerError as error:
        print(f"reranker: {error}", file=sys.stderr)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            key = ".".join(str(part) for part in ("args", *problem["loc"]))
            known = " Known keys: docs/configuration.md" if problem["type"] == "extra_forbidden" else ""
            message = problem["msg"].removeprefix("Value error, ")
            print(f"reranker: {parsed.config}: {key}: {message}.{known}", file=sys.stderr)
        if parsed.config is not None:
            print(f"reranker: with its line: reranker config check {parsed.config}", file=sys.stderr)
    else:
        return status
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
