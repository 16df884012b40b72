"""The worked examples of search are whole: judgments name documents that are there, the configuration is right."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from reranker.config import RerankerConfig
from reranker.offline import evaluation
from reranker.search.documents import Document, find_sources, read_documents
from tools.retrieval_table import CONFIG, EXAMPLES, PAGE, SETS, JudgedSet


@pytest.mark.parametrize("one", SETS, ids=[one.name for one in SETS])
def test_judgments_name_queries_and_documents_that_are_there(one: JudgedSet) -> None:
    records = [record for source in find_sources(one.documents) for record in read_documents(source, one.fields)]
    documents = {record.id for record in records if isinstance(record, Document)}
    assert len(documents) == len(records)  # nothing is left out, and no id is there twice
    judgments = evaluation.read_judgments(str(one.folder / "qrels" / "test.tsv"))
    queries = evaluation.read_texts(str(one.folder / "queries.jsonl"), set(judgments))
    assert queries.keys() == judgments.keys()
    assert {document for judged in judgments.values() for document in judged} <= documents


def test_configuration_of_the_examples_has_their_indexes_and_rules() -> None:
    application, _playground = yaml.safe_load(CONFIG.read_text())["applications"]
    config = RerankerConfig.model_validate(application["args"])
    examples = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert set(config.search.indexes) == examples == {"patents", "medical", "docs"}
    assert [rule.name for rule in config.rules.exclude] == ["withdrawn", "only-links"]
    assert config.search.indexes["patents"].instruction == "@patent"


def test_page_has_a_place_for_the_table() -> None:
    assert "<!-- retrieval -->" in Path(PAGE).read_text()
