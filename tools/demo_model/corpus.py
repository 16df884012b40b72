"""The texts that the model is made from, where each comes from, and what is held out of everything but the last table.

Only counts of these texts are committed: the merges in tokenizer.json and the numbers in token_frequencies.tsv. The
installed packages differ from machine to machine, which is why both results are.
"""

import ast
import hashlib
import importlib.util
import json
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

TEXTS = Path(__file__).parent / "texts"
COLLECTIONS = {"en": "medquad.jsonl", "zh": "cmrc.jsonl"}

# Passages are compared as windows: a long answer would otherwise win or lose by its length alone. Characters.
WINDOW_CHARS = {"en": 420, "zh": 130}

_HELD_OUT_ONE_IN = 12


@dataclass(frozen=True, slots=True)
class Pair:
    """A question, and a passage that answers it."""

    query: str
    document: str


def is_held_out(document: str) -> bool:
    """Say whether a document belongs to the test; decided by its text, so that a duplicate cannot be on both sides."""
    digest = hashlib.sha256(document.encode()).digest()
    return int.from_bytes(digest[:4], "big") % _HELD_OUT_ONE_IN == 0


def read_pairs(data: Path, language: str, *, held_out: bool) -> list[Pair]:
    lines = (data / COLLECTIONS[language]).read_text(encoding="utf-8").splitlines()
    pairs = [Pair(row["query"], row["document"]) for row in map(json.loads, lines)]
    return [pair for pair in pairs if is_held_out(pair.document) == held_out]


def windows(text: str, size: int) -> Iterator[str]:
    """Cut a text into consecutive windows of `size` characters; a short last piece joins nothing and is dropped."""
    for start in range(0, max(1, len(text) - size // 2), size):
        yield text[start : start + size]


def unique(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(texts))


# Packages whose docstrings stand for technical English, with their licences (from their own metadata).
DOCSTRING_PACKAGES = {
    "aiohttp": "Apache-2.0",
    "jinja2": "BSD-3-Clause",
    "networkx": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "pydantic": "MIT",
    "ray": "Apache-2.0",
    "sympy": "BSD-3-Clause",
    "torch": "BSD-3-Clause",
    "transformers": "Apache-2.0",
}
_PARAGRAPHS_PER_PACKAGE = 2_000  # so that no package's habits dominate
_PARAGRAPHS_FROM_STDLIB = 8_000
_SHORTEST_PARAGRAPH_CHARS = 80
_NOT_DOCUMENTATION = {"test", "tests", "testing", "site-packages", "__pycache__", "idle_test", "_vendor", "lib2to3"}


@dataclass(frozen=True, slots=True)
class Texts:
    """Everything that is counted; each field is one collection with its own document frequencies."""

    questions_en: Sequence[str]
    questions_zh: Sequence[str]
    passages_en: Sequence[str]
    passages_zh: Sequence[str]
    technical_en: Sequence[str]
    claims_en: Sequence[str]
    claims_zh: Sequence[str]


def gather(data: Path) -> Texts:
    """Read every collection; the held-out documents and their questions are in none of them."""
    english, chinese = (read_pairs(data, language, held_out=False) for language in ("en", "zh"))
    return Texts(
        questions_en=unique([pair.query for pair in english]),
        questions_zh=unique([pair.query for pair in chinese]),
        passages_en=_document_windows(english, "en"),
        passages_zh=_document_windows(chinese, "zh"),
        technical_en=[paragraph[: WINDOW_CHARS["en"]] for paragraph in technical_paragraphs()],
        claims_en=lines_of("claims_en.txt"),
        claims_zh=lines_of("claims_zh.txt"),
    )


def lines_of(name: str) -> list[str]:
    return read_list(TEXTS / name)


def read_list(path: Path) -> list[str]:
    """Read a hand-written list: one entry a line, `#` starts a comment line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _document_windows(pairs: Sequence[Pair], language: str) -> list[str]:
    documents = unique([pair.document for pair in pairs])
    return [window for document in documents for window in windows(document, WINDOW_CHARS[language])]


def technical_paragraphs() -> list[str]:
    """Sample docstring paragraphs of the standard library (PSF licence) and of each of DOCSTRING_PACKAGES."""
    paragraphs = _sample(_docstring_paragraphs(Path(sysconfig.get_paths()["stdlib"])), _PARAGRAPHS_FROM_STDLIB)
    for package in DOCSTRING_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise RuntimeError(f"{package} is not installed; the committed counts include it")
        paragraphs += _sample(_docstring_paragraphs(Path(spec.origin).parent), _PARAGRAPHS_PER_PACKAGE)
    return paragraphs


def _docstring_paragraphs(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        if _NOT_DOCUMENTATION.intersection(path.relative_to(root).parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue  # templates and files for other Python versions
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                paragraphs = (ast.get_docstring(node) or "").split("\n\n")
                yield from (text for text in paragraphs if len(text) >= _SHORTEST_PARAGRAPH_CHARS)


def _sample(paragraphs: Iterator[str], size: int) -> list[str]:
    """Keep `size` different paragraphs, chosen by their own hash: no seed, and stable when one of them changes."""
    return sorted(set(paragraphs), key=lambda text: hashlib.sha256(text.encode()).digest())[:size]


def chinese_characters() -> list[str]:
    """Return the 6,763 characters of GB 2312, so that each becomes a vocabulary entry of its own."""
    cells = ((row, column) for row in range(0xB0, 0xF8) for column in range(0xA1, 0xFF))
    decoded = (bytes(cell).decode("gb2312", errors="ignore") for cell in cells)
    return [character for character in decoded if character]


def chinese_character_rates() -> dict[str, float]:
    """Return each character's share of running text, from the word counts in jieba's dictionary (MIT licence)."""
    import jieba

    counts: dict[str, int] = {}
    lines = (Path(jieba.__file__).parent / "dict.txt").read_text(encoding="utf-8").splitlines()
    for line in lines:
        word, count, _part_of_speech = line.split()
        for character in word:
            counts[character] = counts.get(character, 0) + int(count)
    total = sum(counts.values())
    return {character: count / total for character, count in counts.items()}
