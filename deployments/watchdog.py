"""Ends this process when its event loop stands still.

Serve asks such a replica to end, which it cannot hear, and kills it minutes later; until then its socket takes
connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys

_BEAT_S = 1.0
SILENT_S = 10.0
"""With the time that a successor takes to start, half a minute; and no list of ours keeps a loop for a tenth of it."""
_LOOKS = 5
_WATCH = """
import os, select, sys
silent_s, looks, process = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
silent = 0
while silent < looks:
    if not select.select([0], [], [], silent_s / looks)[0]:
        silent += 1  # one look alone may have been while both stood still: a container that was paused
    elif os.read(0, 4096):
        silent = 0
    else:
        sys.exit()  # it has ended by itself
print(f"process {process} has stood still for {silent_s:g} s, and is killed", file=sys.stderr, flush=True)
os.kill(process, 9)
"""


class Watchdog:
    """A small process that kills this one unless it hears from the running event loop."""

    def __init__(self, silent_s: float = SILENT_S) -> None:
        command = [sys.executable, "-I", "-S", "-c", _WATCH, str(silent_s), str(_LOOKS), str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        assert self._process.stdin is not None  # noqa: S101 - for the type checker
        self._line = self._process.stdin.fileno()
        os.set_blocking(self._line, False)
        self._beating = asyncio.get_running_loop().create_task(self._beat(min(_BEAT_S, silent_s / _LOOKS / 2)))

    async def _beat(self, period_s: float) -> None:
        while True:
            with contextlib.suppress(BlockingIOError):  # it does not listen: it is stopped as well
                os.write(self._line, b".")
            await asyncio.sleep(period_s)

    def close(self) -> None:
        """Watch no more."""
        self._beating.cancel()
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # type: ignore[union-attr]
        self._process.wait()
