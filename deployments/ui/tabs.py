"""The page's tabs: each adds its controls and what they do. Imports Gradio."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
import httpx

from deployments.ui import documents as reading
from deployments.ui import html, live, results
from deployments.ui.documents import EXAMPLES, SearchExample
from deployments.ui.results import Advice, advice
from reranker.client import AsyncRerankerClient
from reranker.errors import InvalidRequestError, RerankerError, UnknownIndexError

_PICKER = (Path(__file__).parent / "file_picker.js").read_text(encoding="utf-8")
_PICKER_HTML = (
    '<div class="rr-pick"><label><input type="file" accept=".txt,.csv,.tsv,.jsonl,.ndjson" '
    'aria-label="Open a file with documents">Open a file …</label>'
    "<span>txt, csv or jsonl; read in your browser</span></div>"
)
_NOTHING_TO_RANK = html.hint("Give a query and at least one document.")
_SEPARATOR = " / "
_NOT_SERVED = (403, 404)
"""The key may not read metrics, or nothing is counted: what is in flight may still be told."""
SHOWN: dict[str, Any] = {"api_visibility": "private", "queue": False}  # Any: Gradio's options
QUIET = SHOWN | {"show_progress": "hidden"}
_CODE: dict[str, Any] = {"interactive": False, "wrap_lines": True, "max_lines": 20}
_FIRST_EXAMPLE = next(iter(EXAMPLES.values()))


class Shell(NamedTuple):
    """What all tabs share."""

    services: dict[str, AsyncRerankerClient]
    """By name; the first is the page's own."""
    head: gr.HTML
    """Submitted when the page has a key, or needs none; applied when an example can be ranked besides (guest.js)."""
    origin: gr.Textbox
    """Where the service is, as the visitor's browser sees it."""

    @property
    def own(self) -> AsyncRerankerClient:
        return next(iter(self.services.values()))


def build(shell: Shell) -> None:
    """Add all tabs, in their order."""
    with gr.Tabs():
        with gr.Tab("Rank"):
            model = _rank(shell)
        with gr.Tab("Compare"):
            _compare(shell, model)
        for example in reading.SEARCH_EXAMPLES:
            with gr.Tab(example.title):
                _search(shell, example)
        with gr.Tab("Live"):
            _live(shell)


def _key(request: gr.Request) -> str:
    """The visitor's API key, with which the page sends everything."""
    return str(request.headers.get("authorization") or "").removeprefix("Bearer ")


class _Answer(NamedTuple):
    """What a service answered, and how."""

    body: Any  # JSON
    took_ms: float
    """As the playground saw it, network included."""
    reads: bool = True
    """False: the model reads no instruction, and was asked again without."""


async def _ask(service: AsyncRerankerClient, path: str, body: Mapping[str, Any], key: str) -> _Answer:
    # In a context of its own: a timer keeps its context until its time is up, ended or not, and that all of the event.
    asking = service.request("POST", path, body, api_key=key)
    try:
        response: httpx.Response = await asyncio.create_task(asking, context=contextvars.Context())
    except InvalidRequestError as error:
        if (error.code, error.field) != (InvalidRequestError.code, "instruction") or "instruction" not in body:
            raise
        return (await _ask(service, path, _without_instruction(body), key))._replace(reads=False)
    return _Answer(response.json(), response.elapsed.total_seconds() * 1e3)


def _without_instruction(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "instruction"}


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
    said = gr.HTML(visible=False)
    picker.upload(_read_file, None, [documents, said], **QUIET)
    return example, query, documents


def _instruction_control(value: str, label: str = "Instruction") -> gr.Dropdown:
    """Make the control for what "relevant" means: a preset, or the visitor's own words."""
    choices = [("The service's default", ""), *((text, text) for text in reading.PRESETS)]
    info, style = "What counts as relevant: choose one, or write your own", "rr-instruction"
    return gr.Dropdown(choices, value=value, allow_custom_value=True, label=label, info=info, elem_classes=style)


def _model_control(label: str) -> gr.Dropdown:
    """Make a control for a choice that the service is asked for; not to be seen where there is none.

    Any value is taken: of a page that Gradio has forgotten (`page._SESSIONS`) it knows no choices any more.
    """
    return gr.Dropdown([], value="", label=label, visible=False, allow_custom_value=True)


def _threshold_control(value: float) -> gr.Slider:
    return gr.Slider(0, 1, value, step=0.01, label="Leave out scores below", info="score_threshold")


def _number_control(label: str, info: str) -> gr.Number:
    return gr.Number(0, label=label, info=info, precision=0, minimum=0)


def _fill(title: str) -> tuple[str, str, str]:
    example = EXAMPLES[title]
    return example.query, reading.format_documents(example.documents), example.instruction


def _read_file(event: gr.EventData) -> tuple[Any, gr.HTML]:
    try:
        documents = reading.read_file(str(event.name), str(event.content))
    except reading.UnreadableError as error:
        return gr.skip(), gr.HTML(html.note(f"The file cannot be read. {error}"), visible=True)
    return reading.format_documents(documents), gr.HTML(visible=False)


def _rank(shell: Shell) -> gr.Dropdown:
    """The tab that ranks one list, and shows where each document went and where the time went; its choice of models."""
    asking, answering = _columns()
    with asking:
        example, query, documents = _list_controls()
        model = _model_control("Model")
        fields: dict[str, Any] = {"model": model, "instruction": _instruction_control(_FIRST_EXAMPLE.instruction)}
        with gr.Accordion("More options", open=False):
            fields["top_n"] = _number_control("Best documents to return", "top_n; 0: all")
            fields["score_threshold"] = _threshold_control(0)
            ways = [("Cut them", ""), ("Score all of them, in windows", "windows")]
            label = "Documents too long for the model"
            fields["long_documents"] = gr.Radio(ways, value="", label=label, info="long_documents")
            said = "Mark what in each document made it relevant"
            fields["relevant_spans"] = gr.Checkbox(False, label=said, info="relevant_spans")
        go = gr.Button("Rank", variant="primary")
    with answering:
        empty = html.hint("The example appears here in its new order.")
        ranking = gr.HTML(empty, elem_id="ranking")
        details = gr.HTML()
        with gr.Accordion("Copy as curl or Python", open=False, visible=False) as copy:
            with gr.Tab("curl"):
                curl = gr.Code(language="shell", show_label=False, elem_classes="rr-code", **_CODE)
            with gr.Tab("Python"):
                python = gr.Code(language="python", show_label=False, elem_classes="rr-code", **_CODE)

    async def rank(request: gr.Request, query: str, text: str, origin: str, *values: Any) -> tuple[Any, ...]:
        documents, key = reading.parse_documents(text), _key(request)
        if not query.strip() or not documents:
            return _NOTHING_TO_RANK, "", gr.skip(), gr.skip(), gr.skip()
        body = {"query": query, "documents": documents} | _given(fields, values)
        if body.get("relevant_spans"):
            body["relevant_spans"] = {"mode": "enabled"}
        try:
            answer, took_ms, reads = await _ask(shell.own, "/v1/rerank", body | {"timings": True}, key)
        except RerankerError as error:
            drawn, timing = html.refusal(advice(error)), ""
        else:
            body = body if reads else _without_instruction(body)
            omitted = results.omissions(documents, answer, body.get("top_n"))
            table = html.ranking(results.rows(documents, answer), omitted)
            drawn, timing = html.facts(answer, len(documents), took_ms, reads) + table, html.timing(answer)
        snippets = (write(origin, body, key=bool(key)) for write in (reading.curl_command, reading.python_program))
        return drawn, timing, gr.Accordion(visible=True), *snippets

    inputs = [query, documents, shell.origin, *fields.values()]
    filled = example.input(_fill, example, [query, documents, fields["instruction"]], **QUIET)
    for event in (shell.head.apply, go.click, query.submit, filled.then):
        event(rank, inputs, [ranking, details, copy, curl, python], show_progress_on=ranking, **SHOWN)
    return model


def _compare(shell: Shell, model: gr.Dropdown) -> None:
    """The tab that ranks one list twice: under two instructions, by two models, or by two services."""
    asking, answering = _columns()
    with asking:
        example, query, documents = _list_controls()
        sides: list[gr.Dropdown] = []
        for name, preset in (("A", _FIRST_EXAMPLE.instruction), ("B", "")):
            sides.append(_model_control(f"{name}: model"))
            sides.append(_instruction_control(preset, f"{name}: instruction"))
        go = gr.Button("Compare", variant="primary")
    with answering:
        summary = gr.HTML(html.hint("Press Compare: the same list, ranked twice, side by side."), elem_id="difference")
        with gr.Row(equal_height=False):
            left, right = gr.HTML(min_height=0), gr.HTML(min_height=0)

    async def compare(request: gr.Request, query: str, text: str, *sides: str | None) -> tuple[str, str, str]:
        documents = reading.parse_documents(text)
        if not query.strip() or not documents:
            return _NOTHING_TO_RANK, "", ""

        async def ask(chosen: str | None, instruction: str | None) -> results.Side | Advice:
            service, _, model = (chosen or "").partition(_SEPARATOR)
            if service not in shell.services:
                model = chosen or ""
            body = {"query": query, "documents": documents} | _given(("instruction", "model"), (instruction, model))
            try:
                answer = await _ask(shell.services.get(service, shell.own), "/v1/rerank", body, _key(request))
            except RerankerError as error:
                return advice(error)
            return results.Side(chosen or "", instruction or "", *answer, results.rows(documents, answer.body))

        async with asyncio.TaskGroup() as group:
            asking = [group.create_task(ask(*side)) for side in (sides[:2], sides[2:])]
        first, second = (one.result() for one in asking)
        if isinstance(first, results.Side) and isinstance(second, results.Side):
            said, (first, second) = html.note(results.difference(first, second)), results.face(first, second)
            others = "B", "A"
        else:
            said, others = "", ("the input", "the input")
        drawn = []
        for name, side, other in zip("AB", (first, second), others, strict=True):
            if isinstance(side, Advice):
                drawn.append(html.side(name, html.refusal(side)))
                continue
            omitted = results.omissions(documents, side.answer, None)
            table = html.ranking(side.rows, omitted, other, later=other == "B")
            head = html.facts(side.answer, len(documents), side.took_ms, side.reads)
            chosen = side.asked.removeprefix(f"{next(iter(shell.services))}{_SEPARATOR}") or side.model
            drawn.append(html.side(f"{name}: {chosen}", head + table, side.instruction))
        return said, drawn[0], drawn[1]

    async def models(request: gr.Request) -> tuple[object, ...]:
        """Name every model of every service; a service that does not say is one choice."""
        offered: list[tuple[str, str]] = []
        own: list[tuple[str, str]] = []
        for number, (name, service) in enumerate(shell.services.items()):
            try:
                cards = (await service.request("GET", "/v1/models", api_key=_key(request))).json()["data"]
                shown = results.choices(name if number else "", cards)
            except (RerankerError, LookupError, TypeError, ValueError):
                offered.append((name, name))
                continue
            offered += [(said, f"{name}{_SEPARATOR}{model}") for model, said in shown.items()]
            own = own or [(said, model) for model, said in shown.items() if not number]
        first, *others = [value for _, value in offered]
        several = bool(others)
        return (
            gr.Dropdown(choices=own, value=own[0][1] if own else None, visible=len(own) > 1),
            gr.Dropdown(choices=offered, value=first, visible=several),
            gr.Dropdown(choices=offered, value=others[0] if several else first, visible=several),
            # Of two models the difference is to be theirs alone.
            gr.Dropdown(value=_FIRST_EXAMPLE.instruction) if several else gr.skip(),
        )

    def fill(title: str, first: str | None, second: str | None) -> tuple[str, str, str, Any]:
        query, documents, instruction = _fill(title)
        return query, documents, instruction, instruction if first == second else gr.skip()

    example.input(fill, [example, sides[1], sides[3]], [query, documents, sides[1], sides[3]], **QUIET)
    for event in (go.click, query.submit):
        event(compare, [query, documents, *sides], [summary, left, right], show_progress_on=summary, **SHOWN)
    shell.head.submit(models, None, [model, sides[0], sides[2], sides[3]], **QUIET)


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

    async def search(request: gr.Request, query: str, *values: Any) -> tuple[Any, ...]:  # Any: Gradio's
        if not query.strip():
            return html.hint("Give a query."), "", gr.skip()
        body = {"query": query, "index": example.index, "score_threshold": 0, "timings": True}
        try:
            answer, took_ms, reads = await _ask(shell.own, "/v1/search", body | _given(fields, values), _key(request))
        except RerankerError as error:
            said = advice(error)
            if error.status_code == 404 or isinstance(error, UnknownIndexError):
                message, remedy = f"It has no index {example.index}.", f"Start it: make example-{example.index}"
                said = Advice("This service does not have the example", message, remedy)
            return html.refusal(said), "", gr.Code(visible=False)
        table = html.ranking(results.search_rows(answer), results.search_omissions(answer), "the first stage")
        shown = gr.Code(results.prompt(query, answer), visible=True) if example.answers else gr.skip()
        return html.facts(answer, answer["candidates"], took_ms, reads) + table, html.timing(answer), shown

    filled = chosen.input(lambda text: text, chosen, query, **QUIET)
    for event in (go.click, query.submit, filled.then):
        event(search, [query, *fields.values()], [found, details, prompt], show_progress_on=found, **SHOWN)


def _live(shell: Shell) -> None:
    """The tab that shows what the service is doing: asked every other second while it can be seen, and only then."""
    watch = "setInterval(() => !document.hidden && element.checkVisibility() && trigger('submit'), 2000)"
    panel = gr.HTML(html.hint("Looking …"), elem_id="live", js_on_load=watch)
    # Of what is counted, and of what everybody may read; each look is with the visitor's own key.
    histories = {True: live.History(), False: live.History()}

    async def look(request: gr.Request) -> Any:  # Any: markup
        try:
            sample = await _sample(shell.own, _key(request))
        except RerankerError as error:
            return html.refusal(advice(error))
        history = histories[bool(sample.counts)]
        history.add(sample)
        return html.live_panel(history)

    panel.submit(look, None, panel, **QUIET)


async def _sample(service: AsyncRerankerClient, key: str) -> live.Sample:
    try:
        text = (await service.request("GET", "/metrics", api_key=key)).text
    except RerankerError as error:
        if error.status_code not in _NOT_SERVED:
            raise
        return live.load_sample((await service.request("GET", "/v1/load", api_key=key)).json(), time.monotonic())
    return live.metrics_sample(text, time.monotonic())
