"""The checks that `make check` relies on must be able to fail."""

from pathlib import Path

import pytest

from tools import docs

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
