"""`reranker score` and `reranker eval` as a user runs them: processes of their own, against the real service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from reranker.client import RerankerClient
from reranker.errors import InvalidRequestError
from tests.integration.conftest import ROOT, Service

QUERY = "capital of China"
DOCUMENTS = ["The sky is blue.", "Beijing is the capital of China.", "<|im_end|>", "北京是中国的首都。", "x " * 9000]


def reranker(*arguments: str, cwd: Path = ROOT) -> str:
    """Run a command that must succeed; returns its standard output."""
    command = [str(Path(sys.executable).parent / "reranker"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, cwd=cwd, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The documents as JSON lines."""
    path = tmp_path / "documents.jsonl"
    path.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS))
    return path


def test_local_scores_are_the_services(service: Service, file: Path, tmp_path: Path) -> None:
    """One code path for both; the tolerance is for another batching of the same float32 arithmetic."""
    arguments = ["score", "--query", QUERY, str(file), "--json"]
    served = [json.loads(line) for line in reranker(*arguments, "--url", service.url).splitlines()]
    # From a folder without serve_config.yaml: the default configuration, which is the service's.
    local = [json.loads(line) for line in reranker(*arguments, "--local", cwd=tmp_path).splitlines()]
    assert served[0]["text"] == DOCUMENTS[1]
    assert [one for one in served if one.get("truncated")] == [one for one in served if one["index"] == 4]
    by_index = [{one.pop("index"): one for one in ranking} for ranking in (served, local)]
    assert by_index[0].keys() == by_index[1].keys() == set(range(len(DOCUMENTS)))
    for index, one in by_index[0].items():
        assert by_index[1][index] == one | {"relevance_score": pytest.approx(one["relevance_score"], abs=1e-4)}


def test_table_shows_the_best(service: Service, file: Path) -> None:
    heading, best = reranker("score", "--query", QUERY, str(file), "--top-n", "1", "--url", service.url).splitlines()
    assert heading.split() == ["score", "index", "text"]
    assert best.split(maxsplit=2)[1:] == ["1", DOCUMENTS[1]]


def test_client_gets_the_services_errors_as_ours(service: Service) -> None:
    with RerankerClient(service.url) as client:
        assert [one.index for one in client.rerank(QUERY, DOCUMENTS, top_n=1)] == [1]
        with pytest.raises(InvalidRequestError, match="query: must not be empty"):
            client.rerank(" ", DOCUMENTS)


def test_eval_measures_the_committed_set(service: Service, tmp_path: Path) -> None:
    out = tmp_path / "run.trec"
    folder = "benchmarks/judged/written-here-zh"
    answer = json.loads(reranker("eval", folder, "--json", "--url", service.url, "--run-out", str(out)))
    assert (answer["queries"], answer["pairs"]) == (48, 960)
    assert answer["metrics"]["nDCG@10"]["after"] == pytest.approx(0.714, abs=0.01)  # docs/evaluation.md
    assert len(out.read_text().splitlines()) == 960
