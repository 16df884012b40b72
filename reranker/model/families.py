"""The kinds of reranker we can score with, and how each is prompted and scored. The one registry; pure data.

A family is found by the architecture its config.json names. An unknown one is refused with the list of known ones: a
model prompted in another family's way gives plausible numbers that are wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from reranker.errors import UnsupportedModelError


@dataclass(frozen=True, slots=True)
class Family:
    """What models of one architecture have in common."""

    architecture: str
    description: str
    template: Literal["qwen3", "pair"]
    """How a pair becomes a prompt: the Qwen3-Reranker model card's, or the tokenizer's own encoding of a pair."""
    hf_overrides: Mapping[str, object] = field(default_factory=dict)
    """What vLLM must be told to make its classification head."""
    causal: bool = True
    """Every token sees only those before it: the pairs of a list can share the computation of their head."""


_QWEN3_CARD = "Qwen/Qwen3-Reranker-0.6B, -4B, -8B"
FAMILIES = (
    Family(
        "Qwen3ForCausalLM",
        f"Qwen3-Reranker as published ({_QWEN3_CARD})",
        "qwen3",
        # logit("yes") - logit("no"), from two rows of the language model's own head.
        hf_overrides={
            "architectures": ["Qwen3ForSequenceClassification"],
            "classifier_from_token": ["no", "yes"],
            "is_original_qwen3_reranker": True,
        },
    ),
    Family("Qwen3ForSequenceClassification", "Qwen3-Reranker converted to a classifier (…-seq-cls)", "qwen3"),
    Family("BertForSequenceClassification", "classic cross-encoder (ms-marco-MiniLM, …)", "pair", causal=False),
    Family("RobertaForSequenceClassification", "classic cross-encoder on RoBERTa", "pair", causal=False),
    Family("XLMRobertaForSequenceClassification", "BAAI/bge-reranker-base, -large, -v2-m3", "pair", causal=False),
    Family("ModernBertForSequenceClassification", "gte-reranker-modernbert-base, …", "pair", causal=False),
)
_BY_ARCHITECTURE = {family.architecture: family for family in FAMILIES}


def family_of(name: str, settings: Mapping[str, Any]) -> Family:
    """Find a model's family.

    Args:
        name: The model, for the message.
        settings: Its config.json. (Any: JSON.)

    Raises:
        UnsupportedModelError: No family has its architecture, or its head gives more than one score.
    """
    architectures = settings.get("architectures") or []
    family = _BY_ARCHITECTURE.get(architectures[0]) if len(architectures) == 1 else None
    if family is None:
        known = "; ".join(f"{one.architecture}: {one.description}" for one in FAMILIES)
        raise UnsupportedModelError(name, f"its architecture is {architectures}. Known are {known}")
    labels = len(settings["id2label"]) if settings.get("id2label") else int(settings.get("num_labels") or 2)
    if "SequenceClassification" in family.architecture and labels != 1:
        raise UnsupportedModelError(name, f"its head has {labels} labels; a reranker's has one")
    return family


def max_tokens(settings: Mapping[str, Any]) -> int | None:
    """Tokens a prompt may have, by the model's positions; None: its config.json does not say."""
    positions = settings.get("max_position_embeddings")
    if not isinstance(positions, int):
        return None
    if "roberta" in str(settings.get("model_type")):
        return positions - int(settings.get("pad_token_id") or 0) - 1  # they count from behind the padding's id
    return positions


def has_token_types(settings: Mapping[str, Any]) -> bool:
    """Whether the model tells the query's tokens from the document's by a type of their own."""
    return int(settings.get("type_vocab_size") or 0) > 1
