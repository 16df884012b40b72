"""A request as a person would send it: with curl, and from Python. Pure. No key is ever in it."""

from __future__ import annotations

import json
import shlex
from typing import Any

_END = "END_OF_REQUEST"  # no line of JSON is this: texts are in quotes


def curl(url: str, body: dict[str, Any], *, key: bool) -> str:
    """Write the shell command.

    Args:
        url: Where the service is, as the visitor's browser sees it.
        body: The request.
        key: Whether the service needs one: then it is taken from RERANKER_API_KEY.
    """
    authorization = ' -H "Authorization: Bearer $RERANKER_API_KEY"' if key else ""
    shown = json.dumps(body, ensure_ascii=False, indent=2)
    # From standard input: an argument of a command may not be longer than 128 KiB.
    return (
        f"curl {shlex.quote(f'{url}/v1/rerank')} -H 'Content-Type: application/json'{authorization} "
        f"--data-binary @- <<'{_END}'\n{shown}\n{_END}\n"
    )


def python(url: str, body: dict[str, Any], *, key: bool) -> str:
    """Write the program, with httpx and nothing else; see `curl`."""
    headers = '\n    headers={"Authorization": f"Bearer {os.environ[\'RERANKER_API_KEY\']}"},' if key else ""
    return f"""\
{"import os" + chr(10) * 2 if key else ""}import httpx  # pip install httpx

body = {_literal(body)}
response = httpx.post(
    {url + "/v1/rerank"!r},
    json=body,{headers}
    timeout=130,
)
response.raise_for_status()
for result in response.json()["results"]:
    print(f"{{result['relevance_score']:.3f}}  {{result['index']}}")
"""


def _literal(value: Any, indent: str = "") -> str:  # Any: JSON
    """Write a value as Python, an item a line, as `json.dumps` would as JSON."""
    inner = f"{indent}    "
    if isinstance(value, dict) and value:
        items = [f"{inner}{key!r}: {_literal(one, inner)},\n" for key, one in value.items()]
        return "{\n" + "".join(items) + indent + "}"
    if isinstance(value, list) and value:
        return "[\n" + "".join(f"{inner}{_literal(one, inner)},\n" for one in value) + indent + "]"
    return repr(value)
