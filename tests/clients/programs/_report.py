"""Runs clients in their own environment: the job comes as JSON on standard input, the findings go out as JSON.

Needs nothing but the standard library. Each client is a function of base URL and key that ranks `QUERY` and `DOCUMENTS`
and gives (index, score) pairs in the client's own order, as its users see them.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

QUERY = "What is the capital of China?"
DOCUMENTS = [
    "Gravity attracts bodies with mass to each other.",
    "The capital of China is Beijing.",
    "Paris is the capital of France.",
    "China has a long history and many cities.",
    "北京是中国的首都。",
]


def index_of(text: str) -> int:
    """Find a document by its text, for clients that give back texts."""
    return DOCUMENTS.index(text)


def main(clients: dict[str, Callable[[str, str], Any]]) -> None:
    """Run the cases of the job with every client."""
    job = json.load(sys.stdin)
    findings: dict[str, Any] = {}
    for name, client in clients.items():
        findings[name] = {}
        for case, key in job["cases"].items():
            if case == "limited":
                _use_up(job["url"], key)
            started = time.monotonic()
            try:
                found = _call(client, job["url"], key)
                finding: dict[str, Any] = {"ranking": [[int(index), float(score)] for index, score in found]}
            except Exception as error:
                finding = {"error": type(error).__name__, "said": str(error)[:400]}
            findings[name][case] = finding | {"took_s": round(time.monotonic() - started, 2)}
    json.dump(findings, sys.stdout)


def _call(client: Callable[[str, str], Any], url: str, key: str) -> Any:
    answer = client(url, key)
    return asyncio.run(answer) if inspect.iscoroutine(answer) else answer


def _use_up(url: str, key: str) -> None:
    """Ask until the key may have no more for about two seconds."""
    body = json.dumps({"query": "q", "documents": [f"{number} " * 20 for number in range(10)]}).encode()
    while True:
        request = urllib.request.Request(
            f"{url}/v1/rerank", body, {"authorization": f"Bearer {key}", "content-type": "application/json"}
        )
        try:
            urllib.request.urlopen(request).read()
        except urllib.error.HTTPError as error:
            if error.code != 429:
                raise
            if int(error.headers["retry-after"]) >= 2:
                return
            time.sleep(1)
