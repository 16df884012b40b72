"""`reranker batch`: score stored pairs, as many as there are, on one machine or a Ray cluster."""

from __future__ import annotations

import argparse
from pathlib import Path

from deployments.cli import Subparsers, rankers
from deployments.cli.rankers import positive
from reranker.config import SimulatedConfig
from reranker.errors import CommandError
from reranker.offline.folder import BatchFolder
from reranker.offline.pairs import COLUMNS, find_input
from reranker.offline.scorer import for_throughput, report_lines


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "batch",
        help="score stored pairs offline: JSONL, Parquet, a TREC run or a BEIR folder",
        description="Score every (query, document) pair of an input, on Ray Data. Run it again to go on where it "
        "was stopped: what is done is never computed again.",
    )
    parser.add_argument("input", type=Path, help="a .jsonl or .parquet file, a folder of them, a BEIR folder, or a run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where the scores go")
    parser.add_argument("--format", choices=("parquet", "jsonl"), default="parquet", help="of the scores (%(default)s)")
    said = "texts of a TREC run's queries, as eval takes them"
    parser.add_argument("--queries", type=Path, metavar="FILE", help=said)
    parser.add_argument("--corpus", type=Path, metavar="FILE", help="texts of its documents")
    parser.add_argument("--split", default="test", help="of a BEIR folder without candidates.trec (%(default)s)")
    help_of = {"query": "of JSONL and Parquet ", "document": "", "id": "copied to the scores, if there "}
    for name, default in COLUMNS.items():
        parser.add_argument(f"--{name}-column", default=default, help=f"{help_of[name]}(%(default)s)")
    parser.add_argument("--instruction", help="what relevant means here; default: the configuration's")
    parser.add_argument("--adapter", default="", help="score with this one of the configuration's engine.lora_adapters")
    parser.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")
    parser.add_argument("--config", type=Path, help="Serve configuration; default: ./serve_config.yaml if there")
    parser.add_argument("--replicas", type=positive, help="engines; default: one for each GPU, without GPUs one")
    parser.add_argument("--address", help="a Ray cluster's, which sees all these paths; default: a Ray of its own here")
    said = "rows scored at a time, and never again (%(default)s)"
    parser.add_argument("--partition-rows", type=positive, default=5_000, help=said)
    parser.add_argument("--restart", action="store_true", help="throw away what --out holds of an earlier batch")
    parser.add_argument("--simulated", action="store_true", help="simulate the engines: meaningless scores")
    parser.set_defaults(run=run)


def run(parsed: argparse.Namespace) -> int:
    """Score, and say how fast; returns the exit status."""
    config = for_throughput(rankers.local_config(parsed))
    engine, model = config.engine, config.model
    if parsed.simulated and engine.simulated is None:
        engine = engine.model_copy(update={"simulated": SimulatedConfig()})
    if Path(model.name).is_dir():  # the engines' processes may have another working directory
        model = model.model_copy(update={"name": str(Path(model.name).resolve())})
    rankers.require_adapter(config, parsed.adapter)
    columns = {name: getattr(parsed, f"{name}_column") for name in COLUMNS}
    queries, corpus = (path and path.resolve() for path in (parsed.queries, parsed.corpus))
    from deployments import batch  # here: it brings Ray, which other commands need not wait for

    job = batch.Job(
        source=find_input(parsed.input.resolve(), columns, queries, corpus, parsed.split),
        folder=BatchFolder(parsed.out.resolve(), parsed.format),
        config=config.model_copy(update={"engine": engine, "model": model}),
        adapter=parsed.adapter,
        instruction=parsed.instruction or None,
        partition_rows=parsed.partition_rows,
    )
    try:
        report = batch.run(job, parsed.address, parsed.replicas, restart=parsed.restart)
    except KeyboardInterrupt:
        raise CommandError("stopped; run it again to go on") from None
    print("\n".join(report_lines(report)))
    return 0
