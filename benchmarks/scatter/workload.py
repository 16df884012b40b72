"""Lists to rank: documents of words drawn from the committed judged set, every list another one; and models for them.

Distinct, because what was scored once may be remembered one day.
"""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.scatter.report import ROOT
from benchmarks.shapes import SHAPES, make_checkpoint
from tools.build_qwen_tokenizer import write_tokenizer

_CORPUS = ROOT / "benchmarks" / "judged" / "medquad-en" / "corpus.jsonl"


@cache
def _words() -> tuple[str, ...]:
    lines = _CORPUS.read_text(encoding="utf-8").splitlines()
    return tuple(word for line in lines for word in json.loads(line)["text"].split())


class Lists:
    """Draws lists; the same seed gives the same lists."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def text(self, words: int) -> str:
        """So many words."""
        return " ".join(self._random.choices(_words(), k=words))

    def document(self, words: int) -> str:
        """A document of about so many words: half as many to one and a half times as many."""
        return self.text(max(1, round(words * self._random.uniform(0.5, 1.5))))

    def body(self, documents: int, words: int, **fields: Any) -> bytes:
        """A request's body: a list of so many documents of about so many words."""
        texts = [self.document(words) for _ in range(documents)]
        return json.dumps({"query": self.text(8), "documents": texts, **fields}).encode()


def qwen_folder(folder: Path) -> Path:
    """A model of which only the tokenizer is there, the real one of Qwen3: enough for a simulated engine."""
    path = folder / "qwen3-tokenizer"
    if not path.exists():
        write_tokenizer(path)
        settings = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "max_position_embeddings": 40_960}
        (path / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    return path


def random_model_folder(folder: Path, shape: str) -> Path:
    """A whole model with random weights (benchmarks/shapes.py)."""
    path = folder / shape
    if not path.exists():
        make_checkpoint(SHAPES[shape], path)
    return path
