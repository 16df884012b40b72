"""Serve configurations: reading one, making it one to start, and `reranker config check`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deployments import ENGINE_DEPLOYMENT, IMPORT_PATH, UI_IMPORT_PATH, engine_deployments
from deployments.cli import Subparsers
from deployments.http.access import ENVIRONMENT, Keyring, require_keys
from deployments.http.address import bound_socket, configured_address, shown_address
from reranker.config import RerankerConfig, UIConfig
from reranker.engine import cards
from reranker.engine.device import Gpu, device_for, here
from reranker.errors import ConfigurationError, DeviceError
from reranker.model.checkpoint import Checkpoint, find_checkpoint
from reranker.search.embedding import SIMULATED
from reranker.search.index import IndexFolder, IndexInfo

SERVE_CONFIG = Path("serve_config.yaml")


def add_parser(commands: Subparsers) -> None:
    """Declare `reranker config …`."""
    parser = commands.add_parser("config", help="check configurations")
    inner = parser.add_subparsers(dest="what", required=True)
    said = "check Serve configurations and RayService manifests strictly"
    files = inner.add_parser("check", help=said, description=f"{said}. Prints `file:line: place: problem. remedy`.")
    files.add_argument("files", nargs="+", metavar="FILE", help="YAML; `-` for standard input")
    files.set_defaults(run=_check_files)
    said = "show what an engine has by its device, where the configuration does not say it"
    show = inner.add_parser("show", help=said, description=f"{said}. Nothing is loaded.")
    show.add_argument("--config", type=Path, default=SERVE_CONFIG, help="Serve configuration (%(default)s)")
    show.add_argument("--model", help="demo, a local folder or a hub id; default: the configuration's")
    show.add_argument("--card", choices=cards.CARDS, help="another device than this machine's")
    show.set_defaults(run=_show)


def read_config(path: Path) -> dict[str, Any]:
    """Read a Serve configuration that has our application."""
    try:
        config = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from None
    if not isinstance(config, dict) or not applications(config, IMPORT_PATH):
        raise ConfigurationError(f"{path} has no application with import_path {IMPORT_PATH}")
    return config


def _text(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"{path} is not UTF-8") from None


def applications(config: dict[str, Any], import_path: str) -> list[dict[str, Any]]:
    """The applications of a Serve configuration that are imported from there."""
    listed = config.get("applications")
    each = listed if isinstance(listed, list) else []
    return [one for one in each if isinstance(one, dict) and one.get("import_path") == import_path]


def load_config(path: Path, model: str | None = None) -> RerankerConfig:
    """Read our application's settings from a Serve configuration, for one model.

    `model` is one of several, or overrides the model's name; without it, it is the default. The settings of the server
    (its address, keys and playground) may be those of another machine: they are not checked.
    """
    [application, *_] = applications(read_config(path), IMPORT_PATH)
    arguments = _group(application, "args")
    if not arguments.get("models"):
        return RerankerConfig.model_validate(_arguments(application, model))
    config = RerankerConfig.model_validate(arguments)
    each = config.each_model()
    if model in config.cascades:
        raise ConfigurationError(f"{model} is a cascade, of two models; ask a running service, or name one of them")
    if model is None or model in each:
        return each[model or config.names[0]]
    default = each[config.names[0]]
    return default.model_copy(update={"model": default.model.model_copy(update={"name": _absolute(model)})})


def _arguments(application: dict[str, Any], model: str | None) -> dict[str, Any]:
    """An application's `args`, with the model. A folder's path becomes absolute: replicas start elsewhere."""
    arguments = _group(application, "args")
    if model is not None:
        if arguments.get("models"):
            said = f"the configuration has several models, {', '.join(arguments['models'])}"
            raise ConfigurationError(f"{said}; change them there, or choose one with its `default`")
        _group(arguments, "model")["name"] = _absolute(model)
    return arguments


def _absolute(model: str) -> str:
    return str(Path(model).resolve()) if Path(model).is_dir() else model


def _group(settings: dict[str, Any], key: str) -> dict[str, Any]:
    """A group of settings to be changed; it may be missing, or null."""
    group: dict[str, Any] = settings.get(key) or {}
    settings[key] = group
    return group


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

    `replicas` is a fixed number of engine replicas; `indexes`, folders by their names, replace the configured ones.
    Unknown keys and wrong values raise pydantic.ValidationError, all else (a taken port …) ConfigurationError.
    """
    config = read_config(path)
    for playground in applications(config, UI_IMPORT_PATH):
        if ui:
            UIConfig.model_validate(playground.get("args") or {})
        else:
            config["applications"].remove(playground)
    options = _group(config, "http_options")
    options["host"] = host.strip("[]") if host else configured_address(config)[0]
    options["port"] = configured_address(config)[1] if port is None else port
    for application in applications(config, IMPORT_PATH):
        arguments = _arguments(application, model)
        if simulated:
            named = arguments.get("models") or {}
            for group in [_group(named, name) for name in named] or [arguments]:
                _group(_group(group, "engine"), "simulated")
        if indexes:
            _serve_indexes(_group(arguments, "search"), indexes)
        if replicas is not None:
            _fix_replicas(application, replicas)
        settings = RerankerConfig.model_validate(arguments)
        for name, index in settings.search.indexes.items():  # a replica may be started elsewhere
            if index.path is not None:
                arguments["search"]["indexes"][name]["path"] = str(index.path.resolve())
        _share_cores(application, arguments, settings, _require_device(application, settings))
        keys = Keyring(settings.access, os.environ.get(ENVIRONMENT, ""))
        require_keys(configured_address(config)[0], settings.access, keys)
    _require_free_port(*configured_address(config))
    return config


def machine_cores() -> int:
    """Cores that this process may use, those of its container where it is in one."""
    from ray._private.utils import get_num_cpus  # private: what Ray takes its nodes to have

    return min(len(os.sched_getaffinity(0)), int(get_num_cpus(override_docker_cpu_warning=True)))


def _share_cores(
    application: Mapping[str, Any], arguments: dict[str, Any], settings: RerankerConfig, on_cpu: Sequence[str]
) -> None:
    """Have these engines compute on all cores together, however many replicas of them there may be."""
    given = {one.get("name"): one for one in application.get("deployments") or []}
    each = [given.get(name, {}) for name in on_cpu]
    most = [(one.get("autoscaling_config") or {}).get("max_replicas") or one.get("num_replicas") for one in each]
    replicas = sum(number if isinstance(number, int) else 1 for number in most)
    named = arguments.get("models") or {}
    groups = [_group(named, name) for name in settings.names] or [arguments]
    for (name, one), group in zip(engine_deployments(settings).items(), groups, strict=True):
        threads = machine_cores() // replicas if name in on_cpu and one.engine.cpu_threads is None else 0
        if threads > one.engine.cpus:
            _group(group, "engine")["cpu_threads"] = threads


def _require_device(application: Mapping[str, Any], settings: RerankerConfig) -> list[str]:
    """Raise DeviceError unless this machine can run an engine of each model, and an embedding model beside them.

    Gives the engines that run on its CPU.
    """
    on_cpu: list[str] = []
    machine, embedding, reserved = None, settings.search.embedding, []
    deployments = application.get("deployments") or []
    for name, one in engine_deployments(settings).items():
        dtype = find_checkpoint(one.model).dtype_on("cuda")
        if one.engine.simulated is not None:
            continue
        machine = machine or here()
        if device_for(one.engine, dtype, machine) == "cpu":
            on_cpu.append(name)
        else:
            options = [given.get("ray_actor_options") or {} for given in deployments if given.get("name") == name]
            reserved.append((options or [{}])[0].get("num_gpus", one.engine.tensor_parallel_size))
    local = settings.search.indexes and embedding.model not in (None, SIMULATED) and embedding.url is None
    engines, beside = sum(reserved), embedding.gpus if local else 0
    if machine is None or not reserved or (len(reserved) == 1 and not beside):
        return on_cpu
    if engines + beside > (there := len(machine.gpus)):
        who = "an engine reserves" if len(reserved) == 1 else f"engines of {len(reserved)} models reserve"
        said = f"{who} {engines:g} GPUs{f' and the embedding model {beside:g}' if beside else ''}, and here are {there}"
        raise DeviceError(said, "let them share one, as docs/search.md says, or one would wait for the other for ever")
    return on_cpu


def _serve_indexes(search: dict[str, Any], indexes: Mapping[str, Path]) -> None:
    configured, search["indexes"] = search.get("indexes") or {}, {}
    for name, path in indexes.items():
        info = IndexInfo.read(IndexFolder(path).current())
        # What the configuration says of an index of this name, except where it is.
        search["indexes"][name] = (configured.get(name) or {}) | {"path": str(path)}
        if info.embedding is not None and _group(search, "embedding").get("model") is None:
            search["embedding"] |= info.embedding.model_dump(include={"model", "revision", "url"})


def _fix_replicas(application: dict[str, Any], replicas: int) -> None:
    if replicas < 1:
        raise ConfigurationError(f"{replicas} replicas cannot score anything; at least 1: make serve REPLICAS=1")
    deployments = application.get("deployments") or []
    engine = next((one for one in deployments if one.get("name") == ENGINE_DEPLOYMENT), {"name": ENGINE_DEPLOYMENT})
    others = [one for one in deployments if one is not engine]
    engine.pop("autoscaling_config", None)
    application["deployments"] = [*others, engine | {"num_replicas": replicas}]


def _require_free_port(host: str, port: int) -> None:
    if not 0 <= port <= 65_535:
        raise ConfigurationError(f"port {port} does not exist; choose one from 1024 to 65535: make serve PORT=8000")
    try:
        bound_socket(host, port).close()
    except OSError as error:
        taken = f"cannot listen on {shown_address(host, port)} ({error.strerror})"
        raise ConfigurationError(f"{taken}. Choose another port: make serve PORT={port + 1}") from None


def _show(parsed: argparse.Namespace) -> int:
    config = load_config(parsed.config, parsed.model)
    checkpoint = find_checkpoint(config.model)
    gpu = None if parsed.card is None else cards.CARDS[parsed.card]
    print("\n".join(engine_lines(config, checkpoint, gpu)))
    return 0


def engine_lines(config: RerankerConfig, checkpoint: Checkpoint, gpu: Gpu | None = None) -> Iterator[str]:
    """Say what an engine has on a card, or on this machine's device; DeviceError: it cannot run here."""
    if gpu is None and device_for(config.engine, checkpoint.dtype_on("cuda")) == "cuda":
        gpu = cards.smallest(here().gpus)
    yield f"model.dtype: {checkpoint.dtype_on('cpu' if gpu is None else 'cuda')}"
    yield from cards.described(config.engine, gpu, cards.size_of(checkpoint, config.engine.quantization))


def _check_files(parsed: argparse.Namespace) -> int:
    """Print one line for each finding; returns the exit status: 1 when there is one."""
    from deployments import checks  # here: it brings Ray, which other commands need not wait for

    status = 0
    for name in parsed.files:
        report = checks.check(_text(Path(name)))
        for finding in report.findings:
            print(f"{name}:{finding}", file=sys.stderr)
            status = 1
        if not report.findings:
            gpus = f"; {report.gpus}" if report.gpus else ""
            print(f"{name}: ok ({report.configurations} Serve configuration{'s' * (report.configurations > 1)}{gpus})")
    return status
