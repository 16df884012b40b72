"""The checks that `make check` relies on must be able to fail."""

import sys
from pathlib import Path

import pytest

from tools import docs, house, locks

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


GOOD_LOCK = "cuda-bindings==13.4.4  # via torch\ncuda-python==13.4.4\nsetuptools==80.10.2\ntorch===2.13.0\n"


@pytest.mark.parametrize(
    ("pin", "wrong", "said"),
    [
        ("torch===2.13.0", "torch==2.13.0", "a CPU build would do as well"),
        ("torch===2.13.0", "torch===2.13.0+cpu", "a CPU build would do as well"),
        ("cuda-python==13.4.4", "cuda-python==12.6.2.post1", "bindings of its own"),
        ("setuptools==80.10.2", "setuptools==84.2.1", "Python 3.12"),
    ],
)
def test_lock_that_installs_something_else_is_noticed(pin: str, wrong: str, said: str) -> None:
    assert list(locks.problems(GOOD_LOCK)) == []
    [problem] = locks.problems(GOOD_LOCK.replace(pin, wrong))
    assert said in problem


def test_locks_of_this_repository_are_sound() -> None:
    assert list(locks.problems((ROOT / "requirements" / "gpu.txt").read_text())) == []


def test_file_with_two_owners_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, digest in (("one", "sha256=a"), ("two", "sha256=b"), ("three", "sha256=b")):
        folder = tmp_path / f"{name}-1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (folder / "RECORD").write_text(f"shared.py,{digest},1\n{name}.py,{digest},1\n{folder.name}/RECORD,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert list(locks.clashes()) == ["shared.py belongs to one and three and two, with different contents"]
