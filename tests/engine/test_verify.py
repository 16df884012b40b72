"""`reranker verify` on the real vLLM, beside the real libraries."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deployments.cli.main import main
from reranker.config import ModelConfig
from reranker.model.checkpoint import DEMO_MODEL
from reranker.offline import reference
from reranker.offline.reference import SentenceTransformersReference
from reranker.offline.verification import read_reference, texts

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and what it imports warn of their own affairs


def test_demo_model_is_verified_beside_both_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The engine is compared with Transformers' file, and some of that with Sentence Transformers, which is slow."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a replica; two threads on busy cores spin
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(reference, "_has_sentence_transformers", lambda: False)
    file = tmp_path / "reference.json"
    assert main(["verify", "demo", "--quick", "--write-reference", str(file)]) == 0
    assert main(["verify", "demo", "--quick", "--reference", str(file)]) == 0
    assert capsys.readouterr().out.strip().rpartition("\n")[2].startswith("verified: demo scores as Transformers")
    assert len(list((tmp_path / "reranker" / "verified").iterdir())) == 1
    other, written = SentenceTransformersReference(str(DEMO_MODEL), None), read_reference(file)
    for kind in ("code", "Japanese"):
        query, documents = texts()[kind]
        for document, pair in zip(documents, written.pairs[kind], strict=True):
            inputs = other.inputs(query, document, ModelConfig().instruction)
            assert inputs.ids == pair.ids
            assert other.logit(inputs) == pytest.approx(pair.logit, abs=1e-3)
