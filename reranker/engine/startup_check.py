"""Check that a loaded model scores a few known pairs as a reranker does, before it may take traffic.

A reranker that is set up wrongly answers plausible numbers and no error. These checks recognize such numbers and name
the likeliest cause. They do not measure how well a sane model ranks.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from reranker.config import ModelConfig
from reranker.engine.loop import Engine
from reranker.errors import QueryTooLongError, StartupCheckError
from reranker.model.prompt import PromptRenderer
from reranker.types import FloatArray, RenderedList

# (query, relevant, irrelevant). So clear that a bag of words gets them right.
KNOWN_PAIRS = (
    (
        "What is the capital of China?",
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other.",
    ),
    (
        "How do I bake bread at home?",
        "To bake bread at home, mix flour, water, salt and yeast, let the dough rise, and bake it in a hot oven.",
        "The central bank raised interest rates on Tuesday, and share prices fell.",
    ),
    ("光合作用发生在植物的哪个部位？", "植物的光合作用主要发生在叶片的叶绿体中。", "昨晚的足球比赛以二比一结束。"),
    (
        "感冒发烧应该怎么办？",
        "感冒发烧时应该多喝水、多休息，体温过高时可以服用退烧药。",
        "这家公司去年的汽车销量比前年增长了百分之十。",
    ),
)
# More tokens than any supported model takes (40,960): one a word in every tokenizer we know.
_LONG_DOCUMENT = "water " * 50_000
# The pairs are web questions: a configured instruction of another field could rightly call them irrelevant.
_INSTRUCTION = ModelConfig().instruction

MIN_GAP = 1.0  # log-odds from the worst relevant document to the best irrelevant one; the demo model has 4.3
MIN_SPREAD = 0.1  # log-odds between the highest and the lowest; without a template the demo model gives 0.02
FLOAT32_TOLERANCE = 0.01  # log-odds; ten times what float32 shows
TF32_TOLERANCE = 0.1  # float32 on CUDA: vLLM's attention for it rounds its factors to 10 bits
REDUCED_TOLERANCE = 0.5  # in bfloat16, float16 and quantized, the kernel and its rounding change with the batch's size

_NO_TEMPLATE = "no template: query and document are put together without the one the model was trained with"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check."""

    name: str
    measured: str
    cause: str | None  # the likeliest cause of the failure; None: passed


def tolerance_for(dtype: str, quantization: str | None = None, device: str = "cpu") -> float:
    """The allowed difference between two scorings of one pair, in log-odds. "auto" mostly means a reduced dtype."""
    if dtype != "float32" or quantization is not None:
        return REDUCED_TOLERANCE
    return TF32_TOLERANCE if device == "cuda" else FLOAT32_TOLERANCE


async def run_checks(
    engine: Engine, renderer: PromptRenderer, tolerance: float, adapter: str = ""
) -> list[CheckResult]:
    """Run all checks, the most telling first; StartupCheckError if a prompt has no room for a document."""
    try:
        lists = [renderer.render(query, pair, _INSTRUCTION).for_adapter(adapter) for query, *pair in KNOWN_PAIRS]
        long = renderer.render(KNOWN_PAIRS[0][0], [_LONG_DOCUMENT], _INSTRUCTION)
    except QueryTooLongError as error:
        cause = "model.max_pair_tokens leaves no room for a document"
        raise StartupCheckError("tail", f"a short query needs {error.tokens} tokens", cause) from None
    # Alone first: the engine's caches are cold then, and warm in the two batches.
    alone = np.array([[(await engine.score(one.prompts.select([i])))[0] for i in range(2)] for one in lists])
    batch, again = [np.stack(await asyncio.gather(*(engine.score(one.prompts) for one in lists))) for _ in range(2)]
    disturbed = "pairs of one batch disturb each other: a broken attention kernel or prefix cache"
    random = "the engine computes differently each time: a broken kernel or prefix cache, or weights not loaded"
    with np.errstate(invalid="ignore"):  # infinities make NaN, which fails every comparison below, as it should
        return [
            _check_tail(lists, long),
            _check_finite(np.stack([alone, batch, again])),
            _check_spread(batch),
            _check_separation(batch),
            _check_agreement("batch", "alone and in a batch", alone - batch, tolerance, disturbed),
            _check_agreement("repetition", "scored twice", batch - again, tolerance, random),
        ]


def require_sane(engine: Engine, renderer: PromptRenderer, tolerance: float, adapters: Sequence[str] = ()) -> None:
    """Run all checks for the model and each adapter; StartupCheckError for the first that fails.

    It works with or without a running event loop in this thread.
    """
    with ThreadPoolExecutor(1, "startup-check") as thread:
        for adapter in ("", *adapters):
            results = thread.submit(asyncio.run, run_checks(engine, renderer, tolerance, adapter)).result()
            for result in results:
                if result.cause is not None:
                    measured = f"{result.measured}, with adapter {adapter}" if adapter else result.measured
                    raise StartupCheckError(result.name, measured, result.cause)


def _check_tail(lists: Sequence[RenderedList], long: RenderedList) -> CheckResult:
    """Every prompt has a tail, the same after a document that was cut. Some families have the query in it."""
    tail, cut, cause = lists[0].prompts.tail, long.prompts.tail, None
    if not all(one.prompts.tail.size for one in lists):
        cause = _NO_TEMPLATE
    elif not np.array_equal(cut, tail):
        cause = "truncation cuts the prompt's end and not the document only"
    return CheckResult("tail", f"{len(tail)} tokens follow a document, {len(cut)} a document that was cut", cause)


def _check_finite(logits: FloatArray) -> CheckResult:
    invalid = int((~np.isfinite(logits)).sum())
    cause = "broken quantization, or a number too large for float16 (try bfloat16)" if invalid else None
    return CheckResult("finite", f"{invalid} of {logits.size} scores are no number", cause)


def _check_spread(logits: FloatArray) -> CheckResult:
    """Neither one score for everything nor exactly 0.5 for several: field reports have both."""
    zeros, spread, cause = int((logits == 0).sum()), float(np.ptp(logits)), None
    if zeros > 1 or (spread < MIN_SPREAD and float(np.abs(logits).max()) < MIN_SPREAD):
        cause = "a head of zeros (the yes and no rows of the checkpoint are empty), or broken quantization"
    elif not spread >= MIN_SPREAD:  # NaN fails too
        cause = _NO_TEMPLATE
    measured = f"log-odds from {logits.min():.3f} to {logits.max():.3f}, {zeros} of {logits.size} exactly 0"
    return CheckResult("spread", measured, cause)


def _check_separation(logits: FloatArray) -> CheckResult:
    """One threshold separates all relevant documents from all irrelevant ones, whatever the query."""
    relevant, irrelevant = logits.T
    gap, cause = float(relevant.min() - irrelevant.max()), None
    if irrelevant.min() - relevant.max() >= MIN_GAP:
        cause = "yes and no are swapped in the head"
    elif not gap >= MIN_GAP:
        cause = "no template or another model's, a wrong head, broken quantization, or not a reranker at all"
    lowest, highest = f"lowest relevant {relevant.min():.3f}", f"highest irrelevant {irrelevant.max():.3f}"
    return CheckResult("separation", f"{lowest}, {highest}: apart by {gap:.3f}, must be {MIN_GAP}", cause)


def _check_agreement(name: str, what: str, differences: FloatArray, tolerance: float, cause: str) -> CheckResult:
    largest = float(np.abs(differences).max())
    measured = f"{what}: log-odds differ by up to {largest:.2g}, may by {tolerance:g}"
    return CheckResult(name, measured, None if largest <= tolerance else cause)
