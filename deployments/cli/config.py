"""`reranker config check FILE…`: find what is wrong with a configuration before anything is started."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path

from deployments.cli import Subparsers
from reranker.errors import ConfigurationError


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("config", help="check configurations")
    inner = parser.add_subparsers(dest="what", required=True)
    check = inner.add_parser(
        "check",
        help="check Serve configurations and RayService manifests strictly",
        description="Check Serve configurations, and those inside RayService manifests: unknown keys, wrong values, "
        "settings that contradict each other. Prints `file:line: place: problem. remedy`.",
    )
    check.add_argument("files", nargs="+", metavar="FILE", help="YAML; `-` for standard input")
    check.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Print what is found, one line each; returns the exit status: 1 when there is anything."""
    # By name, as Serve itself loads deployments.app: the library does not know Ray.
    checks = importlib.import_module("deployments.checks")
    status = 0
    for name in parsed.files:
        report = checks.check(_read(name))
        for finding in report.findings:
            print(f"{name}:{finding}", file=sys.stderr)
            status = 1
        if not report.findings:
            print(f"{name}: ok ({report.configurations} Serve configuration{'s' * (report.configurations > 1)})")
    return status


def _read(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name} is not UTF-8") from None
