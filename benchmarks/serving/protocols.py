"""How each kind of server is asked, and how its answer is read. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, Self

from benchmarks.serving.texts import TextList
from reranker.config import ModelConfig
from reranker.model.families import HEAD, PREFIX, SUFFIX

MODEL = "bench"
"""What the model is called towards every server."""


class AnswerError(ValueError):
    """An answer is not a ranking of all documents."""


@dataclass(frozen=True, slots=True)
class Protocol:
    """A path, a body and an answer."""

    path: str
    kind: Literal["rerank", "score"]
    """rerank: query, documents -> results[index, relevance_score]; score: text_1, text_2 -> data[index, score]."""
    templated: bool = False
    """The client puts the model card's template around the texts, as the server has none."""

    def body(self, texts: TextList) -> bytes:
        """A request."""
        query, documents = texts.query, texts.documents
        if self.templated:
            query = PREFIX + HEAD.format(instruction=ModelConfig().instruction_text(), query=query)
            documents = [f" {document}{SUFFIX}" for document in documents]
        names = ("query", "documents") if self.kind == "rerank" else ("text_1", "text_2")
        return json.dumps({"model": MODEL, names[0]: query, names[1]: documents}, ensure_ascii=False).encode()

    def read(self, content: bytes, documents: int) -> tuple[list[float], int | None]:
        """Read an answer.

        Returns:
            The score of every document, in the order they were sent, and the prompts' tokens where it says so.

        Raises:
            AnswerError: A document is missing, or a score is not finite.
        """
        answer: dict[str, Any] = json.loads(content)  # Any: JSON
        results, key = (answer["results"], "relevance_score") if self.kind == "rerank" else (answer["data"], "score")
        scores = {int(one["index"]): float(one[key]) for one in results}
        if sorted(scores) != list(range(documents)) or not all(math.isfinite(score) for score in scores.values()):
            raise AnswerError(f"{len(scores)} scores for {documents} documents, or one is not finite")
        tokens = (answer.get("usage") or {}).get("prompt_tokens")
        return [scores[index] for index in range(documents)], None if tokens is None else int(tokens)

    def as_json(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Read what `as_json` wrote."""
        return cls(**fields)
