"""What a search's answer says: its documents, how reranking moved them, and a prompt made of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deployments.ui.ranking import Left, Row

_PASSAGES = 5


def found_rows(answer: Mapping[str, Any]) -> list[Row]:
    """Give the results, best first, with the ranks they had in the first stage."""
    return [
        Row(
            rank,
            one["first_stage_rank"] - 1,
            one.get("relevance_score", 0.0),
            _text(one),
            one["first_stage_rank"] - rank,
            ("cut: too long for the model",) if one.get("truncated") else (),
            _name(one),
        )
        for rank, one in enumerate(answer["results"], start=1)
    ]


def left_out(answer: Mapping[str, Any]) -> list[Left]:
    """Give what rules and threshold took out, by the document's name; its text is not in the answer."""
    left = []
    for place, one in enumerate(answer.get("excluded", ())):
        rule = str(one.get("rule", ""))
        why = "below the threshold" if "threshold" in rule else f"excluded by the rule {rule}"
        left.append(Left(place, "", why, _name(one)))
    return left


def prompt(query: str, answer: Mapping[str, Any]) -> str:
    """Write what a language model would be asked, with the best passages as its sources."""
    sources = "\n\n".join(
        f"[{number}] {one['id']}\n{one['text']}" for number, one in enumerate(answer["results"][:_PASSAGES], start=1)
    )
    return f"Answer the question from these sources only, and name them by number.\n\n{sources}\n\nQuestion: {query}"


def _name(one: Mapping[str, Any]) -> str:
    return str(one["id"]) + (f", chunk {one['chunk'] + 1}" if one["chunk"] else "")


def _text(one: Mapping[str, Any]) -> str:
    return f"{one['title']}\n{one['text']}" if one.get("title") else str(one["text"])
