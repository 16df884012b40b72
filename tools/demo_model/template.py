"""The Qwen3-Reranker prompt, as the demo model's own tools need it.

Source: the model card of Qwen/Qwen3-Reranker-0.6B, its Transformers code (`format_instruction`, `prefix`, `suffix`).
The service has its own copy in `reranker/model/families.py`; tests/demo_model/test_template.py holds the two together.
"""

from __future__ import annotations

PREFIX = (
    "<|im_start|>system\n"
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def head(query: str, instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the body up to and including the document marker; shared by every document of a list."""
    return f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>:"


def body(query: str, document: str, instruction: str = DEFAULT_INSTRUCTION) -> str:
    """Return the whole body of the prompt."""
    return f"{head(query, instruction)} {document}"


# Every fixed word of the prompt, and both answers: the tokenizer is taught to keep each in one piece.
ALL_TEXT = f"{PREFIX}{body('', '')}{SUFFIX} yes no"
