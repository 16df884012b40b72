"""The page: a head, a field for the API key where one is needed, and the tabs. Imports Gradio."""

from __future__ import annotations

from html import escape
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from deployments.http.playground import UI_PATH
from deployments.ui import tabs
from deployments.ui.html import count
from deployments.ui.results import advice
from reranker.client import AsyncRerankerClient
from reranker.errors import RerankerError

_HERE = Path(__file__).parent
_TITLE = "Reranker playground"
_HEAD = (
    f'<div class="rr-head"><h1>{_TITLE}</h1><p>One query, many documents: the most relevant first. '
    '<a href="../docs" target="_blank" rel="noopener">API</a></p>{status}</div>'
)
_ORIGIN = "() => new URL('..', document.baseURI).href.replace(/\\/$/, '')"
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_WAITING = 64


def build(services: dict[str, AsyncRerankerClient]) -> FastAPI:
    """Make the application that answers below `UI_PATH`, for services by name; the first is the page's own."""
    blocks = gr.Blocks(title=_TITLE, analytics_enabled=False)
    with blocks:
        head = gr.HTML(_HEAD.format(status=""))
        key = gr.Textbox(
            label="API key",
            info="Sent with what you ask of the service, and kept nowhere.",
            type="password",
            visible="hidden",
            max_lines=1,
            elem_id="key",
        )
        origin = gr.Textbox(visible="hidden")
        with gr.Tabs() as bar:
            shell = tabs.Shell(blocks, bar, services, key, origin)
            tabs.build(shell)

        async def arrive() -> tuple[str, object]:
            needs_key, status = False, "bad"
            try:
                needs_key = bool((await shell.own.request("GET", "/v1/cluster/auth")).json().get("auth"))
                health = (await shell.own.request("GET", "/health")).json()
                status, said = "ok", f"{health['model']}, {count(health['replicas'], 'replica')}"
            except RerankerError as error:
                said = advice(error).message
            shown = f'<p class="rr-status {status}">{escape(said)}</p>'
            return _HEAD.format(status=shown), gr.Textbox(visible=needs_key or "hidden")

        blocks.load(None, None, origin, js=_ORIGIN, **tabs.QUIET)
        blocks.load(arrive, None, [head, key], **tabs.QUIET)
    blocks.queue(max_size=_WAITING, default_concurrency_limit=16, api_open=False)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    gr.mount_gradio_app(
        app,
        blocks,
        UI_PATH,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        show_error=False,
        # Fonts by name, of the visitor's own system: the built-in themes fetch theirs from Google.
        theme=gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=_FONTS, font_mono=_MONO),
        css_paths=_HERE / "style.css",
        head=f"<style>{(_HERE / 'layout.css').read_text(encoding='utf-8')}</style>",
    )
    return app
