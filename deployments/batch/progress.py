"""How far a batch is: told by the engines' processes to an actor, and shown by the one who started it."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

_POLL_S = 0.5
_LINE_S = 30.0
"""Between two lines where there is no terminal."""


class Board:
    """An actor."""

    def __init__(self) -> None:
        """Start with nothing done."""
        self._rows: dict[int, int] = {}
        self._done = 0

    def note(self, partition: int, rows: int) -> None:
        """Of a partition, so many rows are done; fewer than before when it is begun again."""
        self._done += rows - self._rows.get(partition, 0)
        self._rows[partition] = rows

    def done(self) -> int:
        """Rows, of all partitions."""
        return self._done


@contextlib.contextmanager
def shown(board: ActorHandle, rows: int, there: int) -> Iterator[None]:
    """Show progress on stderr for as long as the block lasts: a bar on a terminal, else now and then a line.

    Args:
        board: A `Board`.
        rows: Of the whole input.
        there: Of them, done before.
    """
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(board, rows, there, ended), name="progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(board: ActorHandle, rows: int, there: int, ended: threading.Event) -> None:
    from tqdm import tqdm  # type: ignore[import-untyped]

    terminal = sys.stderr.isatty()
    bar = tqdm(total=rows, initial=there, unit=" rows", disable=not terminal, leave=False, smoothing=0.05)
    with bar:
        started_s: float | None = None
        line_s = time.monotonic()
        while not ended.wait(_POLL_S):
            try:
                done = ray.get(board.done.remote(), timeout=10)
            except RayError:  # it is only the display
                continue
            now_s = time.monotonic()
            if started_s is None and done:  # the speed is that of engines, not of their start
                started_s = now_s
                first = done
                bar.unpause()
            bar.update(there + done - bar.n)
            if not terminal and now_s - line_s >= _LINE_S:
                line_s = now_s
                speed = (done - first) / (now_s - started_s) if started_s and now_s > started_s else 0.0
                print(_line(there + done, rows, speed), file=sys.stderr, flush=True)


def _line(done: int, rows: int, speed: float) -> str:
    if not speed:
        return f"{done} of {rows} rows"
    left = int((rows - done) / speed)
    return f"{done} of {rows} rows, {speed:.1f} rows/s, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"
