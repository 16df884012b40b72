"""`reranker …`: the command line. Finds the command, and turns our errors into one sentence on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version

from pydantic import ValidationError

from deployments.cli import batch, check, config, evaluate, index, score, serve
from reranker.errors import RerankerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0, or 1 with a sentence on stderr.
    """
    parser = argparse.ArgumentParser(prog="reranker", description="Rank documents by their relevance to a query.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('reranker')}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (serve, check, config, index, score, evaluate, batch):
        command.add_parser(commands)
    parsed = parser.parse_args(arguments)
    try:
        status: int = parsed.run(parsed)
    except RerankerError as error:
        print(f"reranker: {error}", file=sys.stderr)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            key = ".".join(str(part) for part in problem["loc"])
            print(f"reranker: {parsed.config}: args.{key}: {problem['msg']}", file=sys.stderr)
    else:
        return status
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
