"""The tabs that search: one for each worked example, against the index of its name (examples/search)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from deployments.ui import html
from deployments.ui.controls import Shell, instruction_control
from deployments.ui.refusals import Advice, advice
from deployments.ui.search_results import found_rows, left_out, prompt
from deployments.ui.service import Refused

_EMPTY = html.hint("Press Search, or choose a question: the documents appear here, and how reranking moved them.")
_FIRST_STAGE = ("The index's default", "")


@dataclass(frozen=True, slots=True)
class SearchExample:
    """A worked example, and what its tab begins with."""

    title: str
    index: str
    queries: tuple[str, ...]
    instruction: str = ""
    threshold: float = 0.0
    answers: bool = False
    """Show what a language model would be asked with the passages that were found."""


EXAMPLES = (
    SearchExample(
        "Patents",
        "patents",
        (
            "在电芯间隙中用会熔化的石蜡吸收快充热量，不用泵，用石墨传热",
            "Without any battery: the movement of the hand on the knob generates what the reader and the bolt need",
            "神经网络把几个人的声音分开，用户在手机上选择听谁",
        ),
        "@patent",
    ),
    SearchExample(
        "Medical questions",
        "medical",
        (
            "What are the symptoms of Gaucher disease ?",
            "What is the outlook for Pancreatic Cancer ?",
            "How should acute low back pain be treated?",
        ),
        "@medical",
        threshold=0.2,
    ),
    SearchExample(
        "Documents for RAG",
        "docs",
        (
            "How do I empty the score cache?",
            "How do I stop a nightly job from slowing down interactive users?",
            "Can I serve a fine-tuned LoRA adapter?",
        ),
        answers=True,
    ),
)


def build(shell: Shell, example: SearchExample) -> None:
    """Add one tab's controls and what they do."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=4, min_width=320):
            chosen = gr.Radio(example.queries, value=example.queries[0], label="Question", elem_classes="rr-examples")
            query = gr.Textbox(example.queries[0], label="Query", lines=2, max_lines=6)
            instruction = instruction_control(example.instruction)
            with gr.Accordion("More options", open=False):
                stage = gr.Radio(
                    [_FIRST_STAGE, "bm25", "dense", "hybrid"], value="", label="First stage", info="first_stage"
                )
                candidates = gr.Number(
                    0, label="Candidates", info="candidates; 0: as configured", precision=0, minimum=0
                )
                threshold = gr.Slider(
                    0, 1, example.threshold, step=0.01, label="Leave out scores below", info="score_threshold"
                )
            go = gr.Button("Search", variant="primary")
        with gr.Column(scale=6, min_width=320):
            found = gr.HTML(_EMPTY, elem_id=f"found-{example.index}")
            details = gr.HTML()
            asked = gr.Code(
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
            answer = await shell.own.search(body, key.strip())
        except Refused as refused:
            return html.refusal(_advice(refused, example)), "", gr.Code(visible=False)
        table = html.ranking(found_rows(answer.body), left_out(answer.body), "the first stage")
        facts = html.facts(answer.body, answer.body["candidates"], answer.took_ms)
        passages = gr.Code(prompt(query, answer.body), visible=True) if example.answers else gr.skip()
        return facts + table, html.timing(answer.stages_ms, answer.body), passages

    inputs = [query, instruction, stage, candidates, threshold, shell.key]
    outputs = [found, details, asked]
    taken = chosen.input(lambda text: text, chosen, query, api_visibility="private", show_progress="hidden")
    for event in (go.click, query.submit, taken.then):
        event(search, inputs, outputs, api_visibility="private", show_progress_on=found)


def _advice(refused: Refused, example: SearchExample) -> Advice:
    if refused.status == 404 or refused.code == "unknown_index":
        command = f"make example-{example.index}"
        return Advice(
            "This service does not have the example", f"It has no index {example.index}.", f"Start it: {command}"
        )
    return advice(refused)


TABS: tuple[tuple[str, Callable[[Shell], None]], ...] = tuple(
    (one.title, partial(build, example=one)) for one in EXAMPLES
)
