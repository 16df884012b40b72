"""The checkpoints that are served, made once and kept in build/bench."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from benchmarks.serving.machine import SCRATCH, say
from benchmarks.shapes import QWEN_VOCABULARY, SHAPES, make_checkpoint
from reranker.model.checkpoint import DEMO_MODEL

SHAPE_NAMES = ("demo", *SHAPES)


def checkpoint(shape: str) -> Path:
    """The folder of a shape's checkpoint: random weights with the real Qwen3 tokenizer, or the demo model."""
    if shape == "demo":
        return DEMO_MODEL
    settings = json.dumps([asdict(SHAPES[shape]), QWEN_VOCABULARY])
    folder = SCRATCH / f"{shape}-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"
    if not folder.exists():
        say(f"making the checkpoint {folder}")
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        make_checkpoint(SHAPES[shape], unfinished, vocabulary="qwen")
        unfinished.rename(folder)
    return folder


def dtype(shape: str) -> str:
    """What engines are told; the demo model is served in float32, as our service does."""
    return "float32" if shape == "demo" else "auto"
