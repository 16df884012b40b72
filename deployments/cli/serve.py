"""`reranker serve`: run the service; what `make serve` does once the environment is there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from deployments.cli import Subparsers, launcher


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("serve", help="run the service (`serve run`, with overrides and a clean stop)")
    parser.add_argument(
        "--config", type=Path, default=Path("serve_config.yaml"), help="Serve configuration (%(default)s)"
    )
    parser.add_argument("--host", help="address to listen on, 0.0.0.0 for all; default: the configuration's")
    parser.add_argument("--port", type=int, help="HTTP port; default: the configuration's")
    parser.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")
    parser.add_argument("--replicas", type=int, help="fixed number of engine replicas; default: the configuration's")
    parser.add_argument(
        "--index",
        action="append",
        type=_named_index,
        metavar="[NAME=]INDEX",
        help="serve POST /v1/search on an index that `reranker index build` made; repeatable",
    )
    parser.add_argument(
        "--simulated", action="store_true", help="simulate the engines: real timing, meaningless scores"
    )
    parser.add_argument("--no-ui", action="store_true", help="without the playground, if the configuration has it")
    parser.set_defaults(run=run)


def _named_index(text: str) -> tuple[str, Path]:
    """Read NAME=FOLDER, or a folder, whose last part is its name then."""
    name, separator, folder = text.rpartition("=")
    path = Path(folder)
    return (name if separator else path.resolve().name), path


def _by_name(indexes: Sequence[tuple[str, Path]]) -> dict[str, Path]:
    by_name = dict(indexes)
    if len(by_name) < len(indexes):
        raise launcher.LaunchError("two indexes have the same name: give another, --index NAME=INDEX")
    return by_name


def run(parsed: argparse.Namespace) -> int:
    """Serve until asked to stop; returns the exit status."""
    return launcher.run(
        launcher.load(
            parsed.config,
            host=parsed.host,
            port=parsed.port,
            model=parsed.model,
            replicas=parsed.replicas,
            simulated=parsed.simulated,
            indexes=_by_name(parsed.index or ()),
            ui=not parsed.no_ui,
        )
    )
