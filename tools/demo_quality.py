"""Measure the demo model against BM25 on the same candidates and write the table into its model card.

    python -m tools.demo_quality            # about ten minutes on one core
    python -m tools.demo_quality --check    # instant: was the table made from the committed model and questions?

Both rankers see the same question and the same 20 candidates, one of them relevant. "Random": the others are drawn from
the pool. "Hard": they are the 19 that BM25 itself likes best, so BM25 chose its own mistakes. Transformers, float32.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from tools.demo_model import checkpoint, evaluation
from tools.demo_model.corpus import Pair
from tools.demo_model.scorer import Scorer

CARD = checkpoint.MODEL_FOLDER / "README.md"
_TABLE = re.compile(r"<!-- quality ?([0-9a-f]*) -->\n.*?<!-- /quality -->", re.DOTALL)
_MEASURED = (
    checkpoint.MODEL_FOLDER / "model.safetensors",
    checkpoint.MODEL_FOLDER / "tokenizer.json",
    checkpoint.HELD_OUT,
    checkpoint.OWN_QUESTIONS,
)


@dataclass(frozen=True, slots=True)
class TestSet:
    """The questions of one kind, and the documents their candidates come from."""

    name: str
    language: str
    pairs: Sequence[Pair]
    pool: Sequence[str]


def read_test_sets() -> list[TestSet]:
    """Read the committed questions, grouped by source and language."""
    rows = [
        {"source": "written here", **json.loads(line)}
        for path in (checkpoint.HELD_OUT, checkpoint.OWN_QUESTIONS)
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    groups: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["source"], row["language"]), []).append(row)
    return [
        TestSet(
            f"{source}, {language}",
            language,
            [Pair(row["query"], row["document"]) for row in group if "query" in row],
            list(dict.fromkeys(row["document"] for row in group)),
        )
        for (source, language), group in groups.items()
    ]


def table(sets: Sequence[TestSet], scorer: evaluation.Ranker) -> Iterator[str]:
    """Yield the lines of the Markdown table, one set and difficulty a line."""
    yield "| questions | others | n | BM25 top-1 | BM25 MRR | demo top-1 | demo MRR |"
    yield "|---|---|---|---|---|---|---|"
    for test in sets:
        bm25 = evaluation.Bm25(test.pool, test.language)
        trials = {
            "random": evaluation.random_trials(test.pairs, test.pool),
            "hard": evaluation.hard_trials(test.pairs, test.pool, bm25),
        }
        for difficulty, chosen in trials.items():
            cells = [test.name, difficulty, str(len(chosen))]
            for ranker in (bm25, scorer):
                quality = evaluation.measure(ranker, chosen)
                cells.append(f"{quality.top1:.3f} ± {quality.top1_error:.3f}")
                cells.append(f"{quality.mrr:.3f} ± {quality.mrr_error:.3f}")
            yield f"| {' | '.join(cells)} |"


def fingerprint(paths: Sequence[Path] = _MEASURED) -> str:
    """Return a short hash of everything the table depends on."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def is_stale(card: str) -> bool:
    """Say whether the card's table was made from other files than the committed ones."""
    found = _TABLE.search(card)
    return found is None or found[1] != fingerprint()


def main() -> int:
    """Measure and write, or check with --check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if the table is stale")
    if parser.parse_args().check:
        if is_stale(CARD.read_text(encoding="utf-8")):
            print("stale: the quality table of reranker/model/demo_model/README.md; run python -m tools.demo_quality")
            return 1
        return 0
    torch.set_num_threads(1)  # the model is too small to gain from more
    lines = []
    for line in table(read_test_sets(), Scorer()):
        print(line, flush=True)
        lines.append(line)
    block = "\n".join([f"<!-- quality {fingerprint()} -->", *lines, "<!-- /quality -->"])
    card, written = _TABLE.subn(lambda _found: block, CARD.read_text(encoding="utf-8"))
    if not written:
        raise RuntimeError("the model card has no place for the table: <!-- quality --> ... <!-- /quality -->")
    CARD.write_text(card, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
