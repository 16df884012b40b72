"""The embedding of every token: who it is, what it weighs, and whether it is one of the prompt's markers."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from tools.demo_model import layout
from tools.demo_model.checkpoint import Float64, rounded
from tools.demo_model.frequencies import TokenWeights
from tools.demo_model.tokenizer import DOCUMENT_MARKER, INSTRUCT_MARKER, QUERY_MARKER, spelling, token_id

# The segment head follows the highest rank seen so far (layers.py), so the last marker that is *new* decides: a
# document cannot leave its segment by containing a marker, because <Document>: outranks them all.
_MARKER_RANKS = {"<|im_start|>": 0.03, INSTRUCT_MARKER: 0.12, QUERY_MARKER: 0.3, DOCUMENT_MARKER: 1.0}

_SPARE_SQUARE = 0.05  # room under the longest embedding, so that its padding is not a difference of rounding errors


def read_synonyms(lines: Sequence[str], tokenizer: Tokenizer) -> dict[int, int]:
    """Map each token of a synonym class to the class's first token.

    A word that is not one token, or that an earlier line already placed, is left out: one token, one class.
    """
    leaders: dict[int, int] = {}
    for line in lines:
        encoded = [tokenizer.encode(word, add_special_tokens=False).ids for word in line.split()]
        members = [ids[0] for ids in encoded if len(ids) == 1 and ids[0] not in leaders]
        if not members:
            continue
        leaders.update(dict.fromkeys(members, members[0]))
    return leaders


def word_vector(token: str) -> Float64:
    """Return a token's direction in word space: 96 signs from a hash of its text, scaled to length 1.

    Two tokens share about half of their signs, so the cosine between them is 0 give or take 0.1, and never near 1.
    A hash instead of a random generator: nothing depends on a library's stream, or on the order of the vocabulary.
    """
    digest = hashlib.shake_128(token.encode()).digest(layout.WORD_DIMS // 8)
    bits = np.unpackbits(np.frombuffer(digest, dtype=np.uint8))
    return (2 * bits.astype(np.float64) - 1) / math.sqrt(layout.WORD_DIMS)


def embed(tokenizer: Tokenizer, weights: TokenWeights, synonyms: Sequence[str]) -> tuple[Float64, float]:
    """Build the table, rounded to bfloat16, shape (vocabulary, HIDDEN), and the squared length of all its rows."""
    vocabulary = spelling(tokenizer)
    table = np.zeros((len(vocabulary), layout.HIDDEN))
    leaders = read_synonyms(synonyms, tokenizer)
    for token in range(len(vocabulary)):
        table[token, layout.WORD] = word_vector(vocabulary[leaders.get(token, token)])
    table[:, layout.ONE] = 1
    table[:, layout.IDF] = weights.idf
    table[:, layout.ROOT] = layout.SMALL * np.array(weights.root)
    for marker, rank in _MARKER_RANKS.items():
        table[token_id(tokenizer, marker), layout.MARKER_RANK] = rank
    table[token_id(tokenizer, QUERY_MARKER), layout.IS_QUERY_MARKER] = 1
    table[token_id(tokenizer, DOCUMENT_MARKER), layout.IS_DOCUMENT_MARKER] = 1
    table[token_id(tokenizer, "yes"), layout.ANSWER] = 1
    table[token_id(tokenizer, "no"), layout.ANSWER] = -1
    table = rounded(table)

    # fsum: the exact sum, whatever order a vector unit would add in
    squares = [math.fsum(row * row) for row in table]
    square = max(squares) + _SPARE_SQUARE
    table[:, layout.PADDING] = [math.sqrt(square - own) for own in squares]
    return rounded(table), square
