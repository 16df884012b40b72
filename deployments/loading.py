"""How far the replicas are that are still starting: said in the log, and to the ingress, which says it on /health.

Serve itself tells only that a replica is starting, for minutes. Told through the store that Ray's nodes share, as a
replica that starts cannot be called.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from types import TracebackType
from typing import Any, Self

from ray.experimental import internal_kv  # Serve keeps its own state there; nothing public does the same

logger = logging.getLogger(__name__)

_NAMESPACE = b"reranker-loading"
_TELL_EVERY_S = 2.0
_FORGET_AFTER_S = 15.0
"""Who has not told for so long is dead; not sooner, as loading a model can hold up the thread that tells."""


class Loading:
    """To be used as a context around the start of one replica."""

    def __init__(self, replica: str) -> None:
        """Begin.

        Args:
            replica: Its name.
        """
        self._key = replica.encode()
        self._stage = "starting"
        self._stage_began_s = self._began_s = time.monotonic()
        self._took_s: dict[str, float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_telling, name="loading", daemon=True)

    def __enter__(self) -> Self:
        """Begin to tell."""
        self._thread.start()
        return self

    def stage(self, stage: str) -> None:
        """Say what comes now: "loading the weights"."""
        self._note()
        self._stage, self._stage_began_s = stage, time.monotonic()
        logger.info("%s", stage)
        self._tell()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """It is ready, or has failed."""
        self._ended.set()
        self._thread.join()
        internal_kv._internal_kv_del(self._key, namespace=_NAMESPACE)
        self._note()
        parts = ", ".join(f"{stage} {took_s:.1f} s" for stage, took_s in self._took_s.items())
        verdict = "ready" if error is None else "failed"
        logger.info("%s after %.1f s: %s", verdict, time.monotonic() - self._began_s, parts)

    def _note(self) -> None:
        took_s = time.monotonic() - self._stage_began_s
        self._took_s[self._stage] = self._took_s.get(self._stage, 0.0) + took_s

    def _keep_telling(self) -> None:
        while not self._ended.wait(_TELL_EVERY_S):
            self._tell()

    def _tell(self) -> None:
        now_s = time.monotonic()
        told = {
            "stage": self._stage,
            "seconds": round(now_s - self._stage_began_s, 1),
            "seconds_in_all": round(now_s - self._began_s, 1),
            "told_unix_s": time.time(),
        }
        internal_kv._internal_kv_put(self._key, json.dumps(told).encode(), namespace=_NAMESPACE)


def replicas_loading() -> list[dict[str, Any]]:  # Any: JSON
    """What each replica that is starting does, and for how many seconds. Takes milliseconds, and blocks."""
    replicas = []
    for key in internal_kv._internal_kv_list(b"", namespace=_NAMESPACE):
        value = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
        if value is None:  # it has become ready in between
            continue
        told = json.loads(value)
        silent_s = time.time() - told.pop("told_unix_s")
        if silent_s < _FORGET_AFTER_S:
            replicas.append({"replica": key.decode()} | told)
    return sorted(replicas, key=lambda one: str(one["replica"]))
