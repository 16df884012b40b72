"""Write benchmarks/judged/: the held-out questions in BEIR's form, each with BM25's 20 best documents.

    python -m tools.build_judged_set

Where the relevant document is not among the candidates, no reranker can bring it back. Documents that share no word
with the question have score 0 and fill the 20 up in an order by hash, which has nothing to do with relevance. BM25 is
the one of the demo model's quality table (tools/demo_model/evaluation.py).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from tools.demo_model.evaluation import CANDIDATES, Bm25
from tools.demo_quality import TestSet, read_test_sets

OUT = Path(__file__).parents[1] / "benchmarks" / "judged"


def write_set(test: TestSet, folder: Path) -> None:
    """Write queries, corpus, judgments and candidates of one test set; ids are positions (q0, d0)."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    position = {document: index for index, document in enumerate(test.pool)}
    _write(folder / "queries.jsonl", (_json({"_id": f"q{i}", "text": one.query}) for i, one in enumerate(test.pairs)))
    _write(folder / "corpus.jsonl", (_json({"_id": f"d{i}", "text": text}) for i, text in enumerate(test.pool)))
    relevant = [f"q{i}\td{position[pair.document]}\t1" for i, pair in enumerate(test.pairs)]
    _write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore", *relevant])
    bm25 = Bm25(test.pool, test.language)
    candidates: list[str] = []
    for i, pair in enumerate(test.pairs):
        scores = bm25.pool_scores(pair.query)
        # Equal scores by hash: the pool's own order puts answers first.
        order = sorted(range(len(scores)), key=lambda index: (-scores[index], _hash(test.pool[index])))
        candidates += [
            f"q{i} Q0 d{index} {rank} {scores[index]:.4f} bm25"
            for rank, index in enumerate(order[:CANDIDATES], start=1)
        ]
    _write(folder / "candidates.trec", candidates)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _json(row: dict[str, str]) -> str:
    return json.dumps(row, ensure_ascii=False)


def _write(path: Path, lines: Iterable[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def main() -> None:
    """Write one folder per source and language."""
    for test in read_test_sets():
        folder = OUT / test.name.replace(", ", "-").replace(" ", "-")
        write_set(test, folder)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder.name}: {len(test.pairs)} queries, {len(test.pool)} documents, {size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
