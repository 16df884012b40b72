"""`reranker serve`: run the service; what `make serve` does once the environment is there."""

from __future__ import annotations

import argparse
from pathlib import Path

from reranker import launcher
from reranker.commands import Subparsers


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
        "--simulated", action="store_true", help="simulate the engines: real timing, meaningless scores"
    )
    parser.set_defaults(run=run)


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
        )
    )
