"""Text of every script becomes words that a query in the same script finds again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.errors import ConfigurationError
from reranker.search.documents import Analyzer, ideographs_of, require_stemmer


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The patient's COVID-19, running qwen3", ["the", "patient", "covid", "19", "run", "qwen3"]),
        ("ＡＢＣ １２", ["abc", "12"]),  # full width
        ("清初政治家", ["清初", "政治", "治家", "政治家"]),  # jieba, for search
        ("東京タワー", ["東京", "京タ", "タワ", "ワー"]),
        ("한국어 문서", ["한국", "국어", "문서"]),
        ("ภาษา", ["ภา", "าษ", "ษา"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are parts of words
        ("snake_case", ["snake", "case"]),
        ("…!?", []),
    ],
)
def test_each_script_is_split_in_its_own_way(text: str, words: list[str]) -> None:
    assert list(Analyzer().words(text)) == words


def test_chinese_query_finds_what_words_alone_would_hide() -> None:
    """The long word and the short ones in it are both there, so that a query with either finds it."""
    document, query = list(Analyzer().words("中华人民共和国的宪法")), list(Analyzer().words("人民"))
    assert set(query) <= set(document)


def test_characters_of_japanese_documents_become_pairs() -> None:
    """A Japanese text between two commas may have no kana, and Chinese words would be the wrong ones."""
    assert ideographs_of(["東京都は大きい", "知事"]) == "pairs"
    assert ideographs_of(["清初政治家", "魏裔介"]) == "words"
    assert list(Analyzer(ideographs="pairs").words("東京都")) == ["東京", "京都"]


def test_stemmer_is_chosen_or_left_out() -> None:
    assert list(Analyzer("none").words("running houses")) == ["running", "houses"]
    assert list(Analyzer("german").words("Häuser")) == ["haus"]
    with pytest.raises(ConfigurationError, match="no stemmer 'klingon'; known are none, "):
        require_stemmer("klingon")


@given(st.text())
def test_any_text_can_be_split(text: str) -> None:
    assert all(word and word.strip() == word for word in Analyzer().words(text))
