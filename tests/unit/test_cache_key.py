"""Two pairs have the same key if, and only if, nothing differs that can change their score."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.cache.keys import LIST_BYTES, PAIR_BYTES, ListTerms, document_keys
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import CuttingPolicy, PromptRenderer

TERMS = ListTerms("model", "prompts", "", "instruction", "query", CuttingPolicy())
OTHER_CUTTING: dict[str, Any] = {
    "mode": "windows",
    "side": "start",
    "max_document_tokens": 7,
    "window_tokens": 7,
    "overlap_tokens": 7,
    "max_windows": 7,
}
TERMS_OF_ANYTHING = st.builds(
    ListTerms, *[st.text()] * 5, st.builds(CuttingPolicy, max_document_tokens=st.none() | st.integers(1, 9))
)


def _key(terms: ListTerms, document: str = "document", secret: bytes = b"") -> bytes:
    [key] = document_keys(terms, [document], secret)
    return key


@pytest.mark.parametrize("part", [one.name for one in fields(ListTerms) if one.name != "cutting"])
def test_every_part_of_the_list_is_in_the_key(part: str) -> None:
    other: dict[str, Any] = {part: "another"}
    assert _key(replace(TERMS, **other)) != _key(TERMS)


@pytest.mark.parametrize("part", [one.name for one in fields(CuttingPolicy)])
def test_every_setting_of_the_cutting_is_in_the_key(part: str) -> None:
    """A setting that is added to the policy and not here fails this test, and is in the key all the same."""
    other = replace(TERMS.cutting, **{part: OTHER_CUTTING[part]})
    assert _key(replace(TERMS, cutting=other)) != _key(TERMS)


def test_document_and_secret_are_in_the_key() -> None:
    assert len({_key(TERMS), _key(TERMS, "another"), _key(TERMS, secret=b"secret")}) == 3


@given(TERMS_OF_ANYTHING, st.text(), TERMS_OF_ANYTHING, st.text())
def test_keys_are_equal_only_where_everything_is(one: ListTerms, text: str, other: ListTerms, other_text: str) -> None:
    assert (_key(one, text) == _key(other, other_text)) == ((one, text) == (other, other_text))


@given(st.text(), st.text(min_size=1), st.text())
def test_text_that_moves_from_one_part_to_the_next_makes_another_key(before: str, moved: str, after: str) -> None:
    """What `query + document` gets wrong: ("ab", "c") and ("a", "bc")."""
    assert _key(replace(TERMS, query=before + moved), after) != _key(replace(TERMS, query=before), moved + after)
    one = replace(TERMS, instruction=before + moved, query=after)
    assert _key(one) != _key(replace(TERMS, instruction=before, query=moved + after))


def test_lone_surrogates_have_keys_of_their_own() -> None:
    """JSON can bring them, and they must not bring down a list."""
    assert _key(TERMS, "\ud800") != _key(TERMS, "\ud801")


def test_pairs_of_a_list_share_the_beginning_of_their_keys_and_those_of_another_do_not() -> None:
    """It decides on the node of a Redis cluster."""
    one, two = document_keys(TERMS, ["a", "b"])
    assert len(one) == LIST_BYTES + PAIR_BYTES
    assert one[:LIST_BYTES] == two[:LIST_BYTES] != _key(replace(TERMS, query="another"))[:LIST_BYTES]


def test_fingerprint_of_the_prompts_tells_limits_and_templates_apart() -> None:
    prints = {PromptRenderer(DEMO_MODEL, limit, "instruction").fingerprint for limit in (64, 65)}
    assert len(prints) == 2
    assert PromptRenderer(DEMO_MODEL, 64, "another default").fingerprint in prints  # the instruction is in the terms
