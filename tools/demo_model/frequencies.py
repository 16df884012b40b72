"""How much a match on each token is worth: document frequencies, counted once and committed, and what is made of them.

A token's weight is its squared inverse document frequency, from 0 to 1, with a few caps. BM25's idf is linear in the
logarithm. Squared, the topic of a query outweighs a frame of common words around it ("a method based on deep learning
for ..."); on training questions the two differ by less than the noise.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders

from tools.demo_model.corpus import WINDOW_CHARS, Texts, lines_of
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

# A word is judged by the mean of its idf over two kinds of text of its language (so, the geometric mean of the rates):
# "patient" says little among medical texts and much elsewhere, and the model does not know where it will be used.
# Absent counts as this rate, as below.
_RAREST_RATE = 1 / _RAREST

# Frames of questions and of claims ("what are the symptoms of", "a method based on") hold a word down wherever it is
# used. Questions of one collection ask for few things again and again, hence the discount.
_QUESTION_WEIGHT = 0.25

# The claims are few and each was written to contain some topic. A word is a habit of such texts, and not a topic,
# once several of them use it; the first two uses count nothing.
_CLAIM_USES_IGNORED = 2

# The dictionary's counts say how often a character occurs, not in how many texts. Occurrences come in bunches, so the
# estimate below, which takes them as independent, is too high; halved, it agrees with the passages on common ones.
_DICTIONARY_WEIGHT = 0.5

_PER = 100_000


def document_rates(tokenizer: Tokenizer, texts: Texts, character_rates: Mapping[str, float]) -> list[float]:
    """Return, per token id, the share of texts that contain it, put together from all collections.

    `character_rates` is the share of running Chinese text per character; it becomes the chance of at least one
    occurrence in a Chinese window.
    """
    size = tokenizer.get_vocab_size()
    dictionary = [0.0] * size
    for character, rate in character_rates.items():
        tokens = tokenizer.encode(character, add_special_tokens=False).ids
        if len(tokens) == 1:
            dictionary[tokens[0]] = _DICTIONARY_WEIGHT * (1 - (1 - rate) ** WINDOW_CHARS["zh"])
    general = (
        (_rates(tokenizer, texts.passages_en), _rates(tokenizer, texts.technical_en)),
        (_rates(tokenizer, texts.passages_zh), dictionary),
    )
    frames = (
        _rates(tokenizer, texts.questions_en, weight=_QUESTION_WEIGHT),
        _rates(tokenizer, texts.questions_zh, weight=_QUESTION_WEIGHT),
        _rates(tokenizer, texts.claims_en, ignored=_CLAIM_USES_IGNORED),
        _rates(tokenizer, texts.claims_zh, ignored=_CLAIM_USES_IGNORED),
    )
    return [
        max(
            *(math.sqrt(max(one[token], _RAREST_RATE) * max(other[token], _RAREST_RATE)) for one, other in general),
            *(frame[token] for frame in frames),
        )
        for token in range(size)
    ]


def _rates(tokenizer: Tokenizer, texts: Sequence[str], *, weight: float = 1, ignored: int = 0) -> list[float]:
    """Return weight * (texts with the token - ignored) / texts, by token id."""
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        counts.update(set(encoding.ids))
    return [weight * max(0, counts[token] - ignored) / len(texts) for token in range(tokenizer.get_vocab_size())]


def write_rates(path: Path, tokenizer: Tokenizer, rates: Sequence[float]) -> None:
    """Write `token<TAB>texts per 100,000 that contain it`, one line a token in id order; tokens in byte-level form."""
    lines = [f"{token}\t{round(rate * _PER)}" for token, rate in zip(spelling(tokenizer), rates, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rates(path: Path, tokenizer: Tokenizer) -> list[float]:
    """Read the table as shares in [0, 1] by token id; ValueError: it was counted with another tokenizer."""
    vocabulary = spelling(tokenizer)
    rates = []
    for index, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        token, count = line.split("\t")
        if index >= len(vocabulary) or token != vocabulary[index]:
            raise ValueError(f"{path.name} line {index + 1} is {token!r}, the tokenizer says otherwise: count again")
        rates.append(int(count) / _PER)
    if len(rates) != len(vocabulary):
        raise ValueError(f"{path.name} has {len(rates)} tokens, the tokenizer {len(vocabulary)}")
    return rates


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
