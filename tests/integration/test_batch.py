"""`reranker batch` as a user runs it: real Ray Data, killed twice on its way; every row once, scores the service's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from tests.integration.conftest import Service, configuration

pytestmark = pytest.mark.slow

ROWS, PARTITION_ROWS = 1_200, 100
QUERIES = ["capital of China", "什么是重力?", "how tall is a tree"]
BAD = {5: "missing_document", 700: "invalid_json"}


def _write_input(path: Path) -> list[tuple[str, str]]:
    pairs = [(QUERIES[i % 3], f"document {i // 3}" + " of some length" * (i % 7)) for i in range(ROWS)]
    lines = [json.dumps({"id": i, "query": query, "document": text}) for i, (query, text) in enumerate(pairs)]
    lines[5], lines[700] = '{"query": "q"}', "{"
    path.write_text("\n".join(lines))
    return pairs


def _wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def _engines(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    found = psutil.Process(process.pid).children(recursive=True)
    return [one for one in found if "PartitionActor" in " ".join(one.cmdline())]


def test_killed_batch_is_completed_with_every_row_once_and_the_services_scores(
    simulated: Service, tmp_path: Path
) -> None:
    pairs = _write_input(tmp_path / "pairs.jsonl")
    config, out, log = tmp_path / "serve_config.yaml", tmp_path / "out", tmp_path / "log"
    config.write_text(yaml.safe_dump(configuration(args={}, simulated={"tokens_per_s": 20_000})))
    command = [str(Path(sys.executable).parent / "reranker"), "batch", str(tmp_path / "pairs.jsonl"), "--out", str(out)]
    command += ["--config", str(config), "--partition-rows", str(PARTITION_ROWS)]

    def done() -> dict[str, int]:
        return {one.name: one.stat().st_mtime_ns for one in (out / "state" / "done").glob("*.json")}

    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    _wait_for(lambda: len(done()) >= 2, process, log)
    [engine] = _engines(process)
    engine.kill()
    had = len(done())
    _wait_for(lambda: len(done()) > had + 1, process, log)  # Ray has started another
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    holding = [one for one in started if "ray::DashboardAgent" not in one.name() and "EnvAgent" not in one.name()]
    _, alive = psutil.wait_procs(holding, timeout=60)  # Ray's agents notice a little later
    assert not alive
    before = done()
    assert 4 <= len(before) < ROWS // PARTITION_ROWS
    assert not (out / "report.json").exists()

    finished = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert finished.returncode == 0, finished.stderr
    assert f"{ROWS} rows, {len(BAD)} without a score" in finished.stdout
    after = done()
    assert before.items() <= after.items()  # none was computed again
    rows = [row for path in sorted((out / "scores").iterdir()) for row in pq.read_table(path).to_pylist()]
    assert [row["row"] for row in rows] == list(range(ROWS))
    assert {row["row"]: row["error"] for row in rows if row["error"]} == BAD
    errors = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert [(one["row"], one["line"], one["error"]) for one in errors] == [(i, i + 1, code) for i, code in BAD.items()]
    for i, query in enumerate(QUERIES):
        of_query = [row for row in range(i, ROWS, 3) if row not in BAD]
        served = simulated.rerank(query, [pairs[row][1] for row in of_query])["results"]
        by_row = {of_query[one["index"]]: one["relevance_score"] for one in served}
        assert {row: rows[row]["score"] for row in of_query} == by_row

    complete = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert complete.stdout == f"{ROWS} rows, {len(BAD)} without a score (errors.jsonl); 0 scored now\n"
    assert done() == after
