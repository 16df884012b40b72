"""What vLLM itself would refuse once a replica starts: arguments and quantizations that it does not know."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from deployments.checks import vllm_names
from deployments.checks.finding import Finding
from deployments.checks.marked_yaml import Path
from reranker.config import RerankerConfig

_AS_IT_SAYS = "See `vllm serve --help`; underscores instead of hyphens"


def problems(settings: RerankerConfig, path: Path) -> Iterator[Finding]:
    """Say what is misspelt.

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
    arguments = vllm_names.arguments()
    for place, names in given.items():
        for name in names:
            if name not in arguments:
                yield Finding((*path, *place, name), f"vLLM has no argument {name}", _meant(name, arguments))
    quantization = settings.engine.quantization
    if quantization is not None and quantization not in (known := vllm_names.quantizations()):
        said = f"vLLM has no quantization {quantization}"
        yield Finding((*path, "engine", "quantization"), said, _meant(quantization, known, all_of=True))


def _meant(name: str, known: list[str], *, all_of: bool = False) -> str:
    near = difflib.get_close_matches(name.replace("-", "_"), known, 1)
    if near:
        return f"Did you mean {near[0]}?"
    return f"Known: {', '.join(sorted(known))}" if all_of else _AS_IT_SAYS
