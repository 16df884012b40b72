"""Check Serve configurations, alone or inside a RayService manifest, more strictly than Ray and Kubernetes do.

Ray ignores keys it does not know and takes settings that contradict each other: a misspelt limit is no limit, and is
found out under load. Nothing is started here and nothing is loaded but the modules that a configuration names.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from deployments.checks import kubernetes, manifest, rules, schema
from deployments.checks.document import Document, Finding, below, read_all, shown

_SERVE_CONFIG = ("spec", "serveConfigV2")


class Report(NamedTuple):
    """What was found in one text."""

    configurations: int
    """Serve configurations in it."""
    findings: tuple[str, ...]
    """`line: place: problem. remedy`, in the order of the lines."""
    gpus: str
    """What the engines of a service with several models take. Empty: there is none."""


def check(text: str) -> Report:
    """Check every Serve configuration in a YAML text: documents that are one, and RayService manifests."""
    configurations, gpus = 0, []
    found: list[tuple[int, str]] = []
    documents: list[Document] = []
    try:
        for document in read_all(text):
            documents.append(document)
            config = _configuration(document)
            if isinstance(config, Finding):
                found += _lines(document, [config])
            elif config is not None:
                configurations += 1
                rows = list(_findings(document, config))
                found += rows
                gpus += [] if rows else list(_gpus(schema.read(config.value)))
    except YAMLError as error:
        found.append(_not_yaml(error))
    found += _beside(documents)
    if not configurations and not found:
        remedy = "Give a file with `applications:`, or a RayService with `spec.serveConfigV2`"
        found.append((1, f"there is no Serve configuration in it. {remedy}"))
    return Report(configurations, tuple(f"{line}: {said}" for line, said in sorted(set(found))), "; ".join(gpus))


def _gpus(config: schema.ServeConfig) -> Iterator[str]:
    for application in config.applications:
        each = list(schema.engine_gpus(application))
        if application.settings.models and each:
            fewest = sum(one.per_replica * one.fewest for one in each)
            most = sum(one.per_replica * one.most for one in each)
            yield f"the engines of {len(each)} models take {fewest:g} to {most:g} GPUs, unless on the CPU"


def _configuration(document: Document) -> Document | Finding | None:
    """The Serve configuration that a document is or holds."""
    value = document.value
    if not isinstance(value, dict):
        return None
    if "kind" not in value or "apiVersion" not in value:
        return document
    if value["kind"] != "RayService":
        return None
    spec = value.get("spec")
    text = spec.get("serveConfigV2") if isinstance(spec, dict) else None
    if not isinstance(text, str):
        return Finding(_SERVE_CONFIG, "a RayService needs it", "Give the Serve configuration as a text: `|`")
    inner = list(read_all(text, document.text_line(_SERVE_CONFIG)))
    if len(inner) != 1 or not isinstance(inner[0].value, dict):
        return Finding(_SERVE_CONFIG, "is no Serve configuration", "It must be one YAML mapping with `applications:`")
    return inner[0]


def _findings(document: Document, config: Document) -> Iterator[tuple[int, str]]:
    """Check a configuration; `document` is the manifest that holds it, or itself."""
    broken = list(_lines(config, schema.problems(config.value)))
    yield from broken
    if broken:  # what is of a wrong form has no meaning that could contradict another
        return
    settings, alone = schema.read(config.value), config is document
    variables = os.environ if alone else manifest.environment(document.value)
    yield from _lines(config, rules.problems(settings, variables))
    yield from () if alone else _lines(document, below((), manifest.problems(document.value, settings)))


def _beside(documents: Sequence[Document]) -> Iterator[tuple[int, str]]:
    """Check what is about the pods of a RayService in the same text."""
    things = [one for one in documents if isinstance(one.value, dict) and "kind" in one.value]
    for service in (one.value for one in things if one.value["kind"] == "RayService"):
        for document in things:
            yield from _lines(document, below((), kubernetes.beside(document.value, service)))


def _lines(document: Document, findings: Iterable[Finding]) -> Iterator[tuple[int, str]]:
    for path, problem, remedy in findings:
        yield document.line(path), f"{shown(path)}: {problem}. {remedy}"


def _not_yaml(error: YAMLError) -> tuple[int, str]:
    mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
    line, problem = (mark.line + 1 if mark else 1), str(getattr(error, "problem", None) or "it cannot be read")
    if isinstance(error, DuplicateKeyError):
        return line, f"{problem.split(chr(34))[1]}: is given twice. Only the last counts; remove one"
    return line, f"this is not YAML: {problem}. Look at indentation, colons and quotes"
