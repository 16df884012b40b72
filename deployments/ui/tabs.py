"""The page's tabs: each adds its controls and what they do. Imports Gradio."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import httpx

from deployments.ui import documents as reading
from deployments.ui import html, live, results
from deployments.ui.documents import EXAMPLES, SearchExample
from deployments.ui.results import Advice, Row, advice
from reranker.client import AsyncRerankerClient
from reranker.errors import RerankerError, UnknownIndexError

_PICKER = (Path(__file__).parent / "file_picker.js").read_text(encoding="utf-8")
_PICKER_HTML = (
    '<div class="rr-pick"><label><input type="file" accept=".txt,.csv,.tsv,.jsonl,.ndjson" '
    'aria-label="Open a file with documents">Open a file …</label>'
    "<span>txt, csv or jsonl; read in your browser</span></div>"
)
_NOTHING_TO_RANK = html.hint("Give a query and at least one document.")
_SEPARATOR = " / "
_LIVE = "Live"
_SAMPLE_PERIOD_S = 2.0
_NOT_SERVED = (403, 404)
"""The key may not read metrics, or nothing is counted: what is in flight may still be told."""
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}  # Any: Gradio's options
_CODE: dict[str, Any] = {"interactive": False, "wrap_lines": True, "max_lines": 20}
_FIRST_EXAMPLE = next(iter(EXAMPLES.values()))


class Shell(NamedTuple):
    """What all tabs share."""

    page: gr.Blocks
    tabs: gr.Tabs
    services: dict[str, AsyncRerankerClient]
    """By name; the first is the page's own."""
    key: gr.Textbox
    """The visitor's API key."""
    origin: gr.Textbox
    """Where the service is, as the visitor's browser sees it."""

    @property
    def own(self) -> AsyncRerankerClient:
        return next(iter(self.services.values()))


def build(shell: Shell) -> None:
    """Add all tabs, in their order."""
    with gr.Tab("Rank"):
        _rank(shell)
    with gr.Tab("Compare"):
        _compare(shell)
    for example in reading.SEARCH_EXAMPLES:
        with gr.Tab(example.title):
            _search(shell, example)
    with gr.Tab(_LIVE):
        _live(shell)


async def _ask(service: AsyncRerankerClient, path: str, body: Mapping[str, Any], key: str) -> tuple[Any, float]:
    """Give the answer (JSON), and the milliseconds that it took as the playground saw it, network included."""
    response: httpx.Response = await service.request("POST", path, body, api_key=key.strip())
    return response.json(), response.elapsed.total_seconds() * 1e3


def _given(names: Iterable[str], values: Iterable[Any]) -> dict[str, Any]:
    """Make the fields of a request from what controls have, without those that say nothing."""
    stripped = [value.strip() if isinstance(value, str) else value for value in values]
    return {name: value for name, value in zip(names, stripped, strict=True) if value}


def _columns() -> tuple[gr.Column, gr.Column]:
    """Make a tab's two halves: what is asked, and what is answered."""
    with gr.Row(equal_height=False):
        return gr.Column(scale=4, min_width=320), gr.Column(scale=6, min_width=320)


def _list_controls() -> tuple[gr.Radio, gr.Textbox, gr.Textbox]:
    """Make the controls for an example, a query and documents, filled with the first example."""
    example = gr.Radio(list(EXAMPLES), value=_FIRST_EXAMPLE.title, label="Example", elem_classes="rr-examples")
    query = gr.Textbox(_FIRST_EXAMPLE.query, label="Query", lines=2, max_lines=6)
    shown = reading.format_documents(_FIRST_EXAMPLE.documents)
    documents = gr.Textbox(shown, label="Documents", info="One a line, or JSON lines", lines=9, max_lines=16)
    picker = gr.HTML(value="", html_template=_PICKER_HTML, js_on_load=_PICKER)
    picker.upload(_read_file, None, documents, **QUIET)
    return example, query, documents


def _instruction_control(value: str, label: str = "Instruction") -> gr.Dropdown:
    """Make the control for what "relevant" means: a preset, or the visitor's own words."""
    choices = [("The service's default", ""), *((text, text) for text in reading.PRESETS)]
    info, style = "What counts as relevant: choose one, or write your own", "rr-instruction"
    return gr.Dropdown(choices, value=value, allow_custom_value=True, label=label, info=info, elem_classes=style)


def _threshold_control(value: float) -> gr.Slider:
    return gr.Slider(0, 1, value, step=0.01, label="Leave out scores below", info="score_threshold")


def _number_control(label: str, info: str) -> gr.Number:
    return gr.Number(0, label=label, info=info, precision=0, minimum=0)


def _fill(title: str) -> tuple[str, str, str]:
    example = EXAMPLES[title]
    return example.query, reading.format_documents(example.documents), example.instruction


def _read_file(event: gr.EventData) -> str:
    try:
        return reading.format_documents(reading.read_file(str(event.name), str(event.content)))
    except reading.UnreadableError as error:
        raise gr.Error(str(error), title="The file cannot be read", print_exception=False) from None


def _rank(shell: Shell) -> None:
    """The tab that ranks one list, and shows where each document went and where the time went."""
    asking, answering = _columns()
    with asking:
        example, query, documents = _list_controls()
        fields: dict[str, Any] = {"instruction": _instruction_control(_FIRST_EXAMPLE.instruction)}
        with gr.Accordion("More options", open=False):
            fields["top_n"] = _number_control("Best documents to return", "top_n; 0: all")
            fields["score_threshold"] = _threshold_control(0)
            ways = [("Cut them", ""), ("Score all of them, in windows", "windows")]
            label = "Documents too long for the model"
            fields["long_documents"] = gr.Radio(ways, value="", label=label, info="long_documents")
        go = gr.Button("Rank", variant="primary")
    with answering:
        empty = html.hint("Press Rank, or choose an example: the documents appear here in their new order.")
        ranking = gr.HTML(empty, elem_id="ranking")
        details = gr.HTML()
        with gr.Accordion("Copy as curl or Python", open=False, visible=False) as copy:
            with gr.Tab("curl"):
                curl = gr.Code(language="shell", show_label=False, elem_classes="rr-code", **_CODE)
            with gr.Tab("Python"):
                python = gr.Code(language="python", show_label=False, elem_classes="rr-code", **_CODE)

    async def rank(query: str, text: str, key: str, origin: str, *values: Any) -> tuple[Any, ...]:  # Any: Gradio's
        documents = reading.parse_documents(text)
        if not query.strip() or not documents:
            return _NOTHING_TO_RANK, "", gr.skip(), gr.skip(), gr.skip()
        body = {"query": query, "documents": documents} | _given(fields, values)
        snippets = (write(origin, body, key=bool(key)) for write in (reading.curl_command, reading.python_program))
        shown = (gr.Accordion(visible=True), *snippets)
        try:
            answer, took_ms = await _ask(shell.own, "/v1/rerank", body | {"timings": True}, key)
        except RerankerError as error:
            return html.refusal(advice(error)), "", *shown
        omitted = results.omissions(documents, answer, body.get("top_n"))
        table = html.ranking(results.rows(documents, answer), omitted)
        return html.facts(answer, len(documents), took_ms) + table, html.timing(answer), *shown

    inputs = [query, documents, shell.key, shell.origin, *fields.values()]
    filled = example.input(_fill, example, [query, documents, fields["instruction"]], **QUIET)
    for event in (go.click, query.submit, filled.then):
        event(rank, inputs, [ranking, details, copy, curl, python], api_visibility="private", show_progress_on=ranking)


def _compare(shell: Shell) -> None:
    """The tab that ranks one list twice: under two instructions, by two models, or by two services."""
    asking, answering = _columns()
    with asking:
        example, query, documents = _list_controls()
        sides: list[gr.Dropdown] = []
        for name, preset in (("A", _FIRST_EXAMPLE.instruction), ("B", "")):
            sides.append(_instruction_control(preset, f"{name}: instruction"))
            sides.append(gr.Dropdown([], label=f"{name}: service and model", visible=False))
        go = gr.Button("Compare", variant="primary")
    with answering:
        summary = gr.HTML(html.hint("Press Compare: the same list, ranked twice, side by side."), elem_id="difference")
        with gr.Row(equal_height=False):
            left, right = gr.HTML(min_height=0), gr.HTML(min_height=0)

    async def compare(query: str, text: str, key: str, *sides: str | None) -> tuple[str, str, str]:
        documents = reading.parse_documents(text)
        if not query.strip() or not documents:
            return _NOTHING_TO_RANK, "", ""
        asked = []
        for instruction, chosen in (sides[:2], sides[2:]):
            service, _, model = (chosen or "").partition(_SEPARATOR)
            body = {"query": query, "documents": documents} | _given(("instruction", "model"), (instruction, model))
            asked.append(_ask(shell.services.get(service, shell.own), "/v1/rerank", body, key))
        rankings: list[list[Row]] = []
        drawn = []
        for name, answer in zip("AB", await asyncio.gather(*asked, return_exceptions=True), strict=True):
            if isinstance(answer, RerankerError):
                drawn.append(html.side(name, html.refusal(advice(answer))))
                continue
            if isinstance(answer, BaseException):
                raise answer
            body, took_ms = answer
            before = [row.place for row in rankings[0]] if rankings else None
            rankings.append(results.rows(documents, body, before))
            omitted = results.omissions(documents, body, None)
            table = html.ranking(rankings[-1], omitted, "the input" if before is None else "A")
            drawn.append(html.side(name, html.facts(body, len(documents), took_ms) + table))
        said = html.note(results.difference(*rankings)) if len(rankings) == len(drawn) else ""
        return said, drawn[0], drawn[1]

    async def models(key: str) -> tuple[object, object]:
        """Name every model of every service; a service that does not say is one choice."""
        choices = []
        for name, service in shell.services.items():
            try:
                cards = (await service.request("GET", "/v1/models", api_key=key.strip())).json()["data"]
                choices += [f"{name}{_SEPARATOR}{card['id']}" for card in cards]
            except (RerankerError, LookupError, TypeError, ValueError):
                choices.append(name)
        update = gr.Dropdown(choices=choices, value=choices[0], visible=len(choices) > 1)
        return update, update

    example.input(_fill, example, [query, documents, sides[0]], **QUIET)
    for event in (go.click, query.submit):
        inputs, outputs = [query, documents, shell.key, *sides], [summary, left, right]
        event(compare, inputs, outputs, api_visibility="private", show_progress_on=summary)
    for event in (shell.page.load, shell.key.change):
        event(models, shell.key, [sides[1], sides[3]], **QUIET)


def _search(shell: Shell, example: SearchExample) -> None:
    """A tab that searches the index of a worked example (examples/search)."""
    asking, answering = _columns()
    with asking:
        first = example.queries[0]
        chosen = gr.Radio(list(example.queries), value=first, label="Question", elem_classes="rr-examples")
        query = gr.Textbox(first, label="Query", lines=2, max_lines=6)
        fields: dict[str, Any] = {"instruction": _instruction_control(example.instruction)}
        with gr.Accordion("More options", open=False):
            stages = [("The index's default", ""), ("bm25", "bm25"), ("dense", "dense"), ("hybrid", "hybrid")]
            fields["first_stage"] = gr.Radio(stages, value="", label="First stage", info="first_stage")
            fields["candidates"] = _number_control("Candidates", "candidates; 0: as configured")
            fields["score_threshold"] = _threshold_control(example.threshold)
        go = gr.Button("Search", variant="primary")
    with answering:
        empty = "Press Search, or choose a question: the documents appear here, and how reranking moved them."
        found = gr.HTML(html.hint(empty), elem_id=f"found-{example.index}")
        details = gr.HTML()
        prompt = gr.Code(label="For your language model, which answers here", visible=False, **_CODE)

    async def search(query: str, key: str, *values: Any) -> tuple[Any, ...]:  # Any: Gradio's
        if not query.strip():
            return html.hint("Give a query."), "", gr.skip()
        body = {"query": query, "index": example.index, "score_threshold": 0, "timings": True}
        try:
            answer, took_ms = await _ask(shell.own, "/v1/search", body | _given(fields, values), key)
        except RerankerError as error:
            said = advice(error)
            if error.status_code == 404 or isinstance(error, UnknownIndexError):
                message, remedy = f"It has no index {example.index}.", f"Start it: make example-{example.index}"
                said = Advice("This service does not have the example", message, remedy)
            return html.refusal(said), "", gr.Code(visible=False)
        table = html.ranking(results.search_rows(answer), results.search_omissions(answer), "the first stage")
        shown = gr.Code(results.prompt(query, answer), visible=True) if example.answers else gr.skip()
        return html.facts(answer, answer["candidates"], took_ms) + table, html.timing(answer), shown

    filled = chosen.input(lambda text: text, chosen, query, **QUIET)
    for event in (go.click, query.submit, filled.then):
        inputs, outputs = [query, shell.key, *fields.values()], [found, details, prompt]
        event(search, inputs, outputs, api_visibility="private", show_progress_on=found)


def _live(shell: Shell) -> None:
    """The tab that shows what the service is doing: asked every other second while the tab is open, and only then."""
    panel = gr.HTML(html.hint("Looking …"), elem_id="live")
    samples = gr.State([], time_to_live=3_600)
    timer = gr.Timer(_SAMPLE_PERIOD_S, active=False)

    async def look(samples: list[live.Sample], key: str) -> tuple[str, list[live.Sample]]:
        try:
            samples = [*samples[1 - live.KEPT :], await _sample(shell.own, key.strip())]
        except RerankerError as error:
            return html.refusal(advice(error)), samples
        return html.live_panel(samples), samples

    def switch(event: gr.SelectData) -> gr.Timer:
        return gr.Timer(_SAMPLE_PERIOD_S, active=event.value == _LIVE)

    timer.tick(look, [samples, shell.key], [panel, samples], **QUIET)
    shell.tabs.select(switch, None, timer, **QUIET)


async def _sample(service: AsyncRerankerClient, key: str) -> live.Sample:
    try:
        text = (await service.request("GET", "/metrics", api_key=key)).text
    except RerankerError as error:
        if error.status_code not in _NOT_SERVED:
            raise
        return live.load_sample((await service.request("GET", "/v1/load", api_key=key)).json(), time.monotonic())
    return live.metrics_sample(text, time.monotonic())
