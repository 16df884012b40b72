"""What a checkpoint's own chat template makes of a query and a document, as Transformers would render it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from jinja2 import Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from reranker.model.files import read_json, read_text

_DIFFICULT = (
    ("What IS it?\n\tné <b>&amp;", "One\r\n\n  line of 'TWO'; \"北京\" {{ x }} {% x %} {instruction} \\n"),
    (" q \n", "d"),
    ("q", "\n d "),
    ("word " * 2_000 + "?", "word " * 50_000 + "."),
)
"""Queries and documents that a template cuts, folds or escapes, if it does that."""


class ChatTemplate:
    """The template of a folder, if it has one for the roles "query" and "document"."""

    def __init__(self, name: str, folder: Path) -> None:
        """Read it; `name` is the model's, for errors."""
        settings = read_json(name, folder / "tokenizer_config.json") or {}
        source = read_text(name, folder / "chat_template.jinja") or settings.get("chat_template")
        if isinstance(source, list):
            source = next((one["template"] for one in source if one["name"] == "default"), None)
        self._special = {
            key: one["content"] if isinstance(one, dict) else one
            for key, one in settings.items()
            if key.endswith("_token")
        }
        # Some templates for chats take any role. Sentence Transformers makes a prompt even of these.
        for_pairs = source and (re.search(r"[\"']query[\"']", source) or (folder / "modules.json").is_file())
        self._template = _compiled(str(source)) if for_pairs else None

    @cached_property
    def prompts(self) -> list[str]:
        """With an instruction and without one, {query} and {document} in their places.

        Empty: there is no template, or it is for chats and takes no part in the score.
        """
        pair = {"query": "{query}", "document": "{document}"}
        made = (self._render({"system": "{instruction}", **pair}), self._render(pair))
        return [one for one in made if one.count("{document}") == 1 and one.count("{query}") == 1]

    @property
    def strips(self) -> bool:
        """Whether it takes away the white space around the texts."""
        return "{document} \n" not in self._render({"query": " {query} \n", "document": " {document} \n"})

    def makes(self, prompt: str, strips: bool) -> bool:
        """Whether it makes this prompt of difficult texts too."""
        for query, document in _DIFFICULT:
            texts, wanted = {"query": query, "document": document}, prompt
            for role, text in texts.items():
                wanted = wanted.replace(f"{{{role}}}", text.strip() if strips else text)
            system = {"system": "{instruction}"} if "{instruction}" in prompt else {}
            if self._render(system | texts).rstrip() != wanted.rstrip():
                return False
        return True

    def _render(self, texts: Mapping[str, str]) -> str:
        """Make a prompt of texts by their roles; empty where it cannot be made."""
        if self._template is None:
            return ""
        try:
            messages = [{"role": role, "content": text} for role, text in texts.items()]
            return self._template.render(messages=messages, **self._special)
        except Exception:  # noqa: BLE001 - a template for chats fails at these roles, each in its own way
            return ""


def _compiled(source: str) -> Template | None:
    # As Transformers sets it up. A template for chats raises on these roles, or leaves them out.
    jinja = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, autoescape=False, extensions=["jinja2.ext.loopcontrols"]
    )

    def refuse(message: str) -> None:
        raise TemplateError(message)

    try:
        return jinja.from_string(source, globals={"raise_exception": refuse})
    except TemplateError:
        return None
