"""The checks that `make check` relies on must be able to fail."""

from pathlib import Path

import pytest

from tools import docs, house

ROOT = Path(__file__).parents[2]


def test_configuration_page_is_fresh() -> None:
    """The page in docs/ says what the code says: every key with its default."""
    page = docs.configuration_page()
    assert docs.CONFIGURATION.read_text(encoding="utf-8") == page
    assert "| `max_documents` | `10000` |" in page


def test_stale_page_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale = tmp_path / "configuration.md"
    stale.write_text("old")
    monkeypatch.setattr(docs, "CONFIGURATION", stale)
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["docs", "--check"])
    assert docs.main() == 1


def test_error_outside_its_file_is_noticed(tmp_path: Path) -> None:
    """Also one that derives from RerankerError by another class."""
    (tmp_path / "reranker").mkdir()
    (tmp_path / "reranker" / "errors.py").write_text(
        "class RerankerError(Exception): ...\nclass One(RerankerError): ...\n"
    )
    (tmp_path / "reranker" / "other.py").write_text("class Two(errors.One): ...\nclass Three(ValueError): ...\n")
    assert house.stray_errors(tmp_path) == ["reranker/other.py:Two"]


@pytest.mark.parametrize(
    ("row", "missing"),
    [
        ("`here.py:Ranker`", []),
        ("`here.py:Ranker.rank`", []),
        ("`here.py:LIMIT`", []),
        ("`here.py:Ranger`", ["here.py:Ranger"]),
        ("`gone.py:Ranker`", ["gone.py:Ranker"]),
        ("Ranker", ["the glossary has no `path:Name`"]),
    ],
)
def test_word_that_the_code_does_not_have_is_noticed(tmp_path: Path, row: str, missing: list[str]) -> None:
    (tmp_path / "here.py").write_text("LIMIT: int = 3\nclass Ranker:\n    def rank(self): ...\n")
    page = f"## Glossary\n\n| word | where | meaning |\n|---|---|---|\n| ranker | {row} | ranks |\n\n## More\n"
    assert list(house.missing_words(page, tmp_path)) == missing


def test_page_without_a_glossary_is_noticed(tmp_path: Path) -> None:
    assert list(house.missing_words("# Architecture\n", tmp_path)) == ["docs/architecture.md has no glossary"]
