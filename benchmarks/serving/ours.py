"""Our service with one engine replica, as a user starts it: `reranker serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from benchmarks.serving.machine import ROOT, SCRATCH, program
from benchmarks.serving.protocols import Protocol
from benchmarks.serving.system import Bench, Launch

_ROLES = (
    ("ServeReplica:reranker:EngineReplica", "engine"),
    ("ServeReplica:reranker:Ingress", "ingress"),
    ("", "rest of Ray"),
)


def launch(bench: Bench, variant: str, checkout: Path = ROOT) -> Launch:
    """Describe the start.

    Args:
        bench: What it serves.
        variant: `key=value,…`: settings of the application besides the defaults, such as engine.max_batch_tokens=16384.
        checkout: Another state of this repository, to compare with: `ours@/path/to/checkout`.
    """
    arguments: dict[str, Any] = {"model": {"name": "demo" if bench.shape == "demo" else str(bench.folder)}}
    arguments["cache"] = {"enabled": False}
    notes = ["cache is off: what is compared is scoring"]
    if bench.shape != "demo":
        # It refuses a model that does not tell relevant from irrelevant, which random weights do not.
        arguments["engine"] = {"startup_check": False}
        notes.append("engine.startup_check is off: the weights are random")
    for setting in filter(None, variant.split(",")):
        key, _, value = setting.partition("=")
        _set(arguments, key.split("."), yaml.safe_load(value))
    config = yaml.safe_load((checkout / "serve_config.yaml").read_text(encoding="utf-8"))
    application = config["applications"][0]
    application["args"] = arguments
    config["applications"] = [application]  # without the playground, if it has one
    SCRATCH.mkdir(parents=True, exist_ok=True)
    name = "".join(character if character.isalnum() else "-" for character in f"{checkout.name}-{variant}")
    path = SCRATCH / f"serve-{bench.shape}-{name}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return Launch(
        command=(program("reranker"), "serve", "--config", str(path), "--replicas", "1", "--port", "{port}"),
        protocol=Protocol("/v1/rerank", "rerank"),
        roles=_ROLES,
        environment={"PYTHONPATH": str(checkout)} if checkout != ROOT else {},
        folder=checkout,
        required=not variant,
        notes=(f"args: {arguments}", *notes),
    )


def _set(tree: dict[str, Any], path: list[str], value: object) -> None:
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value
