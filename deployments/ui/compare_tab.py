"""The tab that ranks one list twice: under two instructions, by two models, or by two services."""

from __future__ import annotations

import asyncio

import gradio as gr

from deployments.ui import html
from deployments.ui.controls import Shell, fill, instruction_control, list_controls
from deployments.ui.documents import Document, typed
from deployments.ui.examples import EXAMPLES
from deployments.ui.ranking import Row, difference, left_out, rows
from deployments.ui.refusals import advice
from deployments.ui.service import JSON, Answer, Refused

TITLE = "Compare"
_EMPTY = html.hint("Press Compare: the same list, ranked twice, side by side.")
_SEPARATOR = " / "


def build(shell: Shell) -> None:
    """Add the tab's controls and what they do."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            controls = list_controls()
            first, second = _side("A", EXAMPLES[0].instruction), _side("B", "")
            go = gr.Button("Compare", variant="primary")
        with gr.Column(scale=6, min_width=320):
            summary = gr.HTML(_EMPTY, elem_id="difference")
            with gr.Row(equal_height=False):
                left, right = gr.HTML(min_height=0), gr.HTML(min_height=0)

    async def compare(query: str, text: str, key: str, *sides: str | None) -> tuple[str, str, str]:
        documents = typed(text)
        if not query.strip() or not documents:
            return html.hint("Give a query and at least one document."), "", ""
        (one, two), heads = _sides(sides), ("A", "B")
        asked = [_ask(shell, query, documents, instruction, model, key) for instruction, model in (one, two)]
        answers = await asyncio.gather(*asked)
        found: list[list[Row]] = []
        shown = []
        for head, answer in zip(heads, answers, strict=True):
            if isinstance(answer, Refused):
                shown.append(html.side(head, html.refusal(advice(answer))))
                continue
            before = [row.index for row in found[0]] if found else None
            ranked = rows(documents, answer.body, before)
            drawn = html.ranking(ranked, left_out(documents, answer.body, None), "A" if found else "the input")
            shown.append(html.side(head, html.facts(answer.body, len(documents), answer.took_ms) + drawn))
            found.append(ranked)
        said = html.note(difference(*found)) if len(found) == len(heads) else ""
        return said, shown[0], shown[1]

    async def models(key: str) -> tuple[object, object]:
        choices = await _choices(shell, key.strip())
        update = gr.Dropdown(choices=choices, value=choices[0], visible=len(choices) > 1)
        return update, update

    inputs = [controls.query, controls.documents, shell.key, *first, *second]
    outputs = [summary, left, right]
    filled = [controls.query, controls.documents, first[0]]
    controls.example.input(fill, controls.example, filled, api_visibility="private", show_progress="hidden")
    for event in (go.click, controls.query.submit):
        event(compare, inputs, outputs, api_visibility="private", show_progress_on=summary)
    for event in (shell.page.load, shell.key.change):
        event(models, shell.key, [first[1], second[1]], api_visibility="private", show_progress="hidden")


def _side(name: str, instruction: str) -> tuple[gr.Dropdown, gr.Dropdown]:
    return (
        instruction_control(instruction, f"{name}: instruction"),
        gr.Dropdown([], label=f"{name}: service and model", visible=False),
    )


def _sides(sides: tuple[str | None, ...]) -> list[tuple[str, str]]:
    return [((sides[place] or "").strip(), sides[place + 1] or "") for place in (0, 2)]


async def _choices(shell: Shell, key: str) -> list[str]:
    """Name every model of every service; a service that does not say is one choice."""
    found = []
    for name, service in shell.services.items():
        try:
            models = [str(one["id"]) for one in (await service.get("/v1/models", key))["data"]]
        except (Refused, LookupError, TypeError):
            models = []
        found += [f"{name}{_SEPARATOR}{model}" for model in models] or [name]
    return found


async def _ask(
    shell: Shell, query: str, documents: list[Document], instruction: str, chosen: str, key: str
) -> Answer | Refused:
    name, _, model = chosen.partition(_SEPARATOR)
    body: JSON = {"query": query, "documents": documents}
    body |= {field: value for field, value in (("instruction", instruction), ("model", model)) if value}
    try:
        return await shell.services.get(name, shell.own).rerank(body, key.strip())
    except Refused as refused:
        return refused
