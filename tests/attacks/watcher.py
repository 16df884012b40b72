"""Watches a service from a process of its own: /health, lists of ten of another key, its processes. Prints JSON lines.

python -m tests.attacks.watcher     the job is read from standard input, since a command line shows its keys to others

A process of its own, so that what the attacker computes delays no look. Each look is a line
`[kind, began_s, seconds, status]`, each process `["process", at_s, pid, name, rss_bytes, cpu_s]`, the log
`["log", at_s, bytes]`; times are of the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import psutil

from tests.attacks import processes
from tests.attacks.wire import Address, exchange, head

_HEALTH_PERIOD_S = 0.05
_LIST_PERIOD_S = 0.1
_PROCESS_PERIOD_S = 0.05
_LOG_PERIOD_S = 1.0
_TIMEOUT_S = 170.0
_METRICS_BYTES = 16 * 2**20
_WORDS = ("capital", "china", "beijing", "river", "mountain", "paris", "music", "engine", "paper", "museum", "iron")
_lock = threading.Lock()


def _say(*values: object) -> None:
    with _lock:
        sys.stdout.write(json.dumps(values) + "\n")
        sys.stdout.flush()


class _Asker:
    """Asks the same service again and again, over one connection while it holds."""

    def __init__(self, address: Address, kind: str, period_s: float, headers: Mapping[str, str]) -> None:
        self._address, self._kind, self._period_s, self._headers = address, kind, period_s, dict(headers)
        self._connection: http.client.HTTPConnection | None = None

    def ask_for_ever(self, method: str, target: str, body: Callable[[], bytes | None]) -> None:
        while True:
            sent = body()
            began_s = time.monotonic()
            try:
                status = self._ask(method, target, sent)
            except (OSError, http.client.HTTPException):
                self._connection, status = None, 0
                time.sleep(self._period_s)
            seconds = time.monotonic() - began_s
            _say(self._kind, began_s, seconds, status)
            time.sleep(max(0.0, self._period_s - seconds))

    def _ask(self, method: str, target: str, body: bytes | None) -> int:
        for again in (False, True):
            fresh = self._connection is None
            connection = self._connection = self._connection or self._connected()
            try:
                connection.request(method, target, body, self._headers)
                response = connection.getresponse()
                response.read()
            except (ConnectionError, http.client.BadStatusLine):
                self._connection = None  # an idle connection may have been closed: once more, on a new one
                if fresh or again:
                    raise
                continue
            return response.status
        raise AssertionError("unreachable")

    def _connected(self) -> http.client.HTTPConnection:
        address = self._address
        if address.tls:
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            return http.client.HTTPSConnection(address.host, address.port, timeout=_TIMEOUT_S, context=context)
        return http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)


def _list_of_ten() -> bytes:
    """Another one each time, so that no cache knows it."""
    texts = [" ".join(random.choices(_WORDS, k=12)) + f" {random.randrange(10**9)}" for _ in range(10)]
    return json.dumps({"query": f"capital of China {random.randrange(10**9)}", "documents": texts}).encode()


def _watch_processes(address: Address) -> None:
    found: dict[int, psutil.Process] = {}
    looked_s = 0.0
    while True:
        now_s = time.monotonic()
        if now_s - looked_s > 1 or not found:
            found, looked_s = processes.replicas(address.port), now_s
        for pid, process in list(found.items()):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory = process.memory_info().rss
                _say("process", now_s, pid, processes.name_of(process), memory, times.user + times.system)
            except psutil.Error:
                del found[pid]
        time.sleep(_PROCESS_PERIOD_S if found else 1.0)


def _watch_metrics(address: Address, key: str) -> None:
    """Of a service that runs elsewhere: what it tells of its own processes, if it does."""
    request = head("GET", "/metrics", {"authorization": f"Bearer {key}", "connection": "close"})
    while True:
        at_s = time.monotonic()
        answer = exchange(address, [request], _TIMEOUT_S, kept_bytes=_METRICS_BYTES)
        if answer.status != 200:
            return
        for name, (memory, cpu_s) in processes.told(answer.body.decode("utf-8", "replace")).items():
            _say("process", at_s, name, name, memory, cpu_s)
        time.sleep(_LOG_PERIOD_S)


def _watch_log(address: Address) -> None:
    while files := processes.log_folder(address.port):
        _say("log", time.monotonic(), processes.size_bytes(files))
        time.sleep(_LOG_PERIOD_S)


def main() -> None:
    """Watch until standard input ends."""
    job: dict[str, Any] = json.loads(sys.stdin.readline())  # Any: JSON
    address = Address.of(job["url"])
    lists = {"authorization": f"Bearer {job['other_key']}"} if job["other_key"] else {}
    lists["content-type"] = "application/json"
    health = _Asker(address, "health", _HEALTH_PERIOD_S, {})
    other = _Asker(address, "list", _LIST_PERIOD_S, lists)
    watches: list[Callable[[], None]] = [
        lambda: health.ask_for_ever("GET", "/health", lambda: None),
        lambda: other.ask_for_ever("POST", "/v1/rerank", _list_of_ten),
    ]
    if job["local"]:
        watches += [lambda: _watch_processes(address), lambda: _watch_log(address)]
    else:
        watches.append(lambda: _watch_metrics(address, job["key"]))
    for watch in watches:
        threading.Thread(target=watch, daemon=True).start()
    sys.stdin.read()
    os._exit(0)  # threads that wait for an answer would hold it


if __name__ == "__main__":
    main()
