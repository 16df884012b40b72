"""`reranker verify` on the real vLLM, beside the real libraries."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from deployments.cli.main import main
from reranker.offline import reference
from reranker.offline.verification import read_reference

pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and what it imports warn of their own affairs


def test_demo_model_is_verified_beside_both_libraries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both make the same ids and logits of it; the engine is compared with Transformers', read from its file."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # as in a replica; two threads on busy cores spin
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = {found: str(tmp_path / f"{found}.json") for found in (True, False)}
    for found, file in files.items():
        monkeypatch.setattr(reference, "_has_sentence_transformers", lambda found=found: found)
        assert main(["verify", "demo", "--quick", "--write-reference", file]) == 0
    sentence, plain = (read_reference(Path(file)) for file in files.values())
    assert (sentence.made_by.split()[0], plain.made_by.split()[0]) == ("Sentence", "Transformers")
    for kind, pairs in sentence.pairs.items():
        assert [one.ids for one in pairs] == [one.ids for one in plain.pairs[kind]], kind
        logits = [[one.logit for one in side] for side in (pairs, plain.pairs[kind])]
        np.testing.assert_allclose(*logits, atol=1e-3, err_msg=kind)
    assert main(["verify", "demo", "--quick", "--reference", files[False]]) == 0
    assert capsys.readouterr().out.strip().rpartition("\n")[2].startswith("verified: demo scores as Transformers")
    assert len(list((tmp_path / "reranker" / "verified").iterdir())) == 1
