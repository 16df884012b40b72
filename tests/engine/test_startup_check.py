"""The check at start-up on the real vLLM: the bundled model passes, three broken ones are refused with their cause."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from deployments.cli.rankers import LocalReranker, open_local
from reranker.config import RerankerConfig
from reranker.engine.startup_check import FLOAT32_TOLERANCE, require_sane, run_checks
from reranker.errors import StartupCheckError
from reranker.model.checkpoint import DEMO_MODEL
from reranker.model.prompt import CUT_THE_END, CuttingPolicy, PromptRenderer
from reranker.types import RenderedList, Shard, TokenArray
from tests.broken_models import Change, broken_copy, clear_yes_and_no, swap_yes_and_no

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and what it imports warn of their own affairs


@contextlib.contextmanager
def _opened(model: str, dtype: str = "float32") -> Iterator[LocalReranker]:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a replica; two threads on busy cores spin
    config = RerankerConfig.model_validate({"model": {"name": model, "dtype": dtype}})
    with open_local(config) as local:
        yield local


@pytest.fixture(scope="module")
def demo() -> Iterator[LocalReranker]:
    """The bundled model, as a replica loads it."""
    with _opened("demo") as local:
        yield local


async def test_good_model_passes(demo: LocalReranker) -> None:
    """Waiting inside a running loop, as in Serve."""
    require_sane(demo.engine, demo.renderer, demo.tolerance)
    results = await run_checks(demo.engine, demo.renderer, demo.tolerance)
    assert [result.cause for result in results] == [None] * len(results)


@pytest.mark.parametrize("tail", ["", "."], ids=["nothing after the document", "a full stop after the document"])
def test_missing_template_is_refused(demo: LocalReranker, tail: str) -> None:
    """What a server does that was not told of a template: query and document, one after the other."""
    tokenizer = Tokenizer.from_file(str(DEMO_MODEL / "tokenizer.json"))

    def ids(text: str) -> TokenArray:
        return np.array(tokenizer.encode(text, add_special_tokens=False).ids, dtype=np.int32)

    class Concatenating(PromptRenderer):
        def render(
            self,
            query: str,
            documents: Sequence[str],
            instruction: str | None = None,
            cutting: CuttingPolicy = CUT_THE_END,
        ) -> RenderedList:
            rendered = super().render(query, documents, instruction, cutting)
            whole = rendered.prompts
            return RenderedList(
                Shard(ids(f"{query}\n"), ids(tail), whole.tokens, whole.offsets),
                rendered.document_of_pair,
                rendered.truncated,
            )

    with pytest.raises(StartupCheckError) as refused:
        require_sane(
            demo.engine, Concatenating(DEMO_MODEL, 8_192, RerankerConfig().model.instruction), FLOAT32_TOLERANCE
        )
    assert refused.value.check == ("spread" if tail else "tail")
    assert refused.value.cause.startswith("no template")


# Below here no test may use `demo`: closing a second engine takes vLLM's process-wide state from the first.


def test_good_model_passes_in_bfloat16() -> None:
    """Rounding is no breakage."""
    with _opened("demo", "bfloat16") as local:
        require_sane(local.engine, local.renderer, local.tolerance)


@pytest.mark.parametrize(
    ("change", "check", "cause"),
    [
        # The worst document comes first, with a high score.
        (swap_yes_and_no, "separation", "yes and no are swapped in the head"),
        # 0.5 for every document: a conversion that lost the head, or a quantization that rounded it away.
        (clear_yes_and_no, "spread", "a head of zeros (the yes and no rows of the checkpoint are empty)"),
    ],
)
def test_broken_head_is_refused_with_its_cause(tmp_path: Path, change: Change, check: str, cause: str) -> None:
    """Neither raises anything in vLLM."""
    with _opened(str(broken_copy(tmp_path, change))) as local, pytest.raises(StartupCheckError) as refused:
        require_sane(local.engine, local.renderer, FLOAT32_TOLERANCE)
    assert refused.value.check == check
    assert refused.value.cause.startswith(cause)
