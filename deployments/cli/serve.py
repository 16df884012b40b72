"""`reranker serve`: run the service; what `make serve` does once the environment is there.

`serve run` is a child process (run.py). Ray starts about twenty more, some of which outlive their parent for a while:
this process makes itself the one that inherits orphans, and ends every one of them, by descent and never by name.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import psutil
import yaml

from deployments import IMPORT_PATH, UI_IMPORT_PATH
from deployments.cli import Subparsers
from deployments.cli.config import SERVE_CONFIG, applications, startable_config
from deployments.http.address import configured_address, local_url
from deployments.http.guard import trim
from reranker.config import RerankerConfig
from reranker.errors import ConfigurationError
from reranker.model.verified import cache_folder

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_STOP_TIMEOUT_S = 30  # Serve drains its replicas first
_POLL_S = 0.25
_REASON_TIMEOUT_S = 10
"""/health may know that a start has failed before the child reports why."""
_LOGS_KEPT = 10
_CHILD_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_LOG_TO_STDERR": "1",
    # Ray's own 15 has every other program of the machine go first.
    "RAY_worker_niceness": "0",
    # Per replica that is wanted. What fails twice fails for ever, and somebody waits for the reason.
    "RAY_SERVE_MAX_PER_REPLICA_RETRY_COUNT": "2",
}


def add_parser(commands: Subparsers) -> None:
    parser = commands.add_parser("serve", help="run the service (`serve run`, with overrides and a clean stop)")
    parser.add_argument("--config", type=Path, default=SERVE_CONFIG, help="Serve configuration (%(default)s)")
    parser.add_argument("--host", help="address to listen on, 0.0.0.0 or :: for all; default: the configuration's")
    parser.add_argument("--port", type=int, help="HTTP port; default: the configuration's")
    parser.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")
    parser.add_argument("--replicas", type=int, help="fixed number of engine replicas; default: the configuration's")
    said = "serve POST /v1/search on an index that `reranker index build` made; repeatable"
    parser.add_argument("--index", action="append", type=_named_index, metavar="[NAME=]INDEX", default=[], help=said)
    said = "simulate the engines: real timing, meaningless scores"
    parser.add_argument("--simulated", action="store_true", help=said)
    said = "without the playground, if the configuration has it"
    parser.add_argument("--no-ui", dest="ui", action="store_false", help=said)
    parser.add_argument("--verbose", action="store_true", help="show what Ray and vLLM say, instead of logging it")
    parser.set_defaults(run=_run)


def _named_index(text: str) -> tuple[str, Path]:
    """Read NAME=FOLDER; a folder alone gives its own name."""
    name, separator, folder = text.rpartition("=")
    return (name if separator else Path(folder).resolve().name), Path(folder)


def _run(parsed: argparse.Namespace) -> int:
    indexes = dict(parsed.index)
    if len(indexes) < len(parsed.index):
        raise ConfigurationError("two indexes have the same name: give another, --index NAME=INDEX")
    overrides = {name: getattr(parsed, name) for name in ("host", "port", "model", "replicas", "simulated", "ui")}
    return supervise(startable_config(parsed.config, indexes=indexes, **overrides), verbose=parsed.verbose)


class Screen:
    """Shows the steps of a start, one line each, with the seconds since it began. A terminal sees them count."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._step = ""
        self._counts = sys.stdout.isatty()

    def step(self, text: str) -> None:
        """Show what is being done; the same again only counts on."""
        changed, line = text != self._step, f"[{time.monotonic() - self._began_s:3.0f} s] {text}"
        if self._counts:
            print("\n" * (changed and bool(self._step)) + f"\r\033[K{line}", end="", flush=True)
        elif changed:
            print(line, flush=True)
        self._step = text

    def end(self) -> None:
        """Leave the last step as it is."""
        if self._counts and self._step:
            print(flush=True)
        self._step, self._counts = "", False


def supervise(config: dict[str, Any], *, verbose: bool = False) -> int:
    """Run the service until SIGINT or SIGTERM, which gives status 0, or until it ends by itself.

    `verbose` shows what Ray and vLLM say; otherwise it goes to a log file. A service that cannot be started raises
    ConfigurationError, which says why and what to do; everything is stopped then.
    """
    trim()  # of what the configuration's checks have read: a large vocabulary
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    stops: list[int] = []  # signals
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, lambda number, _: stops.append(number))
    screen = Screen()
    with tempfile.TemporaryDirectory(prefix="reranker-") as folder, _output(verbose) as log:
        text = yaml.safe_dump(config, allow_unicode=True, sort_keys=False)  # the first index is the default
        Path(folder, "config.yaml").write_text(text, encoding="utf-8")
        child = _Child(Path(folder), log)
        # One client: each makes its own context for TLS, which is much work beside the start.
        url = local_url(*configured_address(config), tls=bool((config.get("http_options") or {}).get("ssl_certfile")))
        limits = httpx.Limits(max_keepalive_connections=0)
        # Unverified: the certificate is our own, for another name.
        http = httpx.Client(base_url=url, timeout=2, verify=False, trust_env=False, limits=limits)  # noqa: S501
        health, stage = "starting", ""
        gives_up_s = float("inf")
        while child.runs() and not stops and not child.failed and time.monotonic() < gives_up_s:
            if health == "starting":
                health, doing = _health(http)
                stage = f"Starting: {doing}" if doing else stage  # between two of them nobody says anything
                screen.step("Ready" if health == "ok" else stage or child.step)
                if health == "ok":
                    screen.end()
                    print("\n".join(_announcement(config, url, log)), flush=True)
                elif health == "failed":
                    gives_up_s = time.monotonic() + _REASON_TIMEOUT_S
            time.sleep(_POLL_S)
        http.close()
        screen.end()
        child.stop()
        if stops:
            return 0
        status, last_line = child.process.returncode, _last_line(log)
        if child.failed or health != "ok":
            said = child.failed or f"`serve run` ended with status {status}: {last_line}"
            raise ConfigurationError(said + (f" (everything it said: {log.name})" if log else ""))
        print(f"reranker: the service has ended by itself: {last_line}", file=sys.stderr)
        return status or 1


class _Child:
    """`serve run`, and what it reports."""

    def __init__(self, folder: Path, log: IO[str] | None) -> None:
        self.step = "Starting Ray"
        self.failed = self._unread = ""
        self._reports = (folder / "reports").open("a+", encoding="utf-8")
        # A session of its own, so that Ctrl-C reaches this process only and the child is stopped in order.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli.run", folder / "config.yaml", self._reports.name],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log and subprocess.STDOUT,
            env=_CHILD_ENVIRONMENT | dict(os.environ),
        )

    def runs(self) -> bool:
        """Whether it still does; reads its reports."""
        status = self.process.poll()  # first: what it wrote before it ended is read below
        *lines, self._unread = (self._unread + self._reports.read()).split("\n")
        for line in lines:
            [(kind, text)] = json.loads(line).items()
            if kind == "step":
                self.step = text
            elif kind == "failed":
                self.failed = self.failed or text
            else:
                print(f"goes on without {text.splitlines()[0]}", file=sys.stderr, flush=True)
        return status is None

    def stop(self) -> None:
        """Ask first, then insist: SIGINT to `serve run`, which shuts Serve and Ray down; then whatever is left."""
        if self.process.poll() is None:
            print("Stopping the service …", flush=True)
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_TIMEOUT_S)
        for insist in (psutil.Process.terminate, psutil.Process.kill):
            left = psutil.Process().children(recursive=True)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    insist(process)
            psutil.wait_procs(left, timeout=5)
        self.runs()
        self._reports.close()


@contextlib.contextmanager
def _output(verbose: bool) -> Iterator[IO[str] | None]:
    """The log file of this start; None with `verbose`. Old ones are removed."""
    if verbose:
        yield None
        return
    folder = cache_folder() / "logs"
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        folder = Path(tempfile.mkdtemp(prefix="reranker-logs-"))
    for old in sorted(folder.glob("serve-*.log"))[: 1 - _LOGS_KEPT]:
        old.unlink(missing_ok=True)
    with (folder / f"serve-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log").open("w") as log:
        print(f"Ray's and vLLM's output: {log.name}", flush=True)
        yield log


def _last_line(log: IO[str] | None) -> str:
    """What it said last, which is mostly why it ended."""
    lines = Path(log.name).read_text(errors="replace").split("\n") if log else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "see its output")


def _announcement(config: dict[str, Any], url: str, log: IO[str] | None) -> Iterator[str]:
    yield f"  API         POST {url}/v1/rerank, docs at {url}/docs"
    settings = [RerankerConfig.model_validate(one.get("args") or {}) for one in applications(config, IMPORT_PATH)]
    if indexes := [name for one in settings for name in one.search.indexes]:
        yield f"  search      POST {url}/v1/search on {', '.join(indexes)}"
    if applications(config, UI_IMPORT_PATH):
        yield f"  playground  {url}/ui"
    named = [
        one.model.name if name in ("", one.model.name) else f"{name} ({one.model.name})"
        for each in settings
        for name, one in each.each_model().items()
    ]
    yield f"  model       {', '.join(named)}"
    if log is not None:
        yield f"  log         {log.name}"
    yield "Ctrl-C stops it."


def _health(http: httpx.Client) -> tuple[str, str]:
    """What /health says of itself, "starting", "ok" or "failed" (given up), and what its replicas are doing."""
    try:
        answer = http.get("/health").json()
        status, replicas = str(answer.get("status", "starting")), answer.get("replicas")
    except (httpx.HTTPError, ValueError, AttributeError):
        return "starting", ""  # nobody answers yet
    # Those that are starting; once there are others, their number.
    stages = Counter(str(one.get("stage")) for one in (replicas if isinstance(replicas, list) else ()))
    return status, "; ".join(f"{stage} ({count} replicas)" if count > 1 else stage for stage, count in stages.items())
