"""What a visitor sends: documents typed, from a file or from an example, and the request as code to copy. Pure."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Document = str | dict[str, Any]
"""Any: JSON. An object goes to the service as it is: its `text`, or all of it as YAML."""


@dataclass(frozen=True, slots=True)
class Example:
    """A ready list: candidates in the order that a first stage might give them."""

    title: str
    query: str
    documents: Sequence[str]
    instruction: str
    """Empty: the service's default."""


@dataclass(frozen=True, slots=True)
class SearchExample:
    """A worked example of a search (examples/search), and what its tab begins with."""

    title: str
    index: str
    queries: Sequence[str]
    instruction: str
    threshold: float
    answers: bool
    """Show what a language model would be asked with the passages of the results."""


_EXAMPLES: dict[str, Any] = json.loads(Path(__file__).with_name("examples.json").read_text(encoding="utf-8"))
EXAMPLES = {one["title"]: Example(**one) for one in _EXAMPLES["lists"]}
SEARCH_EXAMPLES = [SearchExample(**one) for one in _EXAMPLES["searches"]]
PRESETS: list[str] = _EXAMPLES["presets"]
"""Instructions; `model.instructions` names the first four of them, too. All are sent as texts."""

_TEXT_COLUMNS = ("text", "document", "content", "passage", "body", "abstract", "description", "title")
_LINE_END = re.compile(r"\r\n|\r|\n")  # not splitlines(): it tears texts at U+2028 and others
_END = "END_OF_REQUEST"  # no line of JSON is this: texts are in quotes


class UnreadableError(ValueError):
    """What is in a file cannot be read as documents; the sentence says where and what to do."""


def parse_documents(text: str) -> list[Document]:
    """Read documents one a line, empty lines left out; as JSON where every line is a JSON string or object."""
    lines = _lines(text)
    if all(line[0] in '{"' for line in lines):
        with contextlib.suppress(ValueError):
            documents = [json.loads(line) for line in lines]
            if all(isinstance(one, str | dict) for one in documents):
                return documents
    return [*lines]


def format_documents(documents: Sequence[Document]) -> str:
    """Write documents so that `parse_documents` reads the same again: as plain lines where that is possible."""
    plain = "\n".join(one for one in documents if isinstance(one, str))
    if parse_documents(plain) == list(documents):
        return plain
    return "\n".join(json.dumps(one, ensure_ascii=False) for one in documents)


def text_of(document: Document) -> str:
    """What a person is shown of a document."""
    if isinstance(document, str):
        return document
    text = document.get("text")
    return text if isinstance(text, str) else "\n".join(f"{key}: {value}" for key, value in document.items())


def read_file(name: str, content: str) -> list[Document]:
    """Read the documents in a file, of the kind that its name's end says; raises UnreadableError."""
    content = content.removeprefix("\ufeff")
    documents: list[Document]
    match name.lower().rpartition(".")[2]:
        case "jsonl" | "ndjson":
            documents = list(_json_lines(content))
        case "csv":
            head = content.split("\n", 1)[0]
            documents = _table(content, ";" if head.count(";") > head.count(",") else ",")
        case "tsv":
            documents = _table(content, "\t")
        case "txt":
            documents = [*_lines(content)]
        case _:
            raise UnreadableError("Files of this kind cannot be read. Open one of .txt, .csv, .tsv, .jsonl, .ndjson.")
    if not documents:
        raise UnreadableError("There is no document in this file.")
    return documents


def _lines(text: str) -> list[str]:
    return [line.strip() for line in _LINE_END.split(text) if line.strip()]


def _json_lines(content: str) -> Iterator[Document]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            one = json.loads(line)
        except ValueError:
            raise UnreadableError(f"Line {number} is not JSON.") from None
        if not isinstance(one, str | dict):
            raise UnreadableError(f"Line {number} is neither a string nor an object.")
        yield one


def _table(content: str, separator: str) -> list[Document]:
    """The column that has a text's name, or the only one; else whole rows, as objects by their column's names."""
    try:
        rows = [row for row in csv.reader(io.StringIO(content), delimiter=separator, strict=True) if any(row)]
    except csv.Error as error:
        raise UnreadableError(f"This is not CSV: {error}.") from None
    names = [name.strip() for name in rows[0]] if rows else []
    known = {name.lower(): place for place, name in enumerate(names)}
    place = next((known[column] for column in _TEXT_COLUMNS if column in known), None)
    if place is None and len(names) != 1:
        return [{name: value for name, value in zip(names, row, strict=False) if value} for row in rows[1:]]
    texts = rows if place is None else rows[1:]
    return [row[place or 0].strip() for row in texts if len(row) > (place or 0) and row[place or 0].strip()]


def curl_command(url: str, body: dict[str, Any], *, key: bool) -> str:
    """Write the request as a shell command. No key is ever in it: where one is needed it is in RERANKER_API_KEY."""
    authorization = ' -H "Authorization: Bearer $RERANKER_API_KEY"' if key else ""
    shown = json.dumps(body, ensure_ascii=False, indent=2)
    # From standard input: an argument of a command may not be longer than 128 KiB.
    return (
        f"curl {shlex.quote(f'{url}/v1/rerank')} -H 'Content-Type: application/json'{authorization} "
        f"--data-binary @- <<'{_END}'\n{shown}\n{_END}\n"
    )


def python_program(url: str, body: dict[str, Any], *, key: bool) -> str:
    """Write the request as a program, with httpx and nothing else; see `curl_command`."""
    headers = '\n    headers={"Authorization": f"Bearer {os.environ[\'RERANKER_API_KEY\']}"},' if key else ""
    documents = "".join(f"        {one!r},\n" for one in body["documents"])
    fields = "".join(f"    {name!r}: {value!r},\n" for name, value in body.items() if name != "documents")
    return f"""\
{"import os" + chr(10) * 2 if key else ""}import httpx  # pip install httpx

body = {{
{fields}    'documents': [
{documents}    ],
}}
response = httpx.post(
    {url + "/v1/rerank"!r},
    json=body,{headers}
    timeout=130,
)
response.raise_for_status()
for result in response.json()["results"]:
    print(f"{{result['relevance_score']:.3f}}  {{result['index']}}")
"""
