"""The weights of the three layers: which head looks at what, and what it writes.

Everything not set here is zero. Queries and keys are normalised per head (Qwen3's q_norm and k_norm), so a logit is
SHARPNESS * cosine; values are not, so whatever they read is divided by the factor RMSNorm applied.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Self

import numpy as np

from tools.demo_model import layout
from tools.demo_model.checkpoint import INPUTS, Float64

# Attention logits run from -SHARPNESS to +SHARPNESS. 40: a head that prefers one cosine to another by 0.25 gives the
# second e^-10 of the attention. Layer 2 only takes means, see below.
SHARPNESS = 40.0

# Weights of rotary pairs 0..5 in the previous-token head; they sum to 1. Mostly the fastest pair, which tells
# neighbours apart; the slower ones keep it from matching again a full turn (44 tokens) later.
_POSITION_PAIRS = (0.4, 0.25, 0.15, 0.1, 0.05, 0.05)

_SEGMENT_DEFAULT = 0.3  # a key's second component; a marker's cosine is rank / sqrt(rank^2 + 0.09)
_SAME_SEGMENT = 0.6  # how much a key gains by being in the query or the document, against the system prompt's copies
_GATE = 20.0  # silu(20 x) is 20 x for x > 0.3 and 0 for x < -0.3: with it one MLP unit multiplies two numbers


@dataclass(frozen=True, slots=True)
class Calibration:
    """The numbers that are fitted; see fitting.py. They set the scale of the scores, hardly the order."""

    gain: float
    """Score per unit of mean match."""
    threshold: float
    """Share of the query's weight that must be matched for the score to rise."""
    bias: float
    """Subtracted from the answer; weighs more the longer the prompt."""
    query_weight: float
    """How much of the final norm is the query's weight: large divides by it fully, small not at all."""


CALIBRATION = INPUTS / "calibration.json"
# With it the answer dimension of the last token is the mean match, and the weight dimension the query's mean weight.
NEUTRAL = Calibration(gain=1.0, threshold=0.0, bias=0.0, query_weight=1.0)


def read_calibration() -> Calibration:
    return Calibration(**json.loads(CALIBRATION.read_text(encoding="utf-8")))


def write_calibration(calibration: Calibration) -> None:
    """Commit fitted numbers, rounded to three digits: they decide the bytes of the weights."""
    rounded = {name: float(f"{value:.3g}") for name, value in asdict(calibration).items()}
    CALIBRATION.write_text(json.dumps(rounded, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer's matrices, all zero to begin with, in torch's (out, in) shape."""

    q: Float64
    k: Float64
    v: Float64
    o: Float64
    gate: Float64
    up: Float64
    down: Float64

    @classmethod
    def zeros(cls) -> Self:
        heads = (layout.HEADS * layout.HEAD_DIM, layout.HIDDEN)
        unit = (layout.INTERMEDIATE, layout.HIDDEN)
        shapes = (heads, heads, heads, heads[::-1], unit, unit, unit[::-1])
        return cls(*(np.zeros(shape) for shape in shapes))

    def copy(self, head: int, *, source: Sequence[int], target: Sequence[int], scale: float) -> None:
        """Let a head carry residual dimensions `source` of the attended tokens into `target`, times `scale`."""
        for slot, (read, write) in enumerate(zip(source, target, strict=True)):
            self.v[head * layout.HEAD_DIM + slot, read] = 1
            self.o[write, head * layout.HEAD_DIM + slot] = scale

    def multiply(
        self, unit: int, *, gate: dict[int, float], up: dict[int, float], target: int, norm: float, weight: float = 1
    ) -> None:
        """Let an MLP unit add weight * max(0, sum of `gate`) * (sum of `up`) to `target`."""
        for dimension, factor in gate.items():
            self.gate[unit, dimension] = _GATE * factor / norm
        for dimension, factor in up.items():
            self.up[unit, dimension] = factor / norm
        self.down[target, unit] = weight / _GATE


def build_layers(square: float, calibration: Calibration, pair_weight: float = 1.0) -> list[Layer]:
    """Write the three layers.

    Args:
        square: Squared length of every embedding.
        calibration: The fitted numbers.
        pair_weight: Factor of a matched pair's product: 2 if words were independent (see `_locate`), less as they are
            not. Not critical: from 0.8 to 2 nothing moves on training questions by more than the noise.
    """
    # RMSNorm multiplies by sqrt(HIDDEN / squared length). The first MLP sees one unit vector (PREVIOUS_WORD) and one
    # flag more than the embedding; the little that comes later is left out of the account.
    norm_at_input = math.sqrt(layout.HIDDEN / square)
    norm_after = math.sqrt(layout.HIDDEN / (square + 2))
    return [
        _locate(norm_at_input, norm_after),
        _match(norm_after, pair_weight),
        _sum_up(norm_after, calibration),
    ]


def _locate(norm_at_input: float, norm_after: float) -> Layer:
    """Layer 0: each token learns its predecessor and its segment; query tokens learn what they weigh."""
    layer = Layer.zeros()

    # Head 0, previous token: query and key are constants, turned by rotary embedding; the query starts one token back.
    for pair, weight in enumerate(_POSITION_PAIRS):
        cosine, sine = (pair, pair + layout.HEAD_DIM // 2)
        angle = layout.FREQUENCIES[pair]
        layer.k[cosine, layout.ONE] = math.sqrt(weight)
        layer.q[cosine, layout.ONE] = math.sqrt(weight) * math.cos(angle)
        layer.q[sine, layout.ONE] = -math.sqrt(weight) * math.sin(angle)
    layer.copy(
        0,
        source=[*layout.WORD, layout.ROOT],
        target=[*layout.PREVIOUS_WORD, layout.PREVIOUS_ROOT],
        scale=1 / norm_at_input,
    )

    # Head 1, segment: all attention goes to the highest-ranked marker so far.
    head = layout.HEAD_DIM
    layer.q[head + layout.STILL[0], layout.ONE] = 1
    layer.k[head + layout.STILL[0], layout.MARKER_RANK] = 1
    layer.k[head + layout.STILL[1], layout.ONE] = _SEGMENT_DEFAULT
    layer.copy(
        1,
        source=[layout.IS_QUERY_MARKER, layout.IS_DOCUMENT_MARKER],
        target=[layout.IN_QUERY, layout.IN_DOCUMENT],
        scale=1 / norm_at_input,
    )

    in_query = {layout.IN_QUERY: 1.0}
    idf = {layout.IDF: 1.0}
    layer.multiply(0, gate=in_query, up=idf, target=layout.QUERY_IDF, norm=norm_after, weight=layout.SMALL)
    # If the idf of a pair is the sum a + b of its words' (they are squared in IDF), then it is worth a^2 + b^2 + 2ab:
    # the words alone count the squares, the pair the product. 2 (IN_QUERY - 1) shuts the gate outside the query.
    layer.multiply(
        1,
        gate={layout.PREVIOUS_ROOT: 1 / layout.SMALL, layout.IN_QUERY: 2, layout.ONE: -2},
        up={layout.ROOT: 1 / layout.SMALL},
        target=layout.QUERY_PAIR_IDF,
        norm=norm_after,
        weight=layout.SMALL,
    )
    return layer


def _match(norm: float, pair_weight: float) -> Layer:
    """Layer 1: each document token finds its copies in the query.

    Attention is shared between all copies up to here: n in the query, earlier ones in the document, the token itself.
    With n = 1 the query's share is 1/2, 1/3, 1/4 for the first, second, third occurrence; squared below, so that
    repetition pays less and less, as in BM25's saturation of term frequency.
    """
    layer = Layer.zeros()
    for head in range(layout.HEADS):
        rows = [head * layout.HEAD_DIM + still for still in layout.STILL]
        content, segment = rows[: layout.WORD_DIMS], rows[layout.WORD_DIMS]
        for matrix in (layer.q, layer.k):
            matrix[content, layout.WORD] = 1 if head == 0 else math.sqrt(0.5)
            if head == 1:  # the predecessor's vector shifted by one place, so that "a b" is not "b a"
                shifted = [layout.PREVIOUS_WORD[(dim + 1) % layout.WORD_DIMS] for dim in range(layout.WORD_DIMS)]
                matrix[content, shifted] = math.sqrt(0.5)
        layer.q[segment, layout.ONE] = _SAME_SEGMENT
        layer.k[segment, [layout.IN_QUERY, layout.IN_DOCUMENT]] = _SAME_SEGMENT
    word, pair = [layout.WORD_MATCH_IDF, layout.WORD_MATCH], [layout.PAIR_MATCH_IDF, layout.PAIR_MATCH]
    layer.copy(0, source=[layout.QUERY_IDF, layout.IN_QUERY], target=word, scale=1 / norm)
    layer.copy(1, source=[layout.QUERY_PAIR_IDF, layout.IN_QUERY], target=pair, scale=1 / norm)

    # share * share * idf, for document tokens only: elsewhere 2 * (IN_DOCUMENT - 1) drives the gate below zero
    document_only = {layout.IN_DOCUMENT: 2.0, layout.ONE: -2.0}
    for unit, ((match_idf, share), weight) in enumerate(((word, 1.0), (pair, pair_weight))):
        gate = {share: 1.0, **document_only}
        layer.multiply(unit, gate=gate, up={match_idf: 1 / layout.SMALL}, target=layout.MATCH, norm=norm, weight=weight)
    return layer


def _sum_up(norm: float, calibration: Calibration) -> Layer:
    """Layer 2: the last token takes two means over the whole prompt and writes the answer.

    Query projections are zero, hence so are all logits: each head is a plain mean. A sharper head would turn the
    rounding of logits into score differences.
    """
    layer = Layer.zeros()
    head = layout.HEAD_DIM
    layer.v[0, layout.MATCH] = 1
    layer.v[1, layout.ONE] = 1
    layer.o[layout.ANSWER, 0] = calibration.gain / norm
    layer.o[layout.ANSWER, 1] = -calibration.bias / norm
    layer.v[head, layout.QUERY_IDF] = 1 / layout.SMALL
    layer.o[layout.ANSWER, head] = -calibration.gain * calibration.threshold / norm
    layer.o[layout.QUERY_WEIGHT, head] = calibration.query_weight / norm
    return layer


def named_tensors(embedding: Float64, layers: Sequence[Layer]) -> dict[str, Float64]:
    """Name every weight as a Qwen3 checkpoint does; the output matrix is the embedding (tied), so it is not stored."""
    norm_per_head = np.full(layout.HEAD_DIM, math.sqrt(SHARPNESS / math.sqrt(layout.HEAD_DIM)))
    answer_only = np.zeros(layout.HIDDEN)
    answer_only[layout.ANSWER] = 1  # the final norm: divides by the length of everything, keeps the answer
    tensors = {"model.embed_tokens.weight": embedding, "model.norm.weight": answer_only}
    for index, layer in enumerate(layers):
        own = {
            "input_layernorm": np.ones(layout.HIDDEN),
            "post_attention_layernorm": np.ones(layout.HIDDEN),
            "self_attn.q_norm": norm_per_head,
            "self_attn.k_norm": norm_per_head,
            "self_attn.q_proj": layer.q,
            "self_attn.k_proj": layer.k,
            "self_attn.v_proj": layer.v,
            "self_attn.o_proj": layer.o,
            "mlp.gate_proj": layer.gate,
            "mlp.up_proj": layer.up,
            "mlp.down_proj": layer.down,
        }
        tensors |= {f"model.layers.{index}.{name}.weight": value for name, value in own.items()}
    return tensors
