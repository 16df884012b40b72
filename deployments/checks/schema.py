"""The form of a Serve configuration: Ray's whole schema, strictly, and our own arguments."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import re
import typing
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

from pydantic import BaseModel, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo
from ray.serve.config import (
    AutoscalingConfig,
    AutoscalingPolicy,
    DeploymentActorConfig,
    GangSchedulingConfig,
    RequestRouterConfig,
)
from ray.serve.schema import DeploymentSchema, RayActorOptionsSchema, ServeApplicationSchema, ServeDeploySchema

from deployments import IMPORT_PATH, UI_IMPORT_PATH, engine_deployments
from deployments.checks.document import Finding, Path, Row
from reranker.config import RerankerConfig, UIConfig

# A YAML document has every type, and so has an annotation: hence the Any in this file.
_SETTINGS: Mapping[str, type[BaseModel]] = {IMPORT_PATH: RerankerConfig, UI_IMPORT_PATH: UIConfig}
"""What the `args` of our applications are, by their import path."""
_CONTRADICTION = re.compile(r"([a-z_]+(?:\.[a-z_]+)*): (.+)\. ([A-Z].+)")
"""What a validator of ours says of two settings: `key: problem. Remedy`."""


class _Importing(BaseModel, extra="forbid"):
    """Ray's constructors of these import what is named, and forget that unknown keys are forbidden."""

    @model_validator(mode="wrap")
    @classmethod
    def _imported(cls, value: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(value)
        except (ImportError, AttributeError) as error:
            key = next(iter(cls.model_fields))
            said = f"{key}: cannot be imported: {error}. Give it as module:name of something installed"
            raise ValueError(said) from None


class _Policy(_Importing, AutoscalingPolicy): ...


class _Router(_Importing, RequestRouterConfig): ...


class _Actor(_Importing, DeploymentActorConfig): ...


class _Scaling(AutoscalingConfig):
    policy: _Policy = Field(default_factory=_Policy)


class Deployment(DeploymentSchema):
    """Ray would take any dictionary for these."""

    autoscaling_config: _Scaling | None = None
    request_router_config: _Router = Field(default_factory=_Router)
    gang_scheduling_config: GangSchedulingConfig | None = None
    deployment_actors: list[_Actor] | None = None
    ray_actor_options: RayActorOptionsSchema = RayActorOptionsSchema()

    @property
    def drain_s(self) -> float:
        return self.graceful_shutdown_timeout_s if "graceful_shutdown_timeout_s" in self.model_fields_set else 20.0


class Application(ServeApplicationSchema):
    """One application of a `ServeConfig`."""

    deployments: list[Deployment] = Field([], description="Deployment options that override those in the code")

    @property
    def settings(self) -> RerankerConfig:
        """Ours; the defaults, where the application is another."""
        return RerankerConfig.model_validate(self.args if self.import_path == IMPORT_PATH else {})


class ServeConfig(ServeDeploySchema):
    """A Serve configuration, as strict as it can be."""

    applications: list[Application] = Field(description="The set of applications to run on the Ray cluster")


def read(config: Any) -> ServeConfig:
    """Read a Serve configuration strictly; pydantic.ValidationError if anything is unknown or refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's deprecations
        checked: ServeConfig = ServeConfig.model_validate(config, extra="forbid")
    return checked


def problems(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Say what is misspelt, of a wrong type, missing, refused by Ray, or cannot be imported."""
    yield from _refused(config, ServeConfig, read, ())
    applications = config.get("applications")
    for place, application in enumerate(applications if isinstance(applications, list) else ()):
        target = application.get("import_path") if isinstance(application, dict) else None
        path: Path = ("applications", place)
        if isinstance(target, str):
            yield from _not_importable(target, (*path, "import_path"))
            if model := _SETTINGS.get(target):
                yield from _refused(application.get("args") or {}, model, model.model_validate, (*path, "args"))


def _not_importable(target: str, path: Path) -> Iterator[Finding]:
    module, _, name = target.replace(":", ".").rpartition(".")
    try:
        known = dir(importlib.import_module(module))
        if name not in known:
            yield Finding(path, f"{module} has no {name}", _near(name, known, f"Ours is {IMPORT_PATH}", f"{module}:"))
    except (ImportError, ValueError) as error:
        yield Finding(path, f"cannot be imported: {error}", f"Ours is {IMPORT_PATH}; others must be installed here")


def _refused(value: Any, model: type[BaseModel], read: Callable[[Any], object], path: Path) -> Iterator[Finding]:
    try:
        read(value)
    except ValidationError as error:
        said: dict[Path, list[str]] = {}  # of a value that may have several types, each says what it wants
        remedies = {}
        for problem in error.errors(include_url=False):
            message = problem["msg"].removeprefix("Value error, ").rstrip(".!")
            place, wrong = _place(value, problem["loc"])
            if contradiction := _CONTRADICTION.fullmatch(message):
                key, text, remedy = contradiction.groups()
                yield Finding((*path, *place, *key.split(".")), text, remedy)
            elif problem["type"] == "extra_forbidden":
                meant = _meant(str(place[-1]), _fields(model, place[:-1])[0])
                yield Finding((*path, *place), "unknown key; it would be ignored", meant)
            else:
                said.setdefault(place, []).append(message)
                meaning = " ".join(_fields(model, place)[1].split()).split(". ")[0].rstrip(".")
                remedies[place] = f"Its meaning: {meaning}" if meaning else "See docs/configuration.md"
                if isinstance(wrong, dict):  # not one value is wrong
                    remedies[place] = "The settings do not go together: change one of them"
        for place, messages in said.items():
            yield Finding((*path, *place), "; or: ".join(messages), remedies[place])
    except AttributeError:  # Ray's validators take for granted that a deployment is a mapping
        yield Finding(path, "something is of a wrong type", "See docs/configuration.md")


def _meant(key: str, known: Collection[str]) -> str:
    places = [f"`{place}`" for place, names in _places() if key in names]
    otherwise = f"It belongs into {' or '.join(places)}" if places else f"Known here: {', '.join(sorted(known))}"
    return _near(key, known, otherwise, cutoff=0.75)


def _near(name: str, known: Iterable[str], otherwise: str, prefix: str = "", *, cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(name, list(known), 1, cutoff)
    return f"Did you mean {prefix}{near[0]}?" if near else otherwise


def _places() -> Iterator[tuple[str, Collection[str]]]:
    """Every group of settings and its keys, to say where a misplaced key belongs."""
    pending: list[tuple[str, type[BaseModel]]] = [("the top level", ServeConfig), ("args", RerankerConfig)]
    for place, model in pending:  # it grows on the way; the schemas are trees
        yield place, model.model_fields
        pending += [(name, one) for name, field in model.model_fields.items() for one in _models(field.annotation)]


def _place(value: Any, location: Path) -> tuple[Path, Any]:
    """A validator's location without the types it tried, and the value there; a key that is missing stays."""
    place: Path = ()
    for number, step in enumerate(location):
        if isinstance(value, dict) and (step in value or number == len(location) - 1):
            place, value = (*place, step), value.get(step)
        elif isinstance(value, list) and isinstance(step, int) and step < len(value):
            place, value = (*place, step), value[step]
    return place, value


def _fields(model: type[BaseModel], place: Path) -> tuple[Mapping[str, FieldInfo], str]:
    """The fields of what is at a place, and the meaning of the innermost field on the way to it."""
    fields, meaning = model.model_fields, ""
    for step in place:
        if step in fields:
            field = fields[step]
            meaning = field.description or ""
            fields = {name: one for inner in _models(field.annotation) for name, one in inner.model_fields.items()}
    return fields, meaning


def _models(annotation: Any) -> list[type[BaseModel]]:
    """Those in an annotation: a list's, a dictionary's, each of several."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in _models(part)]


class EngineGpus(NamedTuple):
    """What an engine deployment takes, if its engines are on GPUs."""

    deployment: str
    per_replica: float
    fewest: int
    """Replicas; where Serve is to choose, 1."""
    most: int


def engine_gpus(application: Application) -> Iterator[EngineGpus]:
    """Say it of each engine deployment that may be on GPUs, listed or not."""
    for name, settings in engine_deployments(application.settings).items():
        if settings.engine.device == "cpu" or settings.engine.simulated:
            continue
        listed = [one for one in application.deployments if one.name == name] or [Deployment(name=name)]
        scaling, given = listed[0].autoscaling_config, None
        if "num_replicas" in listed[0].model_fields_set and isinstance(listed[0].num_replicas, int):
            given = listed[0].num_replicas
        per_replica = listed[0].ray_actor_options.num_gpus or settings.engine.tensor_parallel_size
        fewest, most = (scaling.min_replicas, scaling.max_replicas) if scaling else (given or 1, given or 1)
        yield EngineGpus(name, per_replica, fewest, most)


def unknown_engine_arguments(settings: RerankerConfig) -> Iterator[Row]:
    """Say which of vLLM's arguments and quantizations the installed vLLM does not know."""
    engines = {
        f"args.models.{name}.engine" if name else "args.engine": one for name, one in settings.each_model().items()
    }
    given = {where: one.engine.vllm_args for where, one in engines.items()}
    given["args.search.embedding"] = settings.search.embedding.vllm_args
    if any(given.values()):
        from vllm.engine.arg_utils import EngineArgs  # here: vLLM takes seconds to import

        known = [field.name for field in dataclasses.fields(EngineArgs)]
        otherwise = "See `vllm serve --help`; underscores instead of hyphens"
        for place, name in ((place, name) for place, names in given.items() for name in names if name not in known):
            meant = _near(name.replace("-", "_"), known, otherwise)
            yield f"{place}.vllm_args.{name}", f"vLLM has no argument {name}", meant
    for where, one in engines.items():
        yield from _unknown_quantization(f"{where}.quantization", one.engine.quantization)


def _unknown_quantization(where: str, quantization: str | None) -> Iterator[Row]:
    if quantization == "fp8":
        meant = "Give fp8_per_channel; a checkpoint that is in FP8 needs nothing"
        yield where, "vLLM has deprecated this name", meant
    elif quantization is not None:
        from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
        from vllm.plugins import load_general_plugins

        load_general_plugins()  # some bring quantizations
        if quantization not in QUANTIZATION_METHODS:
            otherwise = f"Known: {', '.join(sorted(QUANTIZATION_METHODS))}"
            meant = _near(quantization.replace("-", "_"), QUANTIZATION_METHODS, otherwise)
            yield where, f"vLLM has no quantization {quantization}", meant
