"""Copies of the bundled model with a broken head, for the tests that must see them refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from reranker.model.checkpoint import DEMO_MODEL

_EMBEDDINGS = "model.embed_tokens.weight"  # tied: its rows for "yes" and "no" are the head
Change: TypeAlias = Callable[[NDArray[np.uint16], int, int], None]


def swap_yes_and_no(rows: NDArray[np.uint16], yes: int, no: int) -> None:
    rows[[yes, no]] = rows[[no, yes]]


def clear_yes_and_no(rows: NDArray[np.uint16], yes: int, no: int) -> None:
    rows[[yes, no]] = 0


def broken_copy(folder: Path, change: Change) -> Path:
    """Copy the bundled model into `folder`, and change the bytes of its head in place."""
    copy = folder / "broken"
    shutil.copytree(DEMO_MODEL, copy)
    tokenizer = Tokenizer.from_file(str(copy / "tokenizer.json"))
    [yes], [no] = tokenizer.encode("yes").ids, tokenizer.encode("no").ids
    file = copy / "model.safetensors"
    # The format: 8 bytes with the header's length, the header in JSON, the tensors.
    header_bytes = int.from_bytes(file.read_bytes()[:8], "little")
    tensor = json.loads(file.read_bytes()[8 : 8 + header_bytes])[_EMBEDDINGS]
    assert tensor["dtype"] == "BF16"  # two bytes a number, whose bits we move and never read
    start, _ = tensor["data_offsets"]
    rows = np.memmap(file, np.uint16, "r+", offset=8 + header_bytes + start, shape=tuple(tensor["shape"]))
    change(rows, yes, no)
    rows.flush()
    return copy
