"""What the programs here do when they are told to end."""

from __future__ import annotations

import signal
import sys


def heed_sigterm() -> None:
    """Have SIGTERM raise SystemExit, so that the services and engines that were started are ended too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
