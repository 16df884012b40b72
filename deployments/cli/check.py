"""`reranker check`: load the model in this process and check that it scores as a reranker does."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import time
from pathlib import Path

from deployments.cli import Subparsers
from deployments.cli.local import load_config, open_local
from reranker.engine.startup_check import run_checks, tolerance_for


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("check", help="load the model and check that its scores can be trusted")
    parser.add_argument(
        "--config", type=Path, default=Path("serve_config.yaml"), help="Serve configuration (%(default)s)"
    )
    parser.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Print one line per check, and the cause of what failed; returns the exit status."""
    config = load_config(parsed.config, parsed.model)
    print(f"Loading {config.model.name} …", flush=True)
    with contextlib.closing(open_local(config)) as local:
        started = time.perf_counter()
        tolerance = tolerance_for(local.checkpoint.dtype, config.engine.quantization)
        results = [
            dataclasses.replace(result, name=f"{result.name} {adapter}".strip())
            for adapter in ("", *config.engine.lora_adapters)
            for result in asyncio.run(run_checks(local.engine, local.renderer, tolerance, adapter))
        ]
        seconds = time.perf_counter() - started
    for result in results:
        print(f"{'failed' if result.cause else 'ok':<6}  {result.name:<10}  {result.measured}")
    # Only the first: what fails after it is mostly its consequence.
    cause = next((result.cause for result in results if result.cause), None)
    print(f"{len(results)} checks in {seconds:.2f} s" + (f"; likeliest cause: {cause}" if cause else ": all ok"))
    return 1 if cause else 0
