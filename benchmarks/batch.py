"""`reranker batch` beside the engine alone, on the same pairs, in alternating rounds; memory over time; kills.

    python -m benchmarks.batch                                       100,000 pairs, demo model: half an hour on a core
    python -m benchmarks.batch --shape nano --pairs 5000 --rounds 2 --out /tmp/batch.json
    python -m benchmarks.batch --kills 10 --pairs 5000               kill -9 of engines and of the driver, by turns

The engine alone: one process, prompts made beforehand, a list for each query, all of them given to it at once. What a
batch is compared by is from its first partition to its last; the start (Ray, model, reading the input) is told, too.
"""

import asyncio
import contextlib
import json
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq

from benchmarks import models, results
from benchmarks.results import RESULTS, describe, say
from benchmarks.service import isolated, program

PAIRS_PER_QUERY = 20
WORDS = 60
SAMPLE_S = 2.0


def write_pairs(path: Path, pairs: int) -> None:
    """Queries of 6 random words with 20 documents of 60 each, the queries' rows 500 apart: not yet together."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 8))) for _ in range(5_000)]
    block = 500
    with path.open("w", encoding="utf-8") as file:
        for i in range(pairs):
            query = random.Random(i // block * block + i % (block // PAIRS_PER_QUERY)).sample(words, 6)
            pair = {"id": i, "query": " ".join(query), "document": " ".join(rng.choices(words, k=WORDS))}
            file.write(json.dumps(pair) + "\n")


def engine_alone(path: Path, model: str) -> dict[str, float]:
    """In this process: pairs per second of the engine."""
    from deployments.cli.rankers import open_local
    from reranker.config import RerankerConfig
    from reranker.offline.scorer import for_throughput

    config = for_throughput(RerankerConfig.model_validate({"model": {"name": model}, "engine": {"device": "cpu"}}))
    by_query: dict[str, list[str]] = {}
    with path.open(encoding="utf-8") as file:
        for line in file:
            pair = json.loads(line)
            by_query.setdefault(pair["query"], []).append(pair["document"])
    with open_local(config) as local:
        shards = [local.renderer.render(query, documents).prompts for query, documents in by_query.items()]

        async def score() -> float:
            await local.engine.score(shards[0])
            started = time.perf_counter()
            await asyncio.gather(*(local.engine.score(shard) for shard in shards))
            return time.perf_counter() - started

        seconds = asyncio.run(score())
    return {"pairs_per_s": sum(map(len, shards)) / seconds, "seconds": seconds}


def run_batch(command: list[str], out: Path) -> dict[str, Any]:  # Any: JSON
    """Run it, and sample the memory of all its processes."""
    with (out.parent / "batch.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        memory = list(sampled(process))
    finally:
        process.terminate()
        process.wait()
    if process.returncode:
        raise SystemExit((out.parent / "batch.log").read_text()[-4_000:])
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report | {"memory": memory}


def _engines(process: psutil.Process) -> list[psutil.Process]:
    """The engines below a driver."""
    return [one for one in process.children(recursive=True) if "PartitionActor" in " ".join(one.cmdline())]


def sampled(process: subprocess.Popen[bytes]) -> Iterator[dict[str, float]]:
    """Every two seconds: seconds since the start, and MiB of its own of the driver, the engines, and all the rest."""
    started = time.monotonic()
    while process.poll() is None:
        sample = {"at_s": round(time.monotonic() - started, 1), "driver": 0.0, "engines": 0.0, "others": 0.0}
        with contextlib.suppress(psutil.Error):
            family = psutil.Process(process.pid)
            for one in [family, *family.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    kind = "driver" if one.pid == process.pid else "others"
                    kind = "engines" if "PartitionActor" in " ".join(one.cmdline()) else kind
                    sample[kind] += round(one.memory_full_info().uss / 2**20, 1)
            yield sample
        time.sleep(SAMPLE_S)


def growth(memory: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Of each kind of process: MiB in the second and in the last quarter of the time it was there."""
    found = {}
    for kind in ("driver", "engines", "others"):
        values = [sample[kind] for sample in memory if sample["engines"] > 0]
        quarter = max(1, len(values) // 4)
        found[kind] = {
            "second_quarter": statistics.median(values[quarter : 2 * quarter] or values),
            "last_quarter": statistics.median(values[-quarter:]),
            "most": max(values),
        }
    return found


def killed(command: list[str], out: Path, pairs: int, kills: int, longest_s: float) -> dict[str, Any]:  # Any: JSON
    """Kill -9, by turns an engine and the driver, at random moments; run it again until it ends by itself.

    Every third moment is any; the others are after a partition was done, or starts would be all that is killed.
    """
    rng = random.Random(1)
    done: dict[str, int] = {}
    killed_at: list[str] = []
    recomputed = 0

    def done_now() -> dict[str, int]:
        return {one.name: one.stat().st_mtime_ns for one in (out / "state" / "done").glob("*.json")}

    while True:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and len(killed_at) < kills:
            before = len(done_now())
            while len(killed_at) % 3 and process.poll() is None and len(done_now()) == before:
                time.sleep(0.05)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, longest_s))
            if process.poll() is not None:
                break
            family = psutil.Process(process.pid)
            engines = _engines(family)
            victim = "driver" if len(killed_at) % 2 or not engines else "engine"
            killed_at.append(f"{victim} with {len(done_now())} partitions done")
            say(f"kill {len(killed_at)}: {killed_at[-1]}")
            (family if victim == "driver" else engines[0]).kill()
            if victim == "driver":
                break
        process.wait()
        now = done_now()
        recomputed += sum(now.get(name) != changed for name, changed in done.items())
        done = now
        if process.returncode == 0:
            break
    rows = [row for one in sorted((out / "scores").iterdir()) for row in pq.read_table(one)["row"].to_pylist()]
    return {
        "kills": killed_at,
        "complete_without_duplicates": rows == list(range(pairs)),
        "partitions_computed_again": recomputed,
    }


def measured(command: list[str], out: Path, pairs: Path, model: str, rounds: int) -> dict[str, Any]:  # Any: JSON
    """Both sides, by turns; the one that goes first changes."""
    done = []
    for number in range(rounds):
        found: dict[str, Any] = {}
        for side in ("alone", "batch") if number % 2 == 0 else ("batch", "alone"):
            if side == "batch":
                found[side] = run_batch([*command, "--restart"], out)
            else:
                found[side] = isolated(engine_alone, pairs, model)
            say(f"round {number + 1} {side}: {found[side]['pairs_per_s']:.1f} pairs/s")
        done.append(found)
    ratios = [one["batch"]["pairs_per_s"] / one["alone"]["pairs_per_s"] for one in done]
    memory = growth(done[-1]["batch"]["memory"])
    return {"ratio": statistics.median(ratios), "ratios": ratios, "memory_mib": memory, "rounds": done}


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--shape", choices=models.SHAPE_NAMES, default="demo")
    parser.add_argument("--pairs", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--partition-rows", type=int, default=5_000)
    parser.add_argument("--kills", type=int, default=0, help="kill so many times instead of measuring")
    parser.add_argument("--longest-s", type=float, default=40, help="between two kills, at most (%(default)s)")
    parser.add_argument("--out", type=Path, help="JSON; default: benchmarks/results/batch.json; none with --kills")
    options = parser.parse_args()
    model = "demo" if options.shape == "demo" else str(models.checkpoint(options.shape, "bytes"))
    with tempfile.TemporaryDirectory(prefix="reranker-batch-") as scratch:
        pairs, out, config = (Path(scratch) / name for name in ("pairs.jsonl", "out", "serve_config.yaml"))
        # Random weights pass no start-up check.
        args = {"engine": {"device": "cpu", "startup_check": options.shape == "demo"}}
        ours = [{"name": "reranker", "import_path": "deployments.app:build_app", "args": args}]
        config.write_text(json.dumps({"http_options": {"host": "127.0.0.1"}, "applications": ours}))
        write_pairs(pairs, options.pairs)
        command = [program("reranker"), "batch", str(pairs), "--out", str(out), "--model", model]
        command += ["--config", str(config), "--partition-rows", str(options.partition_rows)]
        if options.kills:
            result = killed(command, out, options.pairs, options.kills, options.longest_s)
        else:
            result = measured(command, out, pairs, model, options.rounds)
    header = describe() | {
        "shape": options.shape,
        "pairs": options.pairs,
        "partition_rows": options.partition_rows,
    }
    if options.out or not options.kills:
        results.write(options.out or RESULTS / "batch.json", header | result)
    print(json.dumps({key: value for key, value in result.items() if key != "rounds"}, indent=1))


if __name__ == "__main__":
    main()
