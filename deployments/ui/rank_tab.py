"""The tab that ranks one list, and shows where each document went and where the time went."""

from __future__ import annotations

from typing import Any, Literal

import gradio as gr

from deployments.ui import html, snippets
from deployments.ui.controls import Shell, fill, instruction_control, list_controls
from deployments.ui.documents import typed
from deployments.ui.examples import EXAMPLES
from deployments.ui.ranking import left_out, rows
from deployments.ui.refusals import advice
from deployments.ui.service import Refused

TITLE = "Rank"
_EMPTY = html.hint("Press Rank, or choose an example: the documents appear here in their new order.")


def build(shell: Shell) -> None:
    """Add the tab's controls and what they do."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            controls = list_controls()
            instruction = instruction_control(EXAMPLES[0].instruction)
            with gr.Accordion("More options", open=False):
                top_n = gr.Number(0, label="Best documents to return", info="top_n; 0: all", precision=0, minimum=0)
                threshold = gr.Slider(0, 1, 0, step=0.01, label="Leave out scores below", info="score_threshold")
                long_documents = gr.Radio(
                    [("Cut them", "truncate"), ("Score all of them, in windows", "windows")],
                    value="truncate",
                    label="Documents too long for the model",
                    info="long_documents",
                )
            go = gr.Button("Rank", variant="primary")
        with gr.Column(scale=6, min_width=320):
            ranking = gr.HTML(_EMPTY, elem_id="ranking")
            details = gr.HTML()
            with gr.Accordion("Copy as curl or Python", open=False, visible=False) as copy:
                with gr.Tab("curl"):
                    curl = _code("shell")
                with gr.Tab("Python"):
                    python = _code("python")

    async def rank(
        query: str,
        documents_text: str,
        instruction: str | None,
        top_n: float | None,
        threshold: float,
        long_documents: str,
        key: str,
        origin: str,
    ) -> tuple[Any, ...]:  # Any: what Gradio takes as updates
        documents = typed(documents_text)
        if not query.strip() or not documents:
            return html.hint("Give a query and at least one document."), "", gr.skip(), gr.skip(), gr.skip()
        body: dict[str, Any] = {"query": query, "documents": documents}
        given = {"instruction": (instruction or "").strip(), "top_n": int(top_n or 0), "score_threshold": threshold}
        body |= {name: value for name, value in given.items() if value}
        if long_documents == "windows":
            body["long_documents"] = long_documents
        shown = (gr.Accordion(visible=True), *(make(origin, body, key=bool(key)) for make in _SNIPPETS))
        try:
            answer = await shell.own.rerank(body | {"timings": True}, key.strip())
        except Refused as refused:
            return html.refusal(advice(refused)), "", *shown
        table = html.ranking(
            rows(documents, answer.body), left_out(documents, answer.body, body.get("top_n")), "the input"
        )
        return (
            html.facts(answer.body, len(documents), answer.took_ms) + table,
            html.timing(answer.stages_ms, answer.body),
            *shown,
        )

    listed = [controls.query, controls.documents, instruction]
    inputs = [*listed, top_n, threshold, long_documents, shell.key, shell.origin]
    outputs = [ranking, details, copy, curl, python]
    chosen = controls.example.input(fill, controls.example, listed, api_visibility="private", show_progress="hidden")
    for event in (go.click, controls.query.submit, chosen.then):
        event(rank, inputs, outputs, api_visibility="private", show_progress_on=ranking)


_SNIPPETS = (snippets.curl, snippets.python)


def _code(language: Literal["shell", "python"]) -> gr.Code:
    return gr.Code(
        language=language, show_label=False, max_lines=16, interactive=False, wrap_lines=True, elem_classes="rr-code"
    )
