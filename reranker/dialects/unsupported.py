"""Fields of other services that would change the ranking and that we do not obey: the answer's header names them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_HARMLESS: dict[str, tuple[object, ...]] = {
    # field: the values that ask for what happens anyway; null does for every field
    "truncate": (True, "true", "END"),  # TEI: false refuses the list when a document is too long
    "truncation": (True, "true"),  # Voyage: the same
    "truncate_prompt_tokens": (-1,),  # vLLM: cuts the whole prompt, and with it the end of its template
    "max_tokens_per_query": (0,),  # vLLM
    "max_query_length": (),  # Jina
    "max_doc_length": (),  # Jina
    "add_special_tokens": (True, "true"),  # vLLM
    "chat_template": (),  # vLLM
    "mm_processor_kwargs": ({},),  # vLLM
    "kwargs": ("{}", "", {}),  # xinference
}


def ignored_fields(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Name those that a body has with a value that asks for something else.

    Args:
        fields: The body. (Any: JSON.)
    """
    return tuple(
        name for name, harmless in _HARMLESS.items() if fields.get(name) is not None and fields[name] not in harmless
    )
