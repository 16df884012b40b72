"""The page: a head, a field for the API key where one is needed, and the tabs. Imports Gradio.

No event goes through Gradio's queue, which would keep it for a stream that may never be read: each is a request of its
own, and forgotten with its answer (`tabs.QUIET`, `tabs.SHOWN`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
from fastapi import FastAPI
from gradio import routes

from deployments.http.playground import UI_PATH
from deployments.ui import tabs
from reranker.client import AsyncRerankerClient

_HERE = Path(__file__).parent
_TITLE = "Reranker playground"
_HEAD = (
    f'<div class="rr-head"><h1>{_TITLE}</h1><p>One query, many documents: the most relevant first. '
    '<a href="../docs" target="_blank" rel="noopener">API</a></p><p class="rr-status" hidden></p></div>'
    '<div class="rr-key" hidden><label for="key">API key</label><input id="key" type="password" autocomplete="off">'
    "<span>Sent with what you ask of the service, and kept nowhere.</span></div>"
    '<div class="rr rr-refused" id="refused" role="alert" hidden></div>'
)
_ORIGIN = "() => new URL('..', document.baseURI).href.replace(/\\/$/, '')"
_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
_SESSIONS = 16
"""Pages of which Gradio keeps what it needs to answer them, 0.7 MiB each; it makes that of others anew."""


def build(services: dict[str, AsyncRerankerClient], failed: Callable[[], None]) -> FastAPI:
    """Make the application that answers below `UI_PATH`, for services by name; the first is the page's own.

    `failed` is called while an error is handled that has made an answer of its own.
    """
    blocks = gr.Blocks(title=_TITLE, analytics_enabled=False)
    with blocks:
        head = gr.HTML(value="", html_template=_HEAD, js_on_load="guest.arrive(element, trigger)")
        origin = gr.Textbox(visible="hidden")
        blocks.load(None, None, origin, js=_ORIGIN, **tabs.QUIET)
        tabs.build(tabs.Shell(services, head, origin))
    blocks.state_session_capacity = _SESSIONS
    blocks._queue.start = lambda: None  # type: ignore[method-assign]  # it would look for events a thousand times a second
    vars(routes)["traceback"] = SimpleNamespace(print_exc=failed)  # it would print each
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
        head=f"<style>{_read('layout.css')}</style><script>{_read('guest.js')}</script>",
    )
    return app


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
