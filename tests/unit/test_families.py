"""A model prompted in another family's way gives plausible numbers that are wrong; better refuse it."""

from typing import Any

import pytest

from reranker.errors import UnsupportedModelError
from reranker.model.families import FAMILIES, family_of, has_token_types, max_tokens


@pytest.mark.parametrize("architecture", [family.architecture for family in FAMILIES])
def test_known_architecture_finds_its_family(architecture: str) -> None:
    settings = {"architectures": [architecture], "id2label": {"0": "LABEL_0"}}
    assert family_of("m", settings).architecture == architecture


@pytest.mark.parametrize("architectures", [None, [], ["T5ForConditionalGeneration"], ["BertForMaskedLM", "Other"]])
def test_unknown_architecture_is_refused_with_the_known_ones(architectures: Any) -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        family_of("m", {"architectures": architectures})
    assert all(family.architecture in str(caught.value) for family in FAMILIES)


@pytest.mark.parametrize("labels", [{"id2label": {"0": "a", "1": "b", "2": "c"}}, {"num_labels": 2}, {}])
def test_head_of_several_labels_is_refused(labels: dict[str, Any]) -> None:
    """A sentiment or NLI classifier has the same architecture; its numbers are no relevance."""
    with pytest.raises(UnsupportedModelError, match="labels"):
        family_of("m", {"architectures": ["BertForSequenceClassification"], **labels})


def test_roberta_counts_positions_from_behind_its_padding() -> None:
    assert max_tokens({"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1}) == 512
    assert max_tokens({"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}) == 512
    assert max_tokens({}) is None


def test_token_types() -> None:
    assert has_token_types({"type_vocab_size": 2})
    assert not has_token_types({"type_vocab_size": 1})
    assert not has_token_types({})
