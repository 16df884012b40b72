"""What reading a body and writing an answer cost, by library: the figures of docs/decisions/0003-orjson-pydantic.md.

python -m benchmarks.parsing
"""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import orjson
from pydantic import BaseModel, StrictStr

from benchmarks.stages import milliseconds
from benchmarks.texts import pieces
from reranker.config import LimitsConfig
from reranker.dialects.parse import parse
from reranker.record import RequestRecord
from reranker.types import RankedDocument, Ranking

_REPEATS = 7


class _Pydantic(BaseModel):
    query: StrictStr
    documents: list[StrictStr | dict[str, Any]]
    top_n: int | None = None


class _Msgspec(msgspec.Struct):
    query: str
    documents: list[str | dict[str, Any]]
    top_n: int | None = None


def best_ms(work: Callable[[], object]) -> float:
    """Milliseconds that it takes, undisturbed."""
    return min(milliseconds(work, _REPEATS))


def main() -> None:
    """Print one table for reading and one for writing."""
    decoder = msgspec.json.Decoder(_Msgspec)
    limits = LimitsConfig()
    print("| documents | as | MB | json | pydantic | msgspec | orjson + pydantic | the whole of `parse` |")
    print("|---|---|---|---|---|---|---|---|")
    for count in (1_000, 10_000):
        documents = pieces(count)
        for kind, ascii_only in (("strings", False), ("strings", True), ("objects", False)):
            sent = documents if kind == "strings" else [{"text": text, "year": 2020, "id": "x1"} for text in documents]
            body = {"query": "what is the capital", "documents": sent, "top_n": 10}
            raw = json.dumps(body, ensure_ascii=ascii_only).encode()
            reading = (
                best_ms(lambda raw=raw: json.loads(raw)),  # type: ignore[misc]
                best_ms(lambda raw=raw: _Pydantic.model_validate_json(raw)),  # type: ignore[misc]
                best_ms(lambda raw=raw: decoder.decode(raw)),  # type: ignore[misc]
                best_ms(lambda raw=raw: _Pydantic.model_validate(orjson.loads(raw))),  # type: ignore[misc]
                best_ms(lambda raw=raw: parse(raw, None, limits)),  # type: ignore[misc]
            )
            escaped = f"{kind}, \\u-escaped" if ascii_only else kind
            print(f"| {count:,} | {escaped} | {len(raw) / 1e6:.1f} | {' | '.join(f'{one:.1f}' for one in reading)} |")
    print("\n| answer of 1,000 results | json | msgspec | orjson |\n|---|---|---|---|")
    ranking = Ranking(tuple(RankedDocument(index, index / 1_000, 0.0) for index in range(1_000)), prompt_tokens=10)
    for echo in (False, True):
        call = parse(orjson.dumps({"query": "q", "documents": pieces(1_000), "return_documents": echo}), None, limits)
        answer = call.write([ranking], "demo", RequestRecord())
        times = (
            best_ms(lambda answer=answer: json.dumps(answer, ensure_ascii=False).encode()),  # type: ignore[misc]
            best_ms(lambda answer=answer: msgspec.json.encode(answer)),  # type: ignore[misc]
            best_ms(lambda answer=answer: orjson.dumps(answer)),  # type: ignore[misc]
        )
        print(f"| {'with' if echo else 'without'} documents | {' | '.join(f'{one:.2f}' for one in times)} |")


if __name__ == "__main__":
    main()
