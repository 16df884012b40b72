"""Token document frequencies: counted once from the texts, committed as a table, read back by the build."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from tools.demo_model.corpus import WINDOW_CHARS
from tools.demo_model.text_sources import Texts
from tools.demo_model.tokenizer import spelling

# A word is judged by the mean of its idf over two kinds of text of its language (so, the geometric mean of the rates):
# "patient" says little among medical texts and much elsewhere, and the model does not know where it will be used.
# Absent counts as this rate, as in idf.py.
_RAREST = 1 / 8_000

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

    Args:
        tokenizer: Trained; ids are its own.
        texts: The collections.
        character_rates: Share of running Chinese text per character; turned into the chance of at least one
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
            *(math.sqrt(max(one[token], _RAREST) * max(other[token], _RAREST)) for one, other in general),
            *(frame[token] for frame in frames),
        )
        for token in range(size)
    ]


def _rates(tokenizer: Tokenizer, texts: Sequence[str], *, weight: float = 1, ignored: int = 0) -> list[float]:
    """Return weight * (texts with the token - ignored) / texts, by token id."""
    counts = _document_counts(tokenizer, texts)
    return [weight * max(0, counts[token] - ignored) / len(texts) for token in range(tokenizer.get_vocab_size())]


def _document_counts(tokenizer: Tokenizer, texts: Iterable[str]) -> Counter[int]:
    counts: Counter[int] = Counter()
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        counts.update(set(encoding.ids))
    return counts


def write_rates(path: Path, tokenizer: Tokenizer, rates: Sequence[float]) -> None:
    """Write `token<TAB>texts per 100,000 that contain it`, one line a token in id order; tokens in byte-level form."""
    lines = [f"{token}\t{round(rate * _PER)}" for token, rate in zip(spelling(tokenizer), rates, strict=True)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_rates(path: Path, tokenizer: Tokenizer) -> list[float]:
    """Read the table back as shares in [0, 1], indexed by token id.

    Raises:
        ValueError: The table was counted with another tokenizer.
    """
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
