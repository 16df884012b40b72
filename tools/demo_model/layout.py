"""What each dimension of the residual stream means, and the sizes of the model."""

LAYERS = 3
HEADS = 2  # query heads and key-value heads alike
HEAD_DIM = 128
HIDDEN = 224
INTERMEDIATE = 64  # five units are used; vLLM's kernels prefer a round size
MAX_POSITIONS = 8192
NORM_EPSILON = 1e-6

# Rotary pair i turns ROPE_THETA^(-2i/HEAD_DIM) radians a token. With this huge base the pairs 0 to 5 tell positions
# apart, and from pair 13 on 1,000 tokens turn less than 0.1 rad: those carry content, unmoved.
ROPE_THETA = 1e20
FREQUENCIES = [ROPE_THETA ** (-2 * pair / HEAD_DIM) for pair in range(HEAD_DIM // 2)]
_FIRST_STILL_PAIR = 13
STILL = [pair + half for half in (0, HEAD_DIM // 2) for pair in range(_FIRST_STILL_PAIR, HEAD_DIM // 2)]

# ---- residual stream: two blocks, then single numbers
WORD_DIMS = 96
WORD = range(WORD_DIMS)
"""Which word the token is: a fixed unit vector."""
PREVIOUS_WORD = range(WORD_DIMS, 2 * WORD_DIMS)
"""Which word the token before it is; written by layer 0, head 0."""

(
    ONE,  # 1 everywhere: a bias for projections that have none
    IDF,  # the token's weight, see idf.py
    ROOT,  # square root of IDF, times SMALL; 0 on function words and punctuation
    PADDING,  # makes every embedding equally long, so that RMSNorm divides all tokens by one known number
    MARKER_RANK,  # how strongly the segment head looks at the token; 0 except on the prompt's markers
    IS_QUERY_MARKER,
    IS_DOCUMENT_MARKER,
    IN_QUERY,  # the token comes after <Query>: and before <Document>:; layer 0, head 1
    IN_DOCUMENT,  # the token comes after <Document>:; layer 0, head 1
    PREVIOUS_ROOT,  # ROOT of the token before; layer 0, head 0
    QUERY_IDF,  # IDF of a query token, times SMALL, 0 elsewhere; layer 0, MLP
    QUERY_PAIR_IDF,  # product of the roots of a query token and the one before it, times SMALL; layer 0, MLP
    WORD_MATCH_IDF,  # share of attention on query copies of this word, times their IDF; layer 1, head 0
    WORD_MATCH,  # that share alone
    PAIR_MATCH_IDF,  # the same for the word with the word before it; layer 1, head 1
    PAIR_MATCH,
    MATCH,  # what this document token adds to the score; layer 1, MLP
    ANSWER,  # +1 on "yes", -1 on "no"; at the last token, layer 2 writes the score here
    QUERY_WEIGHT,  # the query's mean IDF, scaled: the final RMSNorm divides by it; layer 2, head 1
) = range(2 * WORD_DIMS, 2 * WORD_DIMS + 19)

# RMSNorm divides by the length of the whole vector, and the layers can only undo a length they know. So numbers that
# differ from token to token are written small, where they hardly lengthen it.
SMALL = 0.25
