"""Run any Serve configuration on a port until asked to stop, as `reranker serve` runs ours, leaving no process behind.

python -m benchmarks.serving.serve_run CONFIG PORT
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from deployments.cli import serve


def main() -> int:
    """Serve; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("port", type=int)
    arguments = parser.parse_args()
    config = yaml.safe_load(arguments.config.read_text(encoding="utf-8"))
    config["http_options"]["port"] = arguments.port
    return serve.supervise(config, verbose=True)


if __name__ == "__main__":
    raise SystemExit(main())
