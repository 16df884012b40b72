"""Kill -9 at any moment of `reranker index build`: the old index serves, and the same command completes the new one."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reranker.search.first_stages import check_integrity, first_stages
from reranker.search.index import IndexFolder, IndexReader

pytestmark = pytest.mark.slow

KILLS = 10
DOCUMENTS = 3_000
COMMAND = [str(Path(sys.executable).parent / "reranker"), "index", "build"]


def _write(path: Path, word: str, documents: int) -> None:
    with path.open("w") as file:
        for number in range(documents):
            text = f"{word} number {number}. " + f"This is text {number % 97} of many. " * 12
            file.write(json.dumps({"id": f"{word}-{number}", "text": text}) + "\n")


def _require_served(index: Path, word: str, documents: int) -> None:
    """The index is whole, and what a search finds is of the build that was served last."""
    opened = IndexReader(IndexFolder(index).current())
    check_integrity(opened)
    assert [chunk.id for chunk in opened.chunks] == [f"{word}-{number}" for number in range(documents)]
    found = asyncio.run(first_stages(opened, None)["bm25"].search(f"{word} number 7", 1))
    assert [one.chunk.id for one in found] == [f"{word}-7"]


def _first_document(index: Path) -> str:
    return IndexReader(IndexFolder(index).current()).chunks[0].id


@pytest.mark.timeout(900)  # a minute, where nothing else runs
def test_killed_builds_leave_the_old_index_and_the_next_one_completes(tmp_path: Path) -> None:
    """Ten kills, spread at random over the time a build takes."""
    index, old, new = tmp_path / "idx", tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    _write(old, "old", 50)
    subprocess.run([*COMMAND, str(old), "--out", str(index)], check=True)
    _write(new, "new", DOCUMENTS)
    began_s = time.monotonic()
    subprocess.run([*COMMAND, str(new), "--out", str(tmp_path / "probe")], check=True)
    whole_s = time.monotonic() - began_s

    draw = random.Random()  # anew each time: over many runs every moment is met
    killed = 0
    while killed < KILLS:
        build = subprocess.Popen([*COMMAND, str(new), "--out", str(index)], stdout=subprocess.DEVNULL)
        try:
            build.wait(draw.uniform(0.1, 0.95) * whole_s)
        except subprocess.TimeoutExpired:
            build.send_signal(signal.SIGKILL)
            killed += 1
        assert build.wait() in (0, -signal.SIGKILL)
        if _first_document(index).startswith("new"):  # it went on where the one before was, and came to its end
            _require_served(index, "new", DOCUMENTS)
            subprocess.run([*COMMAND, str(old), "--out", str(index)], check=True)
            whole_s *= 0.9  # the machine has become faster
        _require_served(index, "old", 50)

    subprocess.run([*COMMAND, str(new), "--out", str(index)], check=True)
    _require_served(index, "new", DOCUMENTS)
    assert not IndexFolder(index).building.exists()
    assert len(list((index / "versions").iterdir())) == 2
