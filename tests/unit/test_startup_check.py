"""The check at start-up: a sane engine passes; each kind of breakage is named by its check and its likeliest cause."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from reranker.config import ModelConfig
from reranker.engine import startup_check
from reranker.engine.loop import Engine
from reranker.engine.startup_check import KNOWN_PAIRS, require_sane, run_checks, tolerance_for
from reranker.errors import EngineFailedError, StartupCheckError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import CUT_THE_END, CuttingPolicy, PromptRenderer
from reranker.types import FloatArray, RenderedList, Shard

RENDERER = PromptRenderer(DEMO_MODEL, 8_192, ModelConfig().instruction)
TOLERANCE = tolerance_for("float32")
RELEVANT = {RENDERER.render(query, [document]).prompts.tokens.tobytes() for query, document, _ in KNOWN_PAIRS}


@pytest.fixture(autouse=True)
def _long_document_of_this_models_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """Still too long for 8,192 tokens, and a fifth of the time; the real one runs in tests/engine."""
    monkeypatch.setattr(startup_check, "_LONG_DOCUMENT", "water " * 9_000)


class FakeEngine(Engine):
    """Knows the relevant documents; `broken` makes what it answers from what it should."""

    def __init__(self, broken: Callable[[FloatArray, int], FloatArray] = lambda logits, call: logits) -> None:
        self.broken = broken
        self.calls: list[int] = []
        """Pairs of each call."""

    async def score(self, shard: Shard) -> FloatArray:
        documents = [shard.tokens[a:b] for a, b in zip(shard.offsets, shard.offsets[1:], strict=False)]
        logits = [(5 if d.tobytes() in RELEVANT else -5) * (1 + len(d) / 100) for d in documents]
        self.calls.append(len(shard))
        return self.broken(np.array(logits, dtype=np.float32), len(self.calls))


class BrokenRenderer(PromptRenderer):
    """The real renderer, with its prompts changed."""

    def __init__(self, change: Callable[[RenderedList], RenderedList]) -> None:
        self.change = change

    def render(
        self,
        query: str,
        documents: Sequence[str],
        instruction: str | None = None,
        cutting: CuttingPolicy = CUT_THE_END,
    ) -> RenderedList:
        return self.change(RENDERER.render(query, documents, instruction, cutting))


def _with_tail(rendered: RenderedList, tail: Sequence[int]) -> RenderedList:
    return replace(rendered, prompts=replace(rendered.prompts, tail=np.array(tail, dtype=np.int32)))


def _refusal(engine: Engine, renderer: PromptRenderer = RENDERER) -> StartupCheckError:
    with pytest.raises(StartupCheckError) as refused:
        require_sane(engine, renderer, TOLERANCE)
    return refused.value


def test_sane_engine_passes() -> None:
    """With few pairs, as every start of every replica waits for them."""
    engine = FakeEngine()
    require_sane(engine, RENDERER, TOLERANCE)
    assert sum(engine.calls) <= 24


async def test_check_can_be_waited_for_inside_a_running_loop() -> None:
    """Serve calls a replica's constructor from a coroutine."""
    require_sane(FakeEngine(), RENDERER, TOLERANCE)


async def test_every_check_reports_what_it_measured() -> None:
    """`reranker check` prints them all, also when nothing is wrong."""
    results = await run_checks(FakeEngine(), RENDERER, TOLERANCE)
    assert [result.name for result in results] == ["tail", "finite", "spread", "separation", "batch", "repetition"]
    assert all(result.measured and result.cause is None for result in results)


BREAKAGES: dict[str, tuple[Callable[[FloatArray, int], FloatArray], str, str]] = {
    "not a number": (lambda logits, call: logits * np.float32(np.nan), "finite", "quantization"),
    "one infinity": (lambda logits, call: np.where(logits < -5, np.float32(-np.inf), logits), "finite", "float16"),
    "head of zeros": (lambda logits, call: logits * 0, "spread", "head of zeros"),
    "0.5 or 1 for everything": (
        lambda logits, call: np.where(logits > 0, logits * 9, np.float32(0)),
        "spread",
        "quantization",
    ),
    "the same for everything": (lambda logits, call: logits * 0 - 2.2, "spread", "no template"),
    "yes and no swapped": (lambda logits, call: -logits, "separation", "swapped"),
    "little difference": (lambda logits, call: logits * np.float32(0.05), "separation", "no template"),
    "one pair in the wrong order": (
        lambda logits, call: -logits if call in (1, 2, 9, 13) else logits,
        "separation",
        "not a reranker",
    ),
    "neighbours disturb": (lambda logits, call: logits + len(logits) / 10, "batch", "disturb each other"),
    "random noise": (
        lambda logits, call: logits + np.float32(0.1 * (call > 12)),
        "repetition",
        "differently each time",
    ),
}


@pytest.mark.parametrize(("broken", "check", "cause"), BREAKAGES.values(), ids=BREAKAGES)
def test_broken_engine_is_refused_with_its_cause(
    broken: Callable[[FloatArray, int], FloatArray], check: str, cause: str
) -> None:
    """A plausible number that is wrong is worse than no service."""
    refused = _refusal(FakeEngine(broken))
    assert refused.check == check
    assert cause in refused.cause
    assert refused.cause in str(refused)


def test_prompts_without_a_tail_are_refused() -> None:
    """Query and document in one string: what a server does that was not told of the template."""
    refused = _refusal(FakeEngine(), BrokenRenderer(lambda rendered: _with_tail(rendered, [])))
    assert (refused.check, refused.cause.split(":")[0]) == ("tail", "no template")


def test_tail_may_have_the_query_in_it() -> None:
    """As where the document comes first: ctxl-rerank-v2."""

    def document_first(rendered: RenderedList) -> RenderedList:
        return _with_tail(rendered, [*rendered.prompts.head, *rendered.prompts.tail])

    require_sane(FakeEngine(), BrokenRenderer(document_first), TOLERANCE)


def test_truncation_that_takes_the_tail_is_refused() -> None:
    """A limit on the whole prompt takes its end, where the answer is read."""

    def cut(rendered: RenderedList) -> RenderedList:
        return _with_tail(rendered, rendered.prompts.tail[:-2].tolist()) if rendered.truncated else rendered

    refused = _refusal(FakeEngine(), BrokenRenderer(cut))
    assert refused.check == "tail"
    assert "truncation" in refused.cause


def test_prompt_without_room_for_a_document_is_refused() -> None:
    """Every list would be answered 400 for its query; it is the configuration that is wrong."""
    refused = _refusal(FakeEngine(), PromptRenderer(DEMO_MODEL, 64, ModelConfig().instruction))
    assert "max_pair_tokens" in refused.cause


def test_engine_that_fails_meanwhile_is_not_called_a_bad_model() -> None:
    def fail(logits: FloatArray, call: int) -> FloatArray:
        raise EngineFailedError

    with pytest.raises(EngineFailedError):
        require_sane(FakeEngine(fail), RENDERER, TOLERANCE)


def test_reduced_precision_is_given_more_room() -> None:
    """In bfloat16 the same pair moves by hundredths with the batch it is in; that is no breakage."""

    def rounded(logits: FloatArray, call: int) -> FloatArray:
        return logits + 0.1 * (len(logits) > 1)

    require_sane(FakeEngine(rounded), RENDERER, tolerance_for("auto"))
    require_sane(FakeEngine(rounded), RENDERER, tolerance_for("bfloat16"))
    require_sane(FakeEngine(rounded), RENDERER, tolerance_for("float32", "fp8"))
    assert tolerance_for("float32") < tolerance_for("float32", device="cuda") < tolerance_for("float16", device="cuda")
    assert _refusal(FakeEngine(rounded)).check == "batch"
