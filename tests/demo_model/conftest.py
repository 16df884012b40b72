"""The committed model in float32, and a look inside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tests.demo_model.trace import Trace, Tracer
from tools.demo_model.scorer import Scorer


@pytest.fixture(scope="session")
def scorer() -> Scorer:
    """The model as its own tools run it."""
    torch.set_num_threads(1)
    return Scorer()


@pytest.fixture(scope="session")
def trace(scorer: Scorer) -> Callable[[str, str], Trace]:
    """Trace one query and document."""
    tracer = Tracer(scorer.tokenizer)
    return lambda query, document: tracer(scorer.prompt(query, document))
