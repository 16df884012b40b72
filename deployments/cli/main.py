"""`reranker …`: the command line. Finds the command, and turns our errors into one sentence on stderr."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version

from pydantic import ValidationError

from deployments.cli import batch, config, evaluate, index, rankers, serve
from reranker.errors import RerankerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Exit status: 0; 1 with a sentence on stderr; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="reranker", description="Rank documents by their relevance to a query.")
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('reranker')}")
    commands = parser.add_subparsers(dest="command", required=True)
    for command in (serve, config, index, rankers, evaluate, batch):
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
        for sentence in _wrong_settings(error):
            print(f"reranker: {parsed.config}: {sentence}", file=sys.stderr)
        if parsed.config is not None:
            print(f"reranker: with its line: reranker config check {parsed.config}", file=sys.stderr)
    else:
        return status
    return 1


def _wrong_settings(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in ("args", *problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        known = " Known keys: docs/configuration.md" if problem["type"] == "extra_forbidden" else ""
        yield f"{key}: {message}.{known}"


if __name__ == "__main__":
    raise SystemExit(main())
