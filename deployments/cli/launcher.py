"""Run `serve run` as a child, with overrides, and leave no process behind when it ends.

Ray starts about twenty processes, some of which outlive their parent for a while. This process makes itself the one
that inherits orphans, so that it can find and end every one of them, by descent and never by name.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from deployments.http.access import ENVIRONMENT, Keyring, require_keys
from reranker.config import RerankerConfig, UIConfig
from reranker.errors import ConfigurationError
from reranker.model.checkpoint import find_checkpoint
from reranker.search.index import IndexFolder, IndexInfo

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
_STOP_TIMEOUT_S = 30  # Serve drains its replicas first
_POLL_S = 0.5
IMPORT_PATH, UI_IMPORT_PATH = "deployments.app:build_app", "deployments.ui.app:build_ui"
INGRESS_DEPLOYMENT, ENGINE_DEPLOYMENT = "Ingress", "EngineReplica"


CANNOT_BE_DEPLOYED = 3
"""Exit status of `deployments.cli.run` where the application cannot even be imported, or no engine starts."""


class LaunchError(ConfigurationError):
    """The service cannot be started like this."""

    code = "launch_error"


def load(
    path: Path,
    *,
    host: str | None = None,
    port: int | None = None,
    model: str | None = None,
    replicas: int | None = None,
    simulated: bool = False,
    indexes: Mapping[str, Path] | None = None,
    ui: bool = True,
) -> dict[str, Any]:
    """Read a Serve configuration, apply overrides, and check what can be checked before anything starts.

    Args:
        path: A Serve configuration with our application in it.
        host: Overrides `http_options.host`: the address to listen on.
        port: Overrides `http_options.port`.
        model: Overrides the model's name; a relative folder becomes an absolute one.
        replicas: A fixed number of engine replicas, instead of what is configured.
        simulated: Simulate the engines, at the configured cost.
        indexes: Folders of indexes to be searched, by their names; they replace those that are configured.
        ui: False: leave out the playground.

    Returns:
        The configuration. (Any: YAML.)

    Raises:
        LaunchError: Unreadable, without our application, or the port is taken.
        ConfigurationError: The model is not there, or not one we can serve; or a public address without API keys.
        pydantic.ValidationError: Unknown keys or wrong values in our `args`.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LaunchError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise LaunchError(f"{path} is not YAML: {error}") from None
    applications = config.get("applications") if isinstance(config, dict) else None
    ours = [a for a in applications or [] if isinstance(a, dict) and a.get("import_path") == IMPORT_PATH]
    if not ours:
        raise LaunchError(f"{path} has no application with import_path {IMPORT_PATH}")
    if not ui:
        config["applications"] = [one for one in applications or [] if one not in playgrounds(config)]
    for playground in playgrounds(config):
        UIConfig.model_validate(playground.get("args") or {})
    if host is not None:
        config.setdefault("http_options", {})["host"] = host
    if port is not None:
        config.setdefault("http_options", {})["port"] = port
    for application in ours:
        arguments = application["args"] = application.get("args") or {}
        if model is not None:
            arguments["model"] = arguments.get("model") or {}
            arguments["model"]["name"] = str(Path(model).resolve()) if Path(model).is_dir() else model
        if simulated:
            engine = arguments["engine"] = arguments.get("engine") or {}
            engine["simulated"] = engine.get("simulated") or {}
        if indexes:
            _serve_indexes(arguments, indexes)
        _make_absolute(arguments)
        if replicas is not None:
            _fix_replicas(application, replicas)
        checked = RerankerConfig.model_validate(arguments)
        find_checkpoint(checked.model)
        keys = Keyring(checked.access, os.environ.get(ENVIRONMENT, ""))
        require_keys(address(config)[0], checked.access, keys)
    _require_free_port(*address(config))
    loaded: dict[str, Any] = config
    return loaded


def _serve_indexes(arguments: dict[str, Any], indexes: Mapping[str, Path]) -> None:
    search = arguments["search"] = arguments.get("search") or {}
    configured, search["indexes"] = search.get("indexes") or {}, {}
    for name, path in indexes.items():
        info = IndexInfo.read(IndexFolder(path).current())
        # What the configuration says of an index of this name, except where it is.
        search["indexes"][name] = (configured.get(name) or {}) | {"path": str(path.resolve())}
        if info.embedding is not None:
            embedding = search["embedding"] = search.get("embedding") or {}
            if embedding.get("model") is None:
                embedding |= info.embedding.model_dump(include={"model", "revision", "url"})


def playgrounds(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The applications of a configuration that are the playground."""
    return [one for one in config["applications"] if isinstance(one, dict) and one.get("import_path") == UI_IMPORT_PATH]


def _make_absolute(arguments: dict[str, Any]) -> None:
    """Paths of indexes as they are from here: a replica may be started elsewhere."""
    for index in ((arguments.get("search") or {}).get("indexes") or {}).values():
        if isinstance(index, dict) and isinstance(index.get("path"), str):
            index["path"] = str(Path(index["path"]).resolve())


def _fix_replicas(application: dict[str, Any], replicas: int) -> None:
    if replicas < 1:
        raise LaunchError(f"{replicas} replicas cannot score anything; at least 1: make serve REPLICAS=1")
    deployments = application["deployments"] = application.get("deployments") or []
    ours = next((one for one in deployments if one.get("name") == ENGINE_DEPLOYMENT), None)
    if ours is None:
        deployments.append(ours := {"name": ENGINE_DEPLOYMENT})
    ours.pop("autoscaling_config", None)
    ours["num_replicas"] = replicas


def address(config: dict[str, Any]) -> tuple[str, int]:
    """Where a configuration's service listens; Serve's own defaults where it says nothing."""
    options = config.get("http_options") or {}
    return str(options.get("host", "0.0.0.0")), int(options.get("port", 8000))  # noqa: S104 - a default of Serve's


def _require_free_port(host: str, port: int) -> None:
    if not 0 <= port <= 65_535:
        raise LaunchError(f"port {port} does not exist; choose one from 1024 to 65535: make serve PORT=8000")
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise LaunchError(
                f"cannot listen on {host}:{port} ({error.strerror}). Choose another port: make serve PORT={port + 1}"
            ) from None


def run(config: dict[str, Any]) -> int:
    """Run the service until SIGINT or SIGTERM, or until it ends by itself.

    Returns:
        Exit status: 0 when asked to stop, else what `serve run` gave.

    Raises:
        LaunchError: No engine could be started; everything is stopped again.
    """
    _inherit_orphans()
    stop_requested = False

    def request_stop(signum: int, frame: object) -> None:
        nonlocal stop_requested
        stop_requested = True

    signal.signal(signal.SIGINT, request_stop)
    signal.signal(signal.SIGTERM, request_stop)
    host, port = address(config)
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104 - a comparison
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", prefix="reranker-") as file:
        yaml.safe_dump(config, file, allow_unicode=True, sort_keys=False)  # the first index is the default
        file.flush()
        # A session of its own, so that Ctrl-C reaches this process only and the child is stopped in order.
        child = subprocess.Popen(
            [sys.executable, "-m", "deployments.cli.run", file.name],
            start_new_session=True,
            env={"RAY_USAGE_STATS_ENABLED": "0", "RAY_SERVE_LOG_TO_STDERR": "1"} | dict(os.environ),
        )
        health, said = "starting", ""
        # One client: each makes its own context for TLS, which is much work beside the start.
        http = httpx.Client(base_url=url, timeout=2, limits=httpx.Limits(max_keepalive_connections=0))
        started = time.monotonic()
        while child.poll() is None and not stop_requested and health != "failed":
            time.sleep(_POLL_S)
            if health != "starting":
                continue
            health, doing = _health(http)
            if health == "ok":
                paths = f"POST {url}/v1/rerank{_searched(config)}, docs at {url}/docs"
                playground = f", playground at {url}/ui" if playgrounds(config) else ""
                doing = f"Ready: {paths}{playground}. Ctrl-C stops it."
            if doing and doing != said:
                said = doing
                print(f"\n[{time.monotonic() - started:.0f} s] {doing}\n", flush=True)
        failed = health == "failed" or child.poll() == CANNOT_BE_DEPLOYED
        http.close()
        _stop(child)
    if failed:
        raise LaunchError("the service cannot be started; the reason is in the output above")
    return 0 if stop_requested else (child.returncode or 1)


def _searched(config: dict[str, Any]) -> str:
    """What the announcement says of search."""
    ours = [one.get("args") or {} for one in config["applications"] if one.get("import_path") == IMPORT_PATH]
    indexes = [name for arguments in ours for name in (arguments.get("search") or {}).get("indexes") or {}]
    return f", POST /v1/search on {', '.join(indexes)}" if indexes else ""


def _health(http: httpx.Client) -> tuple[str, str]:
    """What /health says of itself, "starting", "ok" or "failed" (given up), and what its replicas are doing."""
    try:
        answer = http.get("/health").json()
        status, replicas = str(answer.get("status", "starting")), answer.get("replicas", [])
    except (httpx.HTTPError, ValueError, AttributeError):
        return "starting", ""  # nobody answers yet
    stages = Counter(str(one.get("stage")) for one in replicas) if isinstance(replicas, list) else Counter()
    doing = "; ".join(f"{stage} ({count} replicas)" if count > 1 else stage for stage, count in stages.items())
    return status, f"Starting: {doing}" if doing else ""


def _inherit_orphans() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Ask first, then insist: SIGINT to `serve run`, which shuts Serve and Ray down; then whatever is left of them."""
    if child.poll() is None:
        print("\nStopping the service …", flush=True)
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_STOP_TIMEOUT_S)
    for insist in (psutil.Process.terminate, psutil.Process.kill):
        left = psutil.Process().children(recursive=True)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                insist(process)
        psutil.wait_procs(left, timeout=5)
    child.poll()
