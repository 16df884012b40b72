"""The page's tabs: each adds its controls and what they do. Imports Gradio."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import httpx

from deployments.ui import html, live, results
from deployments.ui.documents import (
    EXAMPLES,
    PRESETS,
    SEARCH_EXAMPLES,
    Document,
    SearchExample,
    UnreadableError,
    curl_command,
    format_documents,
    parse_documents,
    python_program,
    read_file,
)
from deployments.ui.results import Advice, Row, advice
from reranker.client import AsyncRerankerClient
from reranker.errors import RerankerError, UnknownIndexError

_PICKER = (Path(__file__).parent / "file_picker.js").read_text(encoding="utf-8")
_PICKER_HTML = (
    '<div class="rr-pick"><label><input type="file" accept=".txt,.csv,.tsv,.jsonl,.ndjson" '
    'aria-label="Open a file with documents">Open a file …</label>'
    "<span>txt, csv or jsonl; read in your browser</span></div>"
)
_DEFAULT_INSTRUCTION = ("The service's default", "")
_DEFAULT_FIRST_STAGE = ("The index's default", "")
_NOTHING_TO_RANK = html.hint("Give a query and at least one document.")
_SEPARATOR = " / "
_LIVE = "Live"
_SAMPLE_PERIOD_S = 2.0
_NOT_SERVED = (403, 404)
"""The key may not read metrics, or nothing is counted: what is in flight may still be told."""
_TIMING = re.compile(r"([\w-]+);dur=([\d.]+)")
_QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}  # Any: Gradio's options
_FIRST_EXAMPLE = next(iter(EXAMPLES.values()))


@dataclass(frozen=True, slots=True)
class Shell:
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
        """The service that the page belongs to."""
        return next(iter(self.services.values()))


@dataclass(frozen=True, slots=True)
class Answer:
    """A ranking as the service gave it."""

    body: dict[str, Any]
    """Any: JSON."""
    took_ms: float
    """As the playground saw it, network included."""
    stages_ms: Mapping[str, float]
    """From the service's Server-Timing."""


async def _ask(service: AsyncRerankerClient, path: str, body: dict[str, Any], key: str) -> Answer:
    response: httpx.Response = await service.request("POST", path, body, api_key=key.strip())
    stages = {name: float(ms) for name, ms in _TIMING.findall(response.headers.get("server-timing", ""))}
    return Answer(response.json(), response.elapsed.total_seconds() * 1e3, stages)


def build(shell: Shell) -> None:
    """Add all tabs, in their order."""
    with gr.Tab("Rank"):
        _rank(shell)
    with gr.Tab("Compare"):
        _compare(shell)
    for example in SEARCH_EXAMPLES:
        with gr.Tab(example.title):
            _search(shell, example)
    with gr.Tab(_LIVE):
        _live(shell)


@dataclass(frozen=True, slots=True)
class _ListControls:
    """What makes a list."""

    example: gr.Radio
    query: gr.Textbox
    documents: gr.Textbox


def _list_controls() -> _ListControls:
    """Make the controls for query and documents, filled with the first example."""
    example = gr.Radio(list(EXAMPLES), value=_FIRST_EXAMPLE.title, label="Example", elem_classes="rr-examples")
    query = gr.Textbox(_FIRST_EXAMPLE.query, label="Query", lines=2, max_lines=6)
    shown = format_documents(_FIRST_EXAMPLE.documents)
    documents = gr.Textbox(shown, label="Documents", info="One a line, or JSON lines", lines=9, max_lines=16)
    picker = gr.HTML(value="", html_template=_PICKER_HTML, js_on_load=_PICKER)
    picker.upload(_read_file, None, documents, **_QUIET)
    return _ListControls(example, query, documents)


def _instruction_control(value: str, label: str = "Instruction") -> gr.Dropdown:
    """Make the control for what "relevant" means: a preset, or the visitor's own words."""
    return gr.Dropdown(
        [_DEFAULT_INSTRUCTION, *PRESETS],
        value=value,
        allow_custom_value=True,
        label=label,
        info="What counts as relevant: choose one, or write your own",
        elem_classes="rr-instruction",
    )


def _threshold_control(value: float) -> gr.Slider:
    return gr.Slider(0, 1, value, step=0.01, label="Leave out scores below", info="score_threshold")


def _fill(title: str) -> tuple[str, str, str]:
    """Give query, documents and instruction of an example."""
    example = EXAMPLES[title]
    return example.query, format_documents(example.documents), example.instruction


def _read_file(event: gr.EventData) -> str:
    try:
        return format_documents(read_file(str(event.name), str(event.content)))
    except UnreadableError as error:
        raise gr.Error(str(error), title="The file cannot be read", print_exception=False) from None


def _rank(shell: Shell) -> None:
    """The tab that ranks one list, and shows where each document went and where the time went."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            controls = _list_controls()
            instruction = _instruction_control(_FIRST_EXAMPLE.instruction)
            with gr.Accordion("More options", open=False):
                top_n = gr.Number(0, label="Best documents to return", info="top_n; 0: all", precision=0, minimum=0)
                threshold = _threshold_control(0)
                long_documents = gr.Radio(
                    [("Cut them", "truncate"), ("Score all of them, in windows", "windows")],
                    value="truncate",
                    label="Documents too long for the model",
                    info="long_documents",
                )
            go = gr.Button("Rank", variant="primary")
        with gr.Column(scale=6, min_width=320):
            empty = html.hint("Press Rank, or choose an example: the documents appear here in their new order.")
            ranking = gr.HTML(empty, elem_id="ranking")
            details = gr.HTML()
            code: dict[str, Any] = {"show_label": False, "max_lines": 16, "interactive": False, "wrap_lines": True}
            with gr.Accordion("Copy as curl or Python", open=False, visible=False) as copy:
                with gr.Tab("curl"):
                    curl = gr.Code(language="shell", elem_classes="rr-code", **code)
                with gr.Tab("Python"):
                    python = gr.Code(language="python", elem_classes="rr-code", **code)

    async def rank(
        query: str,
        text: str,
        instruction: str | None,
        top_n: float | None,
        threshold: float,
        long_documents: str,
        key: str,
        origin: str,
    ) -> tuple[Any, ...]:  # Any: what Gradio takes as updates
        documents = parse_documents(text)
        if not query.strip() or not documents:
            return _NOTHING_TO_RANK, "", gr.skip(), gr.skip(), gr.skip()
        body: dict[str, Any] = {"query": query, "documents": documents}
        given = {"instruction": (instruction or "").strip(), "top_n": int(top_n or 0), "score_threshold": threshold}
        body |= {name: value for name, value in given.items() if value}
        if long_documents == "windows":
            body["long_documents"] = long_documents
        code = (write(origin, body, key=bool(key)) for write in (curl_command, python_program))
        shown = (gr.Accordion(visible=True), *code)
        try:
            answer = await _ask(shell.own, "/v1/rerank", body | {"timings": True}, key)
        except RerankerError as error:
            return html.refusal(advice(error)), "", *shown
        omitted = results.omissions(documents, answer.body, body.get("top_n"))
        table = html.ranking(results.rows(documents, answer.body), omitted, "the input")
        facts = html.facts(answer.body, len(documents), answer.took_ms)
        return facts + table, html.timing(answer.stages_ms, answer.body), *shown

    listed = [controls.query, controls.documents, instruction]
    inputs = [*listed, top_n, threshold, long_documents, shell.key, shell.origin]
    filled = controls.example.input(_fill, controls.example, listed, **_QUIET)
    for event in (go.click, controls.query.submit, filled.then):
        outputs = [ranking, details, copy, curl, python]
        event(rank, inputs, outputs, api_visibility="private", show_progress_on=ranking)


def _compare(shell: Shell) -> None:
    """The tab that ranks one list twice: under two instructions, by two models, or by two services."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            controls = _list_controls()
            sides: list[gr.Dropdown] = []
            for name, preset in (("A", _FIRST_EXAMPLE.instruction), ("B", "")):
                sides.append(_instruction_control(preset, f"{name}: instruction"))
                sides.append(gr.Dropdown([], label=f"{name}: service and model", visible=False))
            go = gr.Button("Compare", variant="primary")
        with gr.Column(scale=6, min_width=320):
            empty = html.hint("Press Compare: the same list, ranked twice, side by side.")
            summary = gr.HTML(empty, elem_id="difference")
            with gr.Row(equal_height=False):
                left, right = gr.HTML(min_height=0), gr.HTML(min_height=0)

    async def ask(
        query: str, documents: list[Document], instruction: str | None, chosen: str | None, key: str
    ) -> Answer | RerankerError:
        name, _, model = (chosen or "").partition(_SEPARATOR)
        given = {"instruction": (instruction or "").strip(), "model": model}
        body = {"query": query, "documents": documents} | {field: value for field, value in given.items() if value}
        try:
            return await _ask(shell.services.get(name, shell.own), "/v1/rerank", body, key)
        except RerankerError as error:
            return error

    async def compare(query: str, text: str, key: str, *sides: str | None) -> tuple[str, str, str]:
        documents = parse_documents(text)
        if not query.strip() or not documents:
            return _NOTHING_TO_RANK, "", ""
        asked = (ask(query, documents, sides[place], sides[place + 1], key) for place in (0, 2))
        rankings: list[list[Row]] = []
        drawn = []
        for name, answer in zip("AB", await asyncio.gather(*asked), strict=True):
            if isinstance(answer, RerankerError):
                drawn.append(html.side(name, html.refusal(advice(answer))))
                continue
            before = [row.index for row in rankings[0]] if rankings else None
            rankings.append(results.rows(documents, answer.body, before))
            omitted = results.omissions(documents, answer.body, None)
            table = html.ranking(rankings[-1], omitted, "the input" if before is None else "A")
            drawn.append(html.side(name, html.facts(answer.body, len(documents), answer.took_ms) + table))
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

    inputs, outputs = [controls.query, controls.documents, shell.key, *sides], [summary, left, right]
    controls.example.input(_fill, controls.example, [controls.query, controls.documents, sides[0]], **_QUIET)
    for event in (go.click, controls.query.submit):
        event(compare, inputs, outputs, api_visibility="private", show_progress_on=summary)
    for event in (shell.page.load, shell.key.change):
        event(models, shell.key, [sides[1], sides[3]], **_QUIET)


def _search(shell: Shell, example: SearchExample) -> None:
    """A tab that searches the index of a worked example (examples/search)."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            chosen = gr.Radio(
                list(example.queries), value=example.queries[0], label="Question", elem_classes="rr-examples"
            )
            query = gr.Textbox(example.queries[0], label="Query", lines=2, max_lines=6)
            instruction = _instruction_control(example.instruction)
            with gr.Accordion("More options", open=False):
                stage = gr.Radio(
                    [_DEFAULT_FIRST_STAGE, "bm25", "dense", "hybrid"], value="", label="First stage", info="first_stage"
                )
                candidates = gr.Number(
                    0, label="Candidates", info="candidates; 0: as configured", precision=0, minimum=0
                )
                threshold = _threshold_control(example.threshold)
            go = gr.Button("Search", variant="primary")
        with gr.Column(scale=6, min_width=320):
            empty = "Press Search, or choose a question: the documents appear here, and how reranking moved them."
            found = gr.HTML(html.hint(empty), elem_id=f"found-{example.index}")
            details = gr.HTML()
            prompt = gr.Code(
                label="For your language model, which answers here",
                visible=False,
                interactive=False,
                wrap_lines=True,
                max_lines=24,
            )

    async def search(
        query: str, instruction: str | None, stage: str, candidates: float | None, threshold: float, key: str
    ) -> tuple[Any, ...]:  # Any: what Gradio takes as updates
        if not query.strip():
            return html.hint("Give a query."), "", gr.skip()
        body: dict[str, Any] = {"query": query, "index": example.index, "score_threshold": threshold, "timings": True}
        given = {"instruction": (instruction or "").strip(), "first_stage": stage, "candidates": int(candidates or 0)}
        body |= {name: value for name, value in given.items() if value}
        try:
            answer = await _ask(shell.own, "/v1/search", body, key)
        except RerankerError as error:
            return html.refusal(_search_advice(error, example)), "", gr.Code(visible=False)
        omitted = results.search_omissions(answer.body)
        table = html.ranking(results.search_rows(answer.body), omitted, "the first stage")
        facts = html.facts(answer.body, answer.body["candidates"], answer.took_ms)
        shown = gr.Code(results.prompt(query, answer.body), visible=True) if example.answers else gr.skip()
        return facts + table, html.timing(answer.stages_ms, answer.body), shown

    inputs, outputs = [query, instruction, stage, candidates, threshold, shell.key], [found, details, prompt]
    filled = chosen.input(lambda text: text, chosen, query, **_QUIET)
    for event in (go.click, query.submit, filled.then):
        event(search, inputs, outputs, api_visibility="private", show_progress_on=found)


def _search_advice(error: RerankerError, example: SearchExample) -> Advice:
    if error.status_code != 404 and not isinstance(error, UnknownIndexError):
        return advice(error)
    said, command = f"It has no index {example.index}.", f"make example-{example.index}"
    return Advice("This service does not have the example", said, f"Start it: {command}")


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

    timer.tick(look, [samples, shell.key], [panel, samples], **_QUIET)
    shell.tabs.select(_switch_timer, None, timer, **_QUIET)


def _switch_timer(event: gr.SelectData) -> gr.Timer:
    return gr.Timer(_SAMPLE_PERIOD_S, active=event.value == _LIVE)


async def _sample(service: AsyncRerankerClient, key: str) -> live.Sample:
    try:
        text = (await service.request("GET", "/metrics", api_key=key)).text
    except RerankerError as error:
        if error.status_code not in _NOT_SERVED:
            raise
        return live.load_sample((await service.request("GET", "/v1/load", api_key=key)).json(), time.monotonic())
    return live.metrics_sample(text, time.monotonic())
