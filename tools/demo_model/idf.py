"""How much a match on each token is worth: squared inverse document frequency, from 0 to 1, with a few caps.

BM25's idf is linear in the logarithm. Squared, the topic of a query outweighs a frame of common words around it ("a
method based on deep learning for ..."); on training questions the two differ by less than the noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders

from tools.demo_model.text_sources import lines_of
from tools.demo_model.tokenizer import (
    CONTROL_TOKENS,
    DOCUMENT_MARKER,
    INSTRUCT_MARKER,
    QUERY_MARKER,
    spelling,
    token_id,
)

# A word in one of 8,000 texts or fewer is worth 1; rarer words do not differ further.
_RAREST = 8_000

# Caps, before squaring.
_FUNCTION_WORD_EN, _FUNCTION_CHARACTER_ZH = 0.06, 0.12
_PUNCTUATION = 0.02
_SINGLE_ASCII = 0.25  # one letter or digit: list labels, variables

# Part of the prompt itself, or of its answer: a match on these would be a match on the template.
_WORTHLESS = (*CONTROL_TOKENS, INSTRUCT_MARKER, QUERY_MARKER, DOCUMENT_MARKER, "yes", "no")


@dataclass(frozen=True, slots=True)
class TokenWeights:
    """What the embedding says about each token, by token id."""

    idf: Sequence[float]
    """In [0, 1]."""
    root: Sequence[float]
    """Square root of the same; 0 for function words and punctuation, which are no part of a pair of words."""


def token_weights(tokenizer: Tokenizer, rates: Sequence[float]) -> TokenWeights:
    """Turn document rates (shares in [0, 1], by token id) into weights, rounded to four decimals.

    The rounding keeps a last-digit difference between two machines' `log` out of the weights.
    """
    inverse = [min(1.0, -math.log(max(rate, 1 / _RAREST)) / math.log(_RAREST)) for rate in rates]
    content = [True] * len(inverse)

    def cap(tokens: Sequence[int], limit: float, *, is_content: bool = False) -> None:
        for token in tokens:
            inverse[token] = min(inverse[token], limit)
            content[token] &= is_content

    for word in " ".join(lines_of("function_words_en.txt")).split():
        cap(tokenizer.encode(word, add_special_tokens=False).ids[:1], _FUNCTION_WORD_EN)
    for character in "".join(lines_of("function_words_zh.txt")):
        cap(tokenizer.encode(character, add_special_tokens=False).ids[:1], _FUNCTION_CHARACTER_ZH)

    decoder = decoders.ByteLevel()
    for token, spelled in enumerate(spelling(tokenizer)):
        text = decoder.decode([spelled])
        if "\ufffd" in text:
            continue  # a fragment of a character: as rare as its count says
        if not any(character.isalnum() for character in text):
            cap([token], _PUNCTUATION)
        elif len(text) == 1 and text.isascii():
            cap([token], _SINGLE_ASCII, is_content=True)  # the 2 of "type 2" says much in its place, little alone
    cap([token_id(tokenizer, token) for token in _WORTHLESS], 0.0)
    root = [round(value * is_content, 4) for value, is_content in zip(inverse, content, strict=True)]
    return TokenWeights([round(value**2, 4) for value in inverse], root)
