"""How far the replicas are that are still starting: said in the log, and to the ingress, which says it on /health.

Serve itself tells only that a replica is starting, for minutes. Told through the store that Ray's nodes share, as a
replica that starts cannot be called.
"""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

from ray.experimental import internal_kv  # Serve keeps its own state there; nothing public does the same

logger = logging.getLogger(__name__)

_NAMESPACE = b"reranker-loading"
_TELL_EVERY_S = 2.0
_FORGET_AFTER_S = 15.0
"""Who has not told for so long is dead; not sooner, as loading a model can hold up the thread that tells."""


@contextlib.contextmanager
def loading(replica: str) -> Iterator[Callable[[str], None]]:
    """Tell how far a replica's start is, as long as the block lasts; it calls what it is given with each stage."""
    began_s = time.monotonic()
    stages = [("starting", began_s)]
    ended = threading.Event()

    def tell() -> None:
        now_s, (stage, stage_began_s) = time.monotonic(), stages[-1]
        seconds = {"seconds": round(now_s - stage_began_s, 1), "seconds_in_all": round(now_s - began_s, 1)}
        told = {"stage": stage} | seconds | {"told_unix_s": time.time()}
        internal_kv._internal_kv_put(replica.encode(), json.dumps(told).encode(), namespace=_NAMESPACE)

    def keep_telling() -> None:
        while not ended.wait(_TELL_EVERY_S):
            tell()

    def begin(stage: str) -> None:
        stages.append((stage, time.monotonic()))
        logger.info("%s", stage)
        tell()

    thread = threading.Thread(target=keep_telling, name="loading", daemon=True)
    thread.start()
    verdict = "failed"
    try:
        yield begin
        verdict = "ready"
    finally:
        ended.set()
        thread.join()
        internal_kv._internal_kv_del(replica.encode(), namespace=_NAMESPACE)
        stages.append(("", time.monotonic()))
        parts = ", ".join(f"{stage} {end_s - began_s:.1f} s" for (stage, began_s), (_, end_s) in pairwise(stages))
        logger.info("%s after %.1f s: %s", verdict, time.monotonic() - began_s, parts)


def replicas_loading() -> list[dict[str, Any]]:  # Any: JSON
    """What each replica that is starting does, and for how many seconds. Takes milliseconds, and blocks."""
    replicas = []
    for key in sorted(internal_kv._internal_kv_list(b"", namespace=_NAMESPACE)):
        value = internal_kv._internal_kv_get(key, namespace=_NAMESPACE)
        told = json.loads(value or "{}")  # it may have become ready in between
        if time.time() - told.pop("told_unix_s", 0) < _FORGET_AFTER_S:
            replicas.append({"replica": key.decode()} | told)
    return replicas
