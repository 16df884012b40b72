"""Answers are the JSON of their content, however long they are, and none is written or sent in one go if it is long."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message

from deployments.http import responses
from deployments.http.responses import reply

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=30,
)


async def _sent(content: Any) -> tuple[dict[bytes, bytes], list[bytes]]:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    await reply(content)({"type": "http"}, None, send)  # type: ignore[arg-type]  # nothing is received
    return dict(messages[0]["headers"]), [one["body"] for one in messages[1:]]


@given(content=_VALUES)
async def test_answer_is_the_json_of_its_content(content: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(responses, "_ENTRIES", 3)
        patch.setattr(responses, "_PIECE_BYTES", 20)
        headers, bodies = await _sent(content)
    assert b"".join(bodies) == orjson.dumps(content)
    assert headers[b"content-length"] == b"%d" % len(orjson.dumps(content))
    assert headers[b"content-type"] == b"application/json"


@pytest.mark.parametrize("within", ["", "results", "output"])
async def test_long_answer_is_neither_written_nor_sent_in_one_go(within: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for 60 MB keeps everybody from the interpreter for 0.05 s."""
    listed: Any = [{"index": place, "document": "text " * 100} for place in range(10_000)]
    content = {"": listed, "results": {"results": listed}, "output": {"output": {"results": listed}, "id": "x"}}[within]
    written: list[int] = []
    dumps = orjson.dumps

    def counted(value: Any) -> bytes:
        one = dumps(value)
        written.append(len(one))
        return one

    monkeypatch.setattr(orjson, "dumps", counted)
    _, bodies = await _sent(content)
    assert b"".join(bodies) == dumps(content)
    assert max(written) < 2**18
    assert max(map(len, bodies)) < 2**18
