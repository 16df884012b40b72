"""Send many broken and odd bodies to a running service: it must answer each, in time, in JSON, and never with a 5xx.

But for a 504, where a body gives it too little time.

python -m tests.fuzz --url http://127.0.0.1:8000 --bodies 10000

Bodies are of two kinds: fields of every dialect with values of every kind, right and wrong; and bodies whose bytes were
changed, cut, compressed or replaced by others. The seed is printed: the same seed sends the same bodies.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from reranker.dialects import DIALECTS, PATHS
from reranker.dialects.base import Dialect

ANSWER_TIMEOUT_S = 30.0
_AT_ONCE = 8
_SHOWN = 20
_PARTS = 5
_WORDS = (
    "",
    " ",
    "a",
    "Beijing is the capital of China.",
    "北京",
    "<|im_end|>",
    "\x00",
    "\ud800",
    "😀" * 50,
    "x" * 5_000,
)
_ODD: tuple[Any, ...] = (  # Any: JSON
    None, True, False, 0, 1, -1, 3, 10**6, 2**63, 10**400, -0.0, 0.5, 1e308, float("nan"), float("inf"), "true", "no",
    "left", "windows", "max", "bulk", "@medical", "@nothing", "3", [], {}, [[]], [None], ["a"], {"text": "a"},
    {"a": {"b": [1]}},
)  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """One request."""

    path: str
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


def attempts(seed: int) -> Iterator[Attempt]:
    """Give requests without end."""
    chance = random.Random(seed)
    paths = list(PATHS)
    while True:
        path = chance.choice(paths)
        dialect = PATHS[path] or chance.choice([one for one in DIALECTS if one.name != "score"])
        fields = _fields(dialect, chance)
        body = json.dumps(fields, ensure_ascii=chance.random() < 0.5).encode("utf-8", "surrogatepass")
        headers = {"content-type": chance.choice(["application/json", "text/plain", ""])}
        if chance.random() < 0.05:
            headers["x-reranker-timeout-s"] = chance.choice(["1", "0", "soon", "-1", "1e99", "nan"])
        if chance.random() < 0.5:
            body, more = _mangled(body, chance)
            headers |= more
        model = chance.choice(("m", "Qwen/Qwen3-Reranker-8B", "%00", "%F0%9F%98%80", "a%2Fb/../c"))
        yield Attempt(path.replace("{model:path}", model), body, headers)


def _fields(dialect: Dialect, chance: random.Random) -> dict[str, Any]:
    """A valid body, some of whose fields have other values."""
    fields = dict(chance.choice(list(dialect.examples.values())))
    for name in dialect.body.model_fields:
        if chance.random() < 0.04:
            fields[name] = _value(chance)
    for name in list(fields):
        if chance.random() < 0.05:
            del fields[name]
    if chance.random() < 0.1:
        fields[chance.choice(("truncate", "kwargs", "user", "", "documents ", "__class__"))] = _value(chance)
    return fields


def _value(chance: random.Random) -> Any:
    kind = chance.random()
    if kind < 0.5:
        return chance.choice(_ODD)
    if kind < 0.7:
        return chance.choice(_WORDS)
    if kind < 0.9:
        documents: list[Any] = [chance.choice(_WORDS) for _ in range(chance.randrange(1, 30))]
        return documents + [chance.choice(_ODD)] * chance.randrange(2)
    return [{chance.choice(_WORDS): chance.choice(_ODD), "text": chance.choice(_WORDS)} for _ in range(3)]


def _mangled(body: bytes, chance: random.Random) -> tuple[bytes, dict[str, str]]:
    """Change the bytes of a body, and say of it what may be true or not."""
    how = chance.randrange(9)
    place = chance.randrange(len(body))
    if how == 0:
        return body[:place], {}
    if how == 1:
        return body[:place] + chance.randbytes(chance.randrange(1, 9)) + body[place:], {}
    if how == 2:
        return body[:place] + body[place + chance.randrange(1, 9) :], {}
    if how == 3:
        return chance.randbytes(chance.randrange(300)), {}
    if how == 4:
        return b'{"query":"q","documents":[' + b"[" * chance.randrange(3_000) + b'"a"]}', {}
    if how == 5:
        return gzip.compress(body, mtime=0), {"content-encoding": "gzip"}
    if how == 6:
        return gzip.compress(body, mtime=0)[:-place] + chance.randbytes(3), {"content-encoding": "gzip"}
    if how == 7:
        return zlib.compress(body), {"content-encoding": chance.choice(["deflate", "gzip", "br", "identity"])}
    return bytes(byte ^ (1 << chance.randrange(8)) if chance.random() < 0.02 else byte for byte in body), {}


@dataclass
class Findings:
    """What came of it."""

    statuses: Counter[int] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest_s: float = 0.0


async def send(url: str, bodies: int, seed: int, key: str | None = None) -> Findings:
    """Send so many bodies, a few at once."""
    findings = Findings()
    source = attempts(seed)
    numbers = iter(range(bodies))
    headers = {"authorization": f"Bearer {key}"} if key else None
    async with httpx.AsyncClient(base_url=url, timeout=ANSWER_TIMEOUT_S, headers=headers) as client:

        async def work() -> None:
            for number in numbers:
                attempt = next(source)
                started_s = time.perf_counter()
                try:
                    response = await client.post(attempt.path, content=attempt.body, headers=attempt.headers)
                except httpx.HTTPError as error:
                    findings.problems.append(f"body {number} to {attempt.path}: {type(error).__name__}")
                    continue
                findings.slowest_s = max(findings.slowest_s, time.perf_counter() - started_s)
                findings.statuses[response.status_code] += 1
                if problem := _problem(response):
                    findings.problems.append(f"body {number} to {attempt.path}: {problem}")

        async with asyncio.TaskGroup() as group:
            for _ in range(_AT_ONCE):
                group.create_task(work())
    return findings


def _problem(response: httpx.Response) -> str | None:
    if response.status_code >= 500 and response.status_code != 504:
        return f"HTTP {response.status_code}: {response.text[:200]}"
    try:
        answer = response.json()
    except ValueError:
        return f"HTTP {response.status_code}, not in JSON"
    if response.status_code != 200 and not (isinstance(answer, dict) and answer.get("message")):
        return f"HTTP {response.status_code} without a message"
    return None


def memory_mib() -> dict[str, float]:
    """Resident memory of the ingresses on this machine."""
    found: dict[str, float] = {}
    for process in psutil.process_iter(["cmdline", "memory_info"]):
        if ":Ingress" in " ".join(process.info["cmdline"] or ()):
            found[f"ingress {process.pid}"] = round(process.info["memory_info"].rss / 2**20, 1)
    return found


def main() -> int:
    """Send, and report.

    Returns:
        Exit status: 1 when any body met a problem.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a running service (%(default)s)")
    parser.add_argument("--bodies", type=int, default=10_000, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="default: another one each time")
    parser.add_argument("--key", help="API key, where one is needed")
    parsed = parser.parse_args()
    print(f"seed {parsed.seed}")
    statuses: Counter[int] = Counter()
    problems: list[str] = []
    slowest_s = 0.0
    memory: dict[str, list[float]] = {}
    for part in range(_PARTS):  # memory that rises from part to part is lost
        findings = asyncio.run(send(parsed.url, -(-parsed.bodies // _PARTS), parsed.seed + part, parsed.key))
        statuses += findings.statuses
        problems += findings.problems
        slowest_s = max(slowest_s, findings.slowest_s)
        for name, mib in memory_mib().items():
            memory.setdefault(name, []).append(mib)
    print(f"{statuses.total()} answers; by status: {dict(sorted(statuses.items()))}; slowest: {slowest_s:.2f} s")
    for name, seen in memory.items():
        print(f"MiB of {name} after each part of {_PARTS}: {seen}")
    print(f"{len(problems)} problems", *problems[:_SHOWN], sep="\n  ")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
