"""Serve configurations: reading one, making it one to start, `reranker config check`, and `reranker check`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from deployments import ENGINE_DEPLOYMENT, IMPORT_PATH, UI_IMPORT_PATH
from deployments.cli import Subparsers
from deployments.http.access import ENVIRONMENT, Keyring, require_keys
from deployments.http.address import bound_socket, configured_address, shown_address
from reranker.config import RerankerConfig, UIConfig
from reranker.errors import ConfigurationError
from reranker.model.checkpoint import find_checkpoint
from reranker.search.index import IndexFolder, IndexInfo

SERVE_CONFIG = Path("serve_config.yaml")


def add_parser(commands: Subparsers) -> None:
    """Declare `reranker config …` and `reranker check`."""
    parser = commands.add_parser("config", help="check configurations")
    inner = parser.add_subparsers(dest="what", required=True)
    files = inner.add_parser(
        "check",
        help="check Serve configurations and RayService manifests strictly",
        description="Check Serve configurations, and those inside RayService manifests: unknown keys, wrong values, "
        "settings that contradict each other. Prints `file:line: place: problem. remedy`.",
    )
    files.add_argument("files", nargs="+", metavar="FILE", help="YAML; `-` for standard input")
    files.set_defaults(run=_check_files)
    model = commands.add_parser("check", help="load the model and check that its scores can be trusted")
    model.add_argument("--config", type=Path, default=SERVE_CONFIG, help="Serve configuration (%(default)s)")
    model.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")
    model.set_defaults(run=_check_model)


def read_config(path: Path) -> dict[str, Any]:
    """Read a Serve configuration that has our application.

    Raises:
        ConfigurationError: It cannot be read, or has no application of ours.
    """
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from None
    if not isinstance(config, dict) or not applications(config, IMPORT_PATH):
        raise ConfigurationError(f"{path} has no application with import_path {IMPORT_PATH}")
    return config


def applications(config: dict[str, Any], import_path: str) -> list[dict[str, Any]]:
    """The applications of a Serve configuration that are imported from there."""
    listed = config.get("applications")
    each = listed if isinstance(listed, list) else []
    return [one for one in each if isinstance(one, dict) and one.get("import_path") == import_path]


def set_model(arguments: dict[str, Any], model: str) -> None:
    """Set the model in an application's `args`. A folder's path becomes absolute: replicas start elsewhere."""
    name = str(Path(model).resolve()) if Path(model).is_dir() else model
    arguments["model"] = (arguments.get("model") or {}) | {"name": name}


def load_config(path: Path, model: str | None = None) -> RerankerConfig:
    """Read our application's settings from a Serve configuration.

    The settings of the server (its address, keys and playground) may be those of another machine: they are not checked.

    Args:
        path: A Serve configuration with our application in it.
        model: Overrides the model's name.

    Raises:
        ConfigurationError: The configuration cannot be read, or has no application of ours.
        pydantic.ValidationError: Unknown keys or wrong values in our `args`.
    """
    arguments = applications(read_config(path), IMPORT_PATH)[0].get("args") or {}
    if model is not None:
        set_model(arguments, model)
    return RerankerConfig.model_validate(arguments)


def startable_config(
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
        model: Overrides the model's name.
        replicas: A fixed number of engine replicas.
        simulated: Simulate the engines, at the configured cost.
        indexes: Folders of indexes to be searched, by their names; they replace those that are configured.
        ui: False: leave out the playground.

    Raises:
        ConfigurationError: The configuration cannot be read, the model is not there or not one we can serve, the port
            is taken, or the address is public and there are no API keys.
        pydantic.ValidationError: Unknown keys or wrong values in our `args`.
    """
    config = read_config(path)
    playgrounds = applications(config, UI_IMPORT_PATH)
    if not ui:
        config["applications"] = [one for one in config["applications"] if one not in playgrounds]
    for playground in playgrounds if ui else ():
        UIConfig.model_validate(playground.get("args") or {})
    overrides = {"host": host and host.strip("[]"), "port": port}
    options = config.get("http_options") or {}
    config["http_options"] = options | {key: value for key, value in overrides.items() if value is not None}
    for application in applications(config, IMPORT_PATH):
        arguments = application["args"] = application.get("args") or {}
        if model is not None:
            set_model(arguments, model)
        if simulated:
            engine = arguments["engine"] = arguments.get("engine") or {}
            engine["simulated"] = engine.get("simulated") or {}
        if indexes:
            _serve_indexes(arguments, indexes)
        _make_absolute(arguments)
        if replicas is not None:
            _fix_replicas(application, replicas)
        settings = RerankerConfig.model_validate(arguments)
        find_checkpoint(settings.model)
        keys = Keyring(settings.access, os.environ.get(ENVIRONMENT, ""))
        require_keys(configured_address(config)[0], settings.access, keys)
    _require_free_port(*configured_address(config))
    return config


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


def _make_absolute(arguments: dict[str, Any]) -> None:
    """Paths of indexes as they are from here: a replica may be started elsewhere."""
    for index in ((arguments.get("search") or {}).get("indexes") or {}).values():
        if isinstance(index, dict) and isinstance(index.get("path"), str):
            index["path"] = str(Path(index["path"]).resolve())


def _fix_replicas(application: dict[str, Any], replicas: int) -> None:
    if replicas < 1:
        raise ConfigurationError(f"{replicas} replicas cannot score anything; at least 1: make serve REPLICAS=1")
    deployments = application["deployments"] = application.get("deployments") or []
    ours = next((one for one in deployments if one.get("name") == ENGINE_DEPLOYMENT), None)
    if ours is None:
        deployments.append(ours := {"name": ENGINE_DEPLOYMENT})
    ours.pop("autoscaling_config", None)
    ours["num_replicas"] = replicas


def _require_free_port(host: str, port: int) -> None:
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"port {port} does not exist; choose one from 1024 to 65535: make serve PORT=8000")
    try:
        bound_socket(host, port).close()
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen on {shown_address(host, port)} ({error.strerror}). Choose another port: "
            f"make serve PORT={port + 1}"
        ) from None


def _check_files(parsed: argparse.Namespace) -> int:
    """Print one line for each finding; returns the exit status: 1 when there is one."""
    from deployments import checks  # here: it brings Ray, which other commands need not wait for

    status = 0
    for name in parsed.files:
        report = checks.check(_text(name))
        for finding in report.findings:
            print(f"{name}:{finding}", file=sys.stderr)
            status = 1
        if not report.findings:
            print(f"{name}: ok ({report.configurations} Serve configuration{'s' * (report.configurations > 1)})")
    return status


def _text(name: str) -> str:
    try:
        return sys.stdin.read() if name == "-" else Path(name).read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{name}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{name} is not UTF-8") from None


def _check_model(parsed: argparse.Namespace) -> int:
    """Print one line for each check, and the cause of what failed; returns the exit status."""
    from deployments.cli.local import open_local
    from reranker.engine.startup_check import run_checks, tolerance_for

    config = load_config(parsed.config, parsed.model)
    print(f"Loading {config.model.name} …", flush=True)
    with contextlib.closing(open_local(config)) as local:
        started = time.perf_counter()
        tolerance = tolerance_for(local.checkpoint.dtype, config.engine.quantization)
        results = [
            dataclasses.replace(result, name=f"{result.name} {adapter}".strip())
            for adapter in ("", *config.engine.lora_adapters)
            for result in asyncio.run(run_checks(local.engine, local.renderer, tolerance, adapter))
        ]
        seconds = time.perf_counter() - started
    for result in results:
        print(f"{'failed' if result.cause else 'ok':<6}  {result.name:<10}  {result.measured}")
    # Only the first cause: what fails after it is mostly its consequence.
    cause = next((result.cause for result in results if result.cause), None)
    print(f"{len(results)} checks in {seconds:.2f} s" + (f"; likeliest cause: {cause}" if cause else ": all ok"))
    return 1 if cause else 0
