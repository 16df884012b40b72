"""Whether a client that is refused while it sends 60 MB reads its refusal: curl, requests, httpx, Node's fetch."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.attacks import bodies
from tests.attacks.attack import Attack, Outcome, Target, post
from tests.attacks.wire import Answer

_TIMEOUT_S = 130
"""Longer than a request's deadline: what engines have time for after all is answered by then."""
_CURL = """\
curl -s -o /dev/null --max-time {timeout} {more} -H "content-type: application/json" -H "authorization: Bearer $KEY" \
--data-binary @"$FILE" -w "%{{http_code}} %header{{retry-after}}\\n" "$URL" || echo "0 $?\""""
_PYTHON = """\
import os, {library}
body = open(os.environ["FILE"], "rb").read()
headers = {{"authorization": "Bearer " + os.environ["KEY"], "content-type": "application/json"}}
for number in range(int(os.environ["TRIES"])):
    headers["connection"] = "close" if number % 2 else "keep-alive"
    sent = (body[at : at + 65536] for at in range(0, len(body), 65536)) if number % 3 == 2 else body
    try:
        answer = {library}.post(os.environ["URL"], {argument}=sent, headers=headers, timeout={timeout}, verify=False)
    except Exception as error:
        print(0, type(error).__name__, flush=True)
    else:
        print(answer.status_code, answer.headers.get("retry-after", ""), flush=True)
"""
_NODE = """\
const body = require("fs").readFileSync(process.env.FILE);
const headers = {authorization: "Bearer " + process.env.KEY, "content-type": "application/json"};
(async () => { for (let i = 0; i < +process.env.TRIES; i++) {
  try {
    const answer = await fetch(process.env.URL, {method: "POST", body, headers, signal: AbortSignal.timeout(130000)});
    await answer.text();
    console.log(answer.status, answer.headers.get("retry-after") ?? "");
  } catch (error) { console.log(0, (error.cause && error.cause.code) || error.name); }
} })();
"""


def clients() -> dict[str, list[str]]:
    """The command of each client that is installed; it sends a file $TRIES times and prints status and Retry-After."""
    found: dict[str, list[str]] = {}
    if shutil.which("curl") and shutil.which("sh"):
        chunked = '-H "Expect:" -H "Transfer-Encoding: chunked" -H "Connection: close"'
        for name, more in (("curl", ""), ("curl without Expect", '-H "Expect:"'), ("curl in chunks", chunked)):
            loop = f'i=0; while [ $i -lt "$TRIES" ]; do {_CURL.format(more=more, timeout=_TIMEOUT_S)}; i=$((i+1)); done'
            found[name] = ["sh", "-c", loop]
    for library, argument in (("requests", "data"), ("httpx", "content")):
        if importlib.util.find_spec(library):
            program = _PYTHON.format(library=library, argument=argument, timeout=_TIMEOUT_S)
            found[library] = [sys.executable, "-W", "ignore", "-c", program]
    if node := shutil.which("node"):
        found["Node's fetch"] = [node, "--no-warnings", "-e", _NODE]
    return found


def attacks() -> Iterator[Attack]:
    """Every attack of this kind."""
    for case, (key, size_mb, allowed) in _CASES.items():
        run = partial(_read, case, key, size_mb, allowed)
        overloads = case == "overloaded"
        yield Attack(f"refusal-read-{case}", run, "K7", with_key=True, quick=case == "too-large", overloads=overloads)


_CASES: dict[str, tuple[str, float, tuple[int, ...]]] = {  # by why it is refused: key, size, what it may be
    "wrong-key": ("wrong", 60, (401,)),
    "too-large": ("", 70, (413,)),
    "overloaded": ("", 60, (429, 413, 400)),
}


def _read(case: str, key: str, size_mb: float, allowed: tuple[int, ...], target: Target) -> Outcome:
    outcome = Outcome()
    tries = 2 if target.quick else 5 if target.hurried else 25
    answered = 0
    scheme = "https" if target.address.tls else "http"
    url = f"{scheme}://{target.address.host}:{target.address.port}/v1/rerank"
    with (
        tempfile.TemporaryDirectory() as folder,
        _overloaded(target) if case == "overloaded" else contextlib.nullcontext(),
    ):
        file = Path(folder) / "body.json"
        file.write_bytes(bodies.documents("words", int(size_mb * 1_000_000), 10_000))  # its size is why it is refused
        job = {"FILE": str(file), "URL": url, "KEY": key or target.key, "TRIES": str(tries)}
        for name, command in clients().items():
            lines = _lines(command, job, tries)
            for line in lines:
                status, _, rest = line.partition(" ")
                answer = Answer(int(status) if status.isdigit() else 0, rest)
                answer.retry_after_missing = answer.status in (429, 503) and not rest.strip()
                outcome.take(answer)
            answered += (there_is_room := sum(line.startswith("200") for line in lines) if case == "overloaded" else 0)
            good = sum(line.split(" ")[0] in map(str, allowed) for line in lines)
            if good + there_is_room < tries:
                seen = ", ".join(sorted({line.strip() for line in lines}))
                outcome.blame(f"{name} read the refusal {good} of {tries - there_is_room} times ({seen or 'nothing'})")
    if answered * 2 > outcome.requests:
        outcome.blame(f"{answered} of {outcome.requests} were answered: there was no overload")
    return outcome


def _lines(command: list[str], job: dict[str, str], tries: int) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    try:
        done = subprocess.run(
            command,
            env=clean | job,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S * tries,  # beside others, one may have room, and takes its time
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        return (error.stdout or b"").decode().splitlines()
    return done.stdout.splitlines()


@contextlib.contextmanager
def _overloaded(target: Target) -> Iterator[None]:
    """Give the engines more than they can do, for as long as the block lasts."""
    ended = threading.Event()
    body = bodies.documents("words", 4_000_000, 5_000, cache="off")

    def work() -> None:
        while not ended.is_set():
            if post(target, "/v1/rerank", body, timeout_s=30).status != 200:
                ended.wait(0.2)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    ended.wait(1)
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
