"""What the page's controls ask of a service, and what becomes of its answers. Without a browser."""

from __future__ import annotations

import re
import traceback
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import httpx
import pytest
import pytest_asyncio

from deployments.ui import page
from deployments.ui.documents import EXAMPLES
from reranker.client import AsyncRerankerClient, rebuild_error
from reranker.errors import ForbiddenError, NotReadyError, OverloadedError
from tests.unit.doors import visitor
from tests.unit.test_ui_live import PAGE as METRICS

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIRST, SECOND, *_ = EXAMPLES.values()
OWN = "this service / "


class FakeService(AsyncRerankerClient):
    """Ranks short documents first, its model "best" long ones; "plain" reads no instruction."""

    def __init__(self) -> None:
        super().__init__()
        self.forget()

    def forget(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.cards: list[Mapping[str, Any]] = [{"id": "fast"}]
        self.errors: dict[str | None, Exception] = {}
        """By model, of rankings."""

    async def request(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, api_key: str | None = None
    ) -> httpx.Response:
        request = httpx.Request(method, f"http://service{path}")
        if path == "/v1/models":
            return httpx.Response(200, json={"data": self.cards}, request=request)
        if path == "/metrics":
            if api_key != "metrics":
                raise ForbiddenError
            return httpx.Response(200, text=METRICS, request=request)
        if path == "/v1/load":
            return httpx.Response(200, json={"lists": 2, "replicas": []}, request=request)
        assert body is not None
        self.asked.append(body)
        model = body.get("model", "fast")
        if error := self.errors.get(model):
            raise error
        if model == "plain" and "instruction" in body:
            raise rebuild_error("invalid_request", 400, "instruction: takes none", "instruction")
        documents, sign = body["documents"], -1 if model == "best" else 1
        order = sorted(range(len(documents)), key=lambda index: sign * len(documents[index]))
        results = [{"index": index, "relevance_score": 1 / (2 + rank)} for rank, index in enumerate(order)]
        response = httpx.Response(200, json={"model": model, "results": results}, request=request)
        response.elapsed = timedelta(milliseconds=10)
        return response


class Page:
    """Sends what an open page sends."""

    def __init__(self, http: httpx.AsyncClient, config: dict[str, Any]) -> None:
        self._http = http
        self._props = {one["id"]: one["props"] for one in config["components"]}
        self._events = config["dependencies"]

    async def send(
        self, event: str, shown: str, controls: Mapping[str, Any] | None = None, *, key: str = "", outputs: int = 0
    ) -> list[Any]:
        """Send an event, by its kind and the first of its outputs; `controls` are what a visitor changed."""
        one = next(
            one
            for one in self._events
            if one["targets"][0][1] == event
            and self._label(one["outputs"][0]) == shown
            and outputs in (0, len(one["outputs"]))
        )
        given = {"": "http://here"} | dict(controls or {})  # the one without a label: where the page is
        data = [given.get(self._label(control), self._props[control].get("value")) for control in one["inputs"]]
        headers = {"authorization": f"Bearer {key}"} if key else {}
        sent = {"fn_index": one["id"], "session_hash": "a", "data": data}
        answer = await self._http.post("/ui/gradio_api/run/predict", json=sent, headers=headers)
        assert answer.status_code == 200
        return list(answer.json()["data"])

    def _label(self, component: int) -> str:
        props = self._props[component]
        return str(props.get("elem_id") or props.get("label") or "")


@pytest.fixture(scope="module")
def service() -> FakeService:
    return FakeService()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def opened(service: FakeService) -> AsyncIterator[Page]:
    """In one event loop: Gradio would make others, and leave them open."""
    app = page.build({"this service": service}, traceback.print_exc)
    async with app.router.lifespan_context(app), visitor(app) as http:
        yield Page(http, (await http.get("/ui/config")).json())
    await service.aclose()


@pytest.fixture(autouse=True)
def _nothing_asked(service: FakeService) -> None:
    service.forget()


async def test_the_first_view_is_one_small_list_ranked(opened: Page, service: FakeService) -> None:
    ranking, *_ = await opened.send("apply", "ranking")
    assert "8 documents" in ranking
    assert ">▲ 4<" in ranking
    [asked] = service.asked
    assert (asked["query"], asked["documents"]) == (FIRST.query, FIRST.documents)


async def test_a_list_is_ranked_by_the_model_that_is_chosen(opened: Page, service: FakeService) -> None:
    ranking, _, _, curl, _ = await opened.send("click", "ranking", {"Model": "best"})
    assert "model best" in ranking
    assert service.asked[0]["model"] == "best"
    assert '"model": "best"' in curl


@pytest.mark.parametrize("error", [NotReadyError(), OverloadedError(3.0, 1)])
async def test_a_first_view_that_is_refused_says_what_to_do(
    opened: Page, service: FakeService, error: Exception
) -> None:
    service.errors = {"fast": error}
    ranking, *_ = await opened.send("apply", "ranking")
    assert 'role="alert"' in ranking
    assert "Try again in" in ranking
    assert len(service.asked) == 1


async def test_a_model_that_reads_no_instruction_ranks_without(opened: Page, service: FakeService) -> None:
    chosen = {"A: model": f"{OWN}plain", "B: model": f"{OWN}plain"}
    said, first, second = await opened.send("click", "difference", chosen)
    assert "Both are the same: plain reads no instruction." in said
    assert "model plain, which reads no instruction" in first
    assert "reads no instruction" not in second, "none was sent"
    assert sorted("instruction" in asked for asked in service.asked) == [False, False, True]


async def test_an_instruction_that_is_wrong_is_refused_and_not_left_out(opened: Page, service: FakeService) -> None:
    service.errors = {"fast": rebuild_error("unknown_instruction", 400, "instruction: no such", "instruction")}
    ranking, *_ = await opened.send("click", "ranking", {"Instruction": "@x"})
    assert "No such instruction" in ranking
    assert len(service.asked) == 1


async def test_two_models_are_compared_under_one_instruction(opened: Page, service: FakeService) -> None:
    service.cards = [{"id": "fast"}, {"id": "best"}, {"id": "careful", "cascade": ["fast", "best"]}]
    own, first, second, instruction = await opened.send("submit", "Model")
    assert own["choices"] == [["fast", "fast"], ["best", "best"], ["careful: fast, then best", "careful"]]
    assert [shown for shown, _ in first["choices"]] == ["fast", "best", "careful: fast, then best"]
    assert (first["visible"], first["value"], second["value"]) == (True, f"{OWN}fast", f"{OWN}best")
    assert instruction["value"] == FIRST.instruction
    chosen = {one: update["value"] for one, update in (("A: model", first), ("B: model", second))}
    said, left, right = await opened.send("click", "difference", chosen | {"B: instruction": FIRST.instruction})
    assert "8 of 8 documents have another rank" in said
    assert [asked["model"] for asked in service.asked] == ["fast", "best"]
    assert {asked["instruction"] for asked in service.asked} == {FIRST.instruction}
    moves = [re.findall("[▲▼] [0-9]", side) for side in (left, right)]
    assert sorted(moves[0]) == sorted(moves[1]), "a document has the same mark on both sides"
    assert "<h3>A: fast</h3>" in left
    assert "is 8 in B" in left
    assert "was 8 in A" in right


async def test_a_side_that_is_refused_leaves_the_other(opened: Page, service: FakeService) -> None:
    service.errors = {"best": NotReadyError()}
    chosen = {"A: model": f"{OWN}fast", "B: model": f"{OWN}best"}
    said, left, right = await opened.send("click", "difference", chosen)
    assert said == ""
    assert "in the input" in left
    assert "still loading" in right


async def test_an_example_brings_its_instruction_to_both_sides_that_have_the_same(opened: Page) -> None:
    for other, updated in (("same", SECOND.instruction), ("other", {"__type__": "update"})):
        controls = {"Example": SECOND.title, "A: instruction": "same", "B: instruction": other}
        filled = await opened.send("input", "Query", controls, outputs=4)
        assert filled[0] == SECOND.query
        assert filled[2:] == [SECOND.instruction, updated]


async def test_live_shows_what_is_counted_to_those_who_may_read_it(opened: Page) -> None:
    """The history is everybody's who looks, and each look is with the visitor's own key."""
    [counted] = await opened.send("submit", "live", key="metrics")
    assert "1,234" in counted
    [other] = await opened.send("submit", "live", key="ranks only")
    assert "1,234" not in other
    assert "may not read them" in other
    assert ">2<" in other
