"""The house's numbers: fail when the code grows past them, runs in a circle, or leaves its glossary behind."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
PRODUCT, AROUND = ("reranker", "deployments"), ("benchmarks", "tools")
MAX_FILES, MAX_FILE_LINES, MAX_LAYERS, MAX_AROUND_LINES = 138, 400, 12, 9_180
MAX_LINES = 24_463  # what there is, rounded up; the work of an issue adds what it needs, and says so in its commit

_ROW = re.compile(r"^\|[^|]+\| *`([^`:]+):([\w.]+)`", re.MULTILINE)


def lines_of(*packages: str, root: Path = ROOT) -> dict[str, int]:
    paths = [path for package in packages for path in sorted((root / package).rglob("*.py"))]
    return {str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines()) for path in paths}


def stray_errors(root: Path = ROOT) -> list[str]:
    """Classes that derive from RerankerError outside reranker/errors.py; private ones never leave their module."""
    bases: dict[tuple[str, str], set[str]] = {}
    for path in lines_of(*PRODUCT, root=root):
        for node in ast.walk(ast.parse((root / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[path, node.name] = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    errors = {"RerankerError"}
    while more := {name for (_, name), of in bases.items() if of & errors} - errors:
        errors |= more
    return [
        f"{path}:{name}" for path, name in bases if name in errors and path != "reranker/errors.py" and name[0] != "_"
    ]


def circles() -> list[str]:
    """A circle of modules that import each other; none where there is none."""
    graph = grimp.build_graph(*PRODUCT)
    try:
        TopologicalSorter({one: graph.find_modules_directly_imported_by(one) for one in graph.modules}).prepare()
    except CycleError as error:
        return [" -> ".join(reversed(error.args[1]))]
    return []


def missing_words(page: str, root: Path = ROOT) -> Iterator[str]:
    """Rows `| word | `path:Name` | meaning |` of the page's glossary whose path does not define the name."""
    _, found, glossary = page.partition("## Glossary\n")
    rows = _ROW.findall(glossary.partition("\n## ")[0])
    if not rows:
        yield "docs/architecture.md has no glossary" if not found else "the glossary has no `path:Name`"
    for path, name in rows:
        tree = ast.parse((root / path).read_text(encoding="utf-8")) if (root / path).is_file() else ast.Module([], [])
        if name not in set(_names(tree)):
            yield f"{path}:{name}"


def _names(tree: ast.AST, inside: str = "") -> Iterator[str]:
    """What a module defines, methods and fields as Class.name."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield inside + node.name
            if isinstance(node, ast.ClassDef):
                yield from _names(node, f"{inside}{node.name}.")
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (inside + one.id for one in targets if isinstance(one, ast.Name))


def main() -> int:
    """Print each number beside its limit; exit status 1 when one is over."""
    files, around = lines_of(*PRODUCT), lines_of(*AROUND)
    longest = max(files, key=lambda path: files[path])
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one["type"] == "layers")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = {
        "circles of imports": circles(),
        "errors outside reranker/errors.py": stray_errors(),
        "words of the glossary that are not in the code": list(missing_words(page)),
    }
    numbers = [
        ("Python files of the product", len(files), MAX_FILES, ""),
        ("their lines", sum(files.values()), MAX_LINES, ""),
        ("lines of the longest", files[longest], MAX_FILE_LINES, longest),
        ("layers of imports", len(layers), MAX_LAYERS, ""),
        ("lines of benchmarks/ and tools/", sum(around.values()), MAX_AROUND_LINES, ""),
        *((what, len(names), 0, ", ".join(names)) for what, names in found.items()),
    ]
    for what, number, limit, where in numbers:
        print(f"{'ok  ' if number <= limit else 'OVER'} {what}: {number:,} of {limit:,} {where}".rstrip())
    return int(any(number > limit for _, number, limit, _ in numbers))


if __name__ == "__main__":
    sys.exit(main())
