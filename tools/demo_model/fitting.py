"""Fit the calibration: logistic regression on training questions.

The model's answer is a smooth function of two means over the prompt, the match and the query's weight (layers.py,
layer 2). Both are read from a model whose calibration is neutral; the rest is a fit of three numbers.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from tools.demo_model import layout
from tools.demo_model.corpus import Pair
from tools.demo_model.evaluation import Bm25
from tools.demo_model.layers import Calibration
from tools.demo_model.scorer import Scorer

# How far the final norm divides by the query's weight. Not fitted: it decides how much a longer prompt costs, which the
# examples' lengths, chosen by us, cannot tell. At 250 the division dominates up to prompts of about 400 tokens.
_QUERY_WEIGHT = 250.0

_MINED, _RANDOM = 2, 2  # irrelevant documents per question: likely mistakes, and anything
_SHORT_CHARS = {"en": 140, "zh": 50}
_LONG_DOCUMENTS = 6  # glued together: some 600 tokens
_SHORT_SHARE, _LONG_SHARE = 0.25, 0.25


@dataclass(frozen=True, slots=True)
class Example:
    """A pair and whether its document answers its query."""

    query: str
    document: str
    relevant: bool


def examples(pairs: Sequence[Pair], language: str, questions: int, seed: int = 0) -> Iterator[Example]:
    """Yield one relevant and four irrelevant documents per question, some cut short and some made long.

    Lengths vary on purpose: fitted on windows of one length, a long irrelevant document drifts towards 0.5.
    """
    draw = random.Random(seed)
    chosen = draw.sample(pairs, questions)
    pool = list(dict.fromkeys(pair.document for pair in chosen))
    bm25 = Bm25(pool, language)
    for pair in chosen:
        ranked = [pool[index] for index in bm25.pool_scores(pair.query).argsort()[::-1]]
        mined = [document for document in ranked if document != pair.document][:_MINED]
        for document in (pair.document, *mined, *draw.sample(pool, _RANDOM)):
            kind = draw.random()
            text = document
            if kind < _SHORT_SHARE:
                text = document[: _SHORT_CHARS[language]]
            elif kind < _SHORT_SHARE + _LONG_SHARE:
                parts = [document, *(other for other in draw.sample(pool, _LONG_DOCUMENTS) if other != pair.document)]
                draw.shuffle(parts)
                text = "\n".join(parts)
            yield Example(pair.query, text, relevant=document == pair.document)


def fit(neutral: Scorer, sample: Sequence[Example]) -> Calibration:
    """Fit gain, threshold and bias by least log loss; `neutral` is the model built with NEUTRAL."""
    states = neutral.last_states(
        [neutral.prompt(example.query, example.document) for example in sample], before_norm=True
    ).double()
    match, weight = states[:, layout.ANSWER], states[:, layout.QUERY_WEIGHT]
    rest = states.square().sum(1) - match.square() - weight.square()
    relevant = torch.tensor([float(example.relevant) for example in sample], dtype=torch.float64)

    log_gain = torch.tensor(math.log(200.0), dtype=torch.float64, requires_grad=True)
    threshold = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_gain, threshold, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        answer = log_gain.exp() * (match - threshold * weight) - bias
        norm = (rest + answer.square() + (_QUERY_WEIGHT * weight).square()).sqrt()
        logits = 2 * math.sqrt(layout.HIDDEN) * answer / norm
        value = torch.nn.functional.binary_cross_entropy_with_logits(logits, relevant)
        value.backward()
        return value

    optimizer.step(loss)
    return Calibration(log_gain.exp().item(), threshold.item(), bias.item(), _QUERY_WEIGHT)
