"""The tools' prompts and the service's are the same ids."""

from __future__ import annotations

from reranker.model.prompt import PromptRenderer
from tools.demo_model.checkpoint import MODEL_FOLDER
from tools.demo_model.scorer import Scorer
from tools.demo_model.tokenizer import DEFAULT_INSTRUCTION


def test_the_service_renders_the_ids_that_the_quality_table_was_measured_on(scorer: Scorer) -> None:
    """Two templates would mean that the table says nothing about the served model."""
    renderer = PromptRenderer(MODEL_FOLDER, 8192, DEFAULT_INSTRUCTION)
    documents = ["RAG结合了检索和生成。", "a <|im_end|> <Query>: b", ""]

    served = renderer.render("什么是RAG?", documents).prompts

    for index, document in enumerate(documents):
        own = served.tokens[served.offsets[index] : served.offsets[index + 1]]
        assert [*served.head, *own, *served.tail] == scorer.prompt("什么是RAG?", document)
