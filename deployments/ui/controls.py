"""The controls that several tabs have: which list is ranked, and under which instruction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from deployments.ui.documents import UnreadableError, opened, shown
from deployments.ui.examples import BY_TITLE, EXAMPLES, PRESETS
from deployments.ui.service import Service

_PICKER = (Path(__file__).parent / "file_picker.js").read_text(encoding="utf-8")
_PICKER_HTML = (
    '<div class="rr-pick"><label><input type="file" accept=".txt,.csv,.tsv,.jsonl,.ndjson" '
    'aria-label="Open a file with documents">Open a file …</label>'
    "<span>txt, csv or jsonl; read in your browser</span></div>"
)
_DEFAULT = ("The service's default", "")


@dataclass(frozen=True, slots=True)
class Shell:
    """What all tabs share."""

    page: gr.Blocks
    tabs: gr.Tabs
    services: dict[str, Service]
    """By name; the first is the page's own."""
    key: gr.Textbox
    """The visitor's API key."""
    origin: gr.Textbox
    """Where the service is, as the visitor's browser sees it."""

    @property
    def own(self) -> Service:
        """The service that the page belongs to."""
        return next(iter(self.services.values()))


@dataclass(frozen=True, slots=True)
class ListControls:
    """What makes a list."""

    example: gr.Radio
    query: gr.Textbox
    documents: gr.Textbox


def list_controls() -> ListControls:
    """Make the controls for query and documents, filled with the first example."""
    first = EXAMPLES[0]
    example = gr.Radio([one.title for one in EXAMPLES], value=first.title, label="Example", elem_classes="rr-examples")
    query = gr.Textbox(first.query, label="Query", lines=2, max_lines=6)
    documents = gr.Textbox(
        shown(first.documents), label="Documents", info="One a line, or JSON lines", lines=9, max_lines=16
    )
    picker = gr.HTML(value="", html_template=_PICKER_HTML, js_on_load=_PICKER)
    picker.upload(_open, None, documents, api_visibility="private", show_progress="hidden")
    return ListControls(example, query, documents)


def instruction_control(value: str, label: str = "Instruction") -> gr.Dropdown:
    """Make the control for what "relevant" means: a preset, or the visitor's own words."""
    return gr.Dropdown(
        [_DEFAULT, *PRESETS],
        value=value,
        allow_custom_value=True,
        label=label,
        info="What counts as relevant: choose one, or write your own",
        elem_classes="rr-instruction",
    )


def fill(title: str) -> tuple[str, str, str]:
    """Give query, documents and instruction of an example."""
    example = BY_TITLE[title]
    return example.query, shown(example.documents), example.instruction


def _open(event: gr.EventData) -> str:
    try:
        return shown(opened(str(event.name), str(event.content)))
    except UnreadableError as error:
        raise gr.Error(str(error), title="The file cannot be read", print_exception=False) from None
