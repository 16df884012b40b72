"""Draw the committed evaluation set of the demo model from the held-out documents of MedQuAD and CMRC 2018.

    python -m tools.build_demo_heldout [--data ../shared/data]

These documents are in no other input of the model: not in the tokenizer's text, not in the document frequencies, not in
the calibration (tools/demo_model/corpus.py, is_held_out). The drawing is by hash, so it is the same everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from tools.demo_model.checkpoint import HELD_OUT
from tools.demo_model.corpus import COLLECTIONS, read_pairs

_QUESTIONS = 200
_POOL = {"en": 450, "zh": 235}  # documents to mine negatives from, the answers included; CMRC holds out no more
_DOCUMENT_CHARS = 420


def rows(data: Path, language: str) -> Iterator[dict[str, str]]:
    """Yield the pool of one language: the first _QUESTIONS rows carry a question, the others only a document."""
    seen = {pair.document[:_DOCUMENT_CHARS] for pair in read_pairs(data, language, held_out=False)}
    pairs = [pair for pair in read_pairs(data, language, held_out=True) if pair.document[:_DOCUMENT_CHARS] not in seen]
    pairs.sort(key=lambda pair: hashlib.sha256(f"{pair.query}\n{pair.document}".encode()).digest())
    by_document = {pair.document[:_DOCUMENT_CHARS]: pair for pair in reversed(pairs)}
    source = COLLECTIONS[language].removesuffix(".jsonl")
    for index, (document, pair) in enumerate(list(by_document.items())[: _POOL[language]]):
        question = {"query": pair.query} if index < _QUESTIONS else {}
        yield {"source": source, "language": language, **question, "document": document}


def main() -> None:
    """Write heldout.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the two .jsonl files")
    arguments = parser.parse_args()
    lines = [
        json.dumps(row, ensure_ascii=False) + "\n" for language in COLLECTIONS for row in rows(arguments.data, language)
    ]
    HELD_OUT.write_text("".join(lines), encoding="utf-8")
    print(f"{len(lines)} documents, {HELD_OUT.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
