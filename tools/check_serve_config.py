"""Check Serve configurations strictly. Ray ignores keys it does not know: a misspelt limit is no limit.

python -m tools.check_serve_config serve_config.yaml …
"""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from reranker.config import RerankerConfig


def problems(config: dict[str, Any]) -> Iterator[str]:
    """Say everything that is wrong with a configuration (a YAML document, hence the Any)."""
    yield from _unknown_keys(config, ServeDeploySchema, "")
    try:
        ServeDeploySchema.model_validate(config)
    except ValidationError as error:
        yield from (f"{_path(problem['loc'])}: {problem['msg']}" for problem in error.errors())
    for number, application in enumerate(config.get("applications", [])):
        try:
            RerankerConfig.model_validate(application.get("args") or {})
        except ValidationError as error:
            prefix = ("applications", number, "args")
            yield from (f"{_path((*prefix, *problem['loc']))}: {problem['msg']}" for problem in error.errors())


def _path(location: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in location)


def _unknown_keys(value: Any, schema: Any, path: str) -> Iterator[str]:
    """Walk a document and its schema side by side; free-form dictionaries have no schema and end the walk."""
    models = [one for one in _members(schema) if isinstance(one, type) and issubclass(one, BaseModel)]
    if isinstance(value, list):
        [item, *_] = [*(typing.get_args(one)[0] for one in _members(schema) if typing.get_args(one)), None]
        for number, element in enumerate(value):
            yield from _unknown_keys(element, item, f"{path}[{number}]")
    elif isinstance(value, dict) and models:
        fields = {name: field for model in models for name, field in model.model_fields.items()}
        for key, element in value.items():
            if key in fields:
                yield from _unknown_keys(element, fields[key].annotation, f"{path}.{key}".lstrip("."))
            else:
                yield f"{path}.{key}: unknown key; known are {', '.join(sorted(fields))}".lstrip(".")


def _members(schema: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(schema)
    return typing.get_args(schema) if origin in (typing.Union, types.UnionType) else (schema,)


def main(paths: list[str]) -> int:
    """Check files.

    Returns:
        Exit status: 1 when any has a problem.
    """
    found = [f"{path}: {problem}" for path in paths for problem in problems(yaml.safe_load(Path(path).read_text()))]
    print("\n".join(found), end="\n" if found else "", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
