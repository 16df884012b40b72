"""The form of a Serve configuration: Ray's whole schema, strictly, and our own arguments."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import types
import typing
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from ray.serve.schema import ServeDeploySchema

from deployments import IMPORT_PATH, UI_IMPORT_PATH
from deployments.checks.document import Finding, Path
from reranker.config import RerankerConfig, UIConfig

# A YAML document has every type, and so has an annotation: hence the Any in this file.
_SETTINGS: Mapping[Any, type[BaseModel]] = {IMPORT_PATH: RerankerConfig, UI_IMPORT_PATH: UIConfig}
"""What the `args` of our applications are, by their import path."""
_CONTRADICTION = re.compile(r"([a-z_]+(?:\.[a-z_]+)*): (.+)\. ([A-Z].+)")
"""What a validator of ours says of two settings: `key: problem. Remedy`."""
_UNKNOWN = "extra_forbidden"  # pydantic's word for it; we say it ourselves, with what was perhaps meant


def problems(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Say what is misspelt, of a wrong type, missing, refused by Ray, or cannot be imported."""
    yield from _unknown_keys(config, ServeDeploySchema, ())
    yield from _refused(config, ServeDeploySchema, ())
    applications = config.get("applications")
    for place, application in enumerate(applications if isinstance(applications, list) else ()):
        if isinstance(application, dict):
            yield from _application(application, ("applications", place))


def _application(application: Mapping[str, Any], path: Path) -> Iterator[Finding]:
    target = application.get("import_path")
    if isinstance(target, str):
        yield from _not_importable(target, (*path, "import_path"))
    if target in _SETTINGS:
        arguments = application.get("args") or {}
        yield from _unknown_keys(arguments, _SETTINGS[target], (*path, "args"))
        yield from _refused(arguments, _SETTINGS[target], (*path, "args"))


def _not_importable(target: str, path: Path) -> Iterator[Finding]:
    module, _, name = target.replace(":", ".").rpartition(".")
    try:
        if not hasattr(importlib.import_module(module), name):
            near = difflib.get_close_matches(name, dir(importlib.import_module(module)), 1)
            meant = f"Did you mean {module}:{near[0]}?" if near else f"Ours is {IMPORT_PATH}"
            yield Finding(path, f"{module} has no {name}", meant)
    except (ImportError, ValueError) as error:
        yield Finding(path, f"cannot be imported: {error}", f"Ours is {IMPORT_PATH}; others must be installed here")


def _unknown_keys(value: Any, schema: Any, path: Path) -> Iterator[Finding]:
    """Walk a document and its schema side by side; free-form dictionaries have no schema and end the walk."""
    models = _models(schema)
    if isinstance(value, list):
        items = [typing.get_args(one)[0] for one in _members(schema) if typing.get_args(one)]
        for place, element in enumerate(value):
            yield from _unknown_keys(element, items[0] if items else None, (*path, place))
    elif isinstance(value, dict) and (named := [typing.get_args(one) for one in _members(schema) if _is_dict(one)]):
        for key, element in value.items():  # by names that are free
            yield from _unknown_keys(element, named[0][1], (*path, key))
    elif isinstance(value, dict) and models:
        fields = {name: field for model in models for name, field in model.model_fields.items()}
        for key, element in value.items():
            if key in fields:
                yield from _unknown_keys(element, fields[key].annotation, (*path, key))
            else:
                yield Finding(
                    (*path, key), "unknown key; it would be ignored", _meant(str(key), list(fields)), breaks=True
                )


def _meant(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, 1, cutoff=0.75)
    if near:
        return f"Did you mean {near[0]}?"
    places = [f"`{place}`" for place, names in _places() if key in names]
    if places:
        return f"It belongs into {' or '.join(places)}"
    return f"Known here: {', '.join(sorted(known))}"


def _places() -> Iterator[tuple[str, set[str]]]:
    """Every group of settings and its keys, to say where a misplaced key belongs."""
    pending: list[tuple[str, type[BaseModel]]] = [("the top level", ServeDeploySchema), ("args", RerankerConfig)]
    for place, model in pending:  # it grows on the way; the schemas are trees
        yield place, set(model.model_fields)
        for name, field in model.model_fields.items():
            inner = [one for member in _members(field.annotation) for one in (member, *typing.get_args(member))]
            pending += [(name, one) for one in inner if isinstance(one, type) and issubclass(one, BaseModel)]


def _refused(value: Any, model: type[BaseModel], path: Path) -> Iterator[Finding]:
    """What a model itself refuses; and, where it would take any dictionary, the model that stands beside it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Ray's deprecations
            model.model_validate(value)
    except ValidationError as error:
        said: dict[Path, list[str]] = {}  # of a value that may have several types, each says what it wants
        for problem in error.errors(include_url=False):
            message = problem["msg"].removeprefix("Value error, ").rstrip(".!")
            if contradiction := _CONTRADICTION.fullmatch(message):
                key, text, remedy = contradiction.groups()
                yield Finding((*path, *problem["loc"], *key.split(".")), text, remedy, breaks=True)
            elif problem["type"] != _UNKNOWN:
                said.setdefault(_place(value, problem["loc"]), []).append(message)
        for place, messages in said.items():
            yield Finding((*path, *place), "; or: ".join(messages), _remedy(model, place, value), breaks=True)
        return
    except (ImportError, AttributeError, ValueError) as error:  # classes that are named are imported
        yield Finding(path, f"cannot be imported: {error}", "Give it as module:name of something installed", True)
        return
    yield from _loosely_typed(value, model, path)


def _loosely_typed(value: Any, model: type[BaseModel], path: Path) -> Iterator[Finding]:
    for name, field in model.model_fields.items() if isinstance(value, dict) else ():
        given = value.get(name)
        for one in _members(field.annotation):
            if isinstance(one, type) and issubclass(one, BaseModel) and isinstance(given, dict):
                yield from _refused(given, one, (*path, name))
            inner = typing.get_args(one)
            if typing.get_origin(one) is list and isinstance(given, list):
                for place, item in enumerate(given):
                    for each in _models(inner[0]):
                        yield from _refused(item, each, (*path, name, place))


def _place(value: Any, location: Path) -> Path:
    """A validator's location without the types it tried; a key that is missing stays."""
    place: Path = ()
    for number, step in enumerate(location):
        if isinstance(value, dict) and (step in value or number == len(location) - 1):
            place, value = (*place, step), value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            place, value = (*place, step), value[step]
    return place


def _remedy(model: type[BaseModel], place: Path, value: Any) -> str:
    models, meaning = [model], ""
    for step in place:
        fields = [one.model_fields[step] for one in models if isinstance(step, str) and step in one.model_fields]
        value = value[step] if isinstance(step, int) else value.get(step)
        if fields:
            meaning = fields[0].description or ""
            annotation = fields[0].annotation
            models = [each for part in (annotation, *typing.get_args(annotation)) for each in _models(part)]
    if isinstance(value, dict):  # not one value is wrong: several do not go together
        return "The settings do not go together: change one of them"
    first = " ".join(meaning.split()).split(". ")[0].rstrip(".")
    return f"Its meaning: {first}" if first else "See docs/configuration.md"


def _models(schema: Any) -> list[type[BaseModel]]:
    return [one for one in _members(schema) if isinstance(one, type) and issubclass(one, BaseModel)]


def _is_dict(schema: Any) -> bool:
    return typing.get_origin(schema) is dict and len(typing.get_args(schema)) == 2


def _members(schema: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(schema)
    return typing.get_args(schema) if origin in (typing.Union, types.UnionType) else (schema,)


def unknown_engine_arguments(settings: RerankerConfig, path: Path) -> Iterator[Finding]:
    """Say which of vLLM's arguments and quantizations the installed vLLM does not know.

    Args:
        settings: Of our application.
        path: Where they stand.
    """
    embedding = ("search", "embedding", "vllm_args")
    given: Mapping[Path, Iterable[str]] = {
        ("engine", "vllm_args"): settings.engine.vllm_args,
        embedding: settings.search.embedding.vllm_args,
    }
    if not any(given.values()) and settings.engine.quantization is None:
        return  # vLLM takes seconds to import
    arguments = _vllm_arguments()
    for place, names in given.items():
        for name in names:
            if name not in arguments:
                yield Finding((*path, *place, name), f"vLLM has no argument {name}", _near(name, arguments))
    quantization = settings.engine.quantization
    if quantization is not None and quantization not in (known := _vllm_quantizations()):
        said = f"vLLM has no quantization {quantization}"
        yield Finding((*path, "engine", "quantization"), said, _near(quantization, known, all_of=True))


def _near(name: str, known: list[str], *, all_of: bool = False) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Known: {', '.join(sorted(known))}" if all_of else "See `vllm serve --help`; underscores instead of hyphens"


def _vllm_arguments() -> list[str]:
    """Those of its EngineArgs."""
    from vllm.engine.arg_utils import EngineArgs

    return [field.name for field in dataclasses.fields(EngineArgs)]


def _vllm_quantizations() -> list[str]:
    """Its own, and those of its plugins."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    return list(QUANTIZATION_METHODS)
