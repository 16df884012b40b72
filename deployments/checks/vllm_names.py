"""The names that the installed vLLM knows: of its engine's arguments, and of quantizations. Takes seconds to import."""

from __future__ import annotations

import dataclasses


def arguments() -> list[str]:
    """Those of its EngineArgs."""
    from vllm.engine.arg_utils import EngineArgs

    return [field.name for field in dataclasses.fields(EngineArgs)]


def quantizations() -> list[str]:
    """Its own, and those of its plugins."""
    from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS
    from vllm.plugins import load_general_plugins

    load_general_plugins()
    return list(QUANTIZATION_METHODS)
