"""How deep and how wide a body's JSON may be: 64 MB of "[],[]," would become gigabytes of Python's lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from reranker.errors import InvalidRequestError, RequestTooLargeError

_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{},'))
_CONTAINERS = (dict, list)


@dataclass(frozen=True, slots=True)
class Structure:
    """The limits of a body's JSON."""

    max_nesting: int
    """Objects and lists within each other."""
    max_values: int
    """Values in lists and objects, all together."""

    def load(self, body: bytes) -> Any:  # Any: JSON
        """Parse a body.

        Raises:
            InvalidRequestError: It is no JSON, or nested too deep.
            RequestTooLargeError: It has too many values; said before it is parsed.
        """
        if _brackets_and_commas(body) > self.max_values:  # those in texts too, but it takes no time
            values = _brackets_and_commas(_without_strings(body))
            if values > self.max_values:
                raise RequestTooLargeError("body", values, self.max_values, "JSON values")
        try:
            loaded = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            if "depth limit" in error.msg:  # beyond 1,024, orjson's own
                raise self._too_deep() from None
            raise InvalidRequestError("", f"the body is not JSON: {error.msg}, at character {error.pos}") from None
        self._require_shallow(loaded)
        return loaded

    def _require_shallow(self, loaded: Any) -> None:  # Any: JSON
        level = [loaded] if isinstance(loaded, _CONTAINERS) else []
        for _ in range(self.max_nesting):
            level = [
                value
                for container in level
                for value in (container.values() if isinstance(container, dict) else container)
                if isinstance(value, _CONTAINERS)
            ]
        if level:
            raise self._too_deep()

    def _too_deep(self) -> InvalidRequestError:
        return InvalidRequestError("", f"the body's JSON is nested more than {self.max_nesting} deep")


def _brackets_and_commas(text: bytes) -> int:
    return text.count(b",") + text.count(b"[") + text.count(b"{")


def _without_strings(body: bytes) -> bytes:
    """Leave only the structure of some JSON; some 3 ms per MB, in C."""
    unescaped = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(unescaped.translate(None, _NOT_STRUCTURE).split(b'"')[::2])
