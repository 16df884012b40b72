"""Validate Kubernetes objects strictly, without a cluster: unknown fields are errors, as in `kubectl apply`."""

from __future__ import annotations

import functools
import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator

SCHEMAS = Path(__file__).parent / "schemas"
KUBERNETES_VERSION = "1.35"
# Any: objects and schemas are JSON.
_METADATA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string"},
        "namespace": {"type": "string"},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "annotations": {"type": "object", "additionalProperties": {"type": "string"}},
    },
    "additionalProperties": False,
}


def problems(thing: Mapping[str, Any]) -> list[str]:
    """Say what an API server would refuse in an object: the form only, not the operator's own checks."""
    missing = [f"{key} is missing" for key in ("apiVersion", "kind", "metadata") if key not in thing]
    if missing:
        return missing
    group = str(thing.get("apiVersion", "")).partition("/")[0]
    if group in ("gateway.networking.k8s.io", "monitoring.coreos.com", "ray.io"):
        schema = _rayservice() if group == "ray.io" else _other(str(thing.get("kind")))
        found = Draft202012Validator(schema).iter_errors(_with_defaults(schema, thing))
        return [f"{'.'.join(str(step) for step in error.absolute_path)}: {error.message}" for error in found]
    try:
        kubernetes_validate.validate(dict(thing), KUBERNETES_VERSION, strict=True)
    except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
        return [str(error.message)]
    return []


@functools.cache
def _rayservice() -> dict[str, Any]:
    raw = json.loads(gzip.decompress((SCHEMAS / "rayservice-v1.json.gz").read_bytes()))
    return _object("ray.io/v1", "RayService", _strict(raw["properties"]["spec"]))


@functools.cache
def _other(kind: str) -> dict[str, Any]:
    specs = yaml.safe_load((SCHEMAS / "others.yaml").read_text())
    group = "gateway.networking.k8s.io" if kind in ("Gateway", "HTTPRoute") else "monitoring.coreos.com"
    return _object(f"{group}/v1", kind, _strict(specs[kind])) if kind in specs else {"not": {}}


def _object(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    properties = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": _METADATA, "spec": spec}
    return {"type": "object", "required": list(properties), "properties": properties, "additionalProperties": False}


def _strict(schema: Any) -> Any:
    """An OpenAPI schema as JSON Schema: closed objects, integers that may be strings, values that may be null."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    # Under "properties" and the like, keys are names and not keywords.
    strict = {
        key: {name: _strict(part) for name, part in value.items()} if key == "properties" else _strict(value)
        for key, value in schema.items()
    }
    if strict.get("x-kubernetes-int-or-string"):
        strict["type"] = ["integer", "string"]
        strict.pop("anyOf", None)
    if "properties" in strict and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if strict.get("nullable") and "type" in strict:
        strict["type"] = [strict["type"], "null"]
    return strict


def _with_defaults(schema: Any, value: Any) -> Any:
    """The object after the API server has filled in the schema's defaults, which may be required fields."""
    if isinstance(value, dict) and isinstance(schema, dict):
        known = schema.get("properties", {})
        filled = {key: part["default"] for key, part in known.items() if isinstance(part, dict) and "default" in part}
        return filled | {key: _with_defaults(known.get(key), part) for key, part in value.items()}
    if isinstance(value, list) and isinstance(schema, dict):
        return [_with_defaults(schema.get("items"), part) for part in value]
    return value


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every key of an object."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield (*path, key)
            yield from places(part, (*path, key))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from places(part, (*path, number))
