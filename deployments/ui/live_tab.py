"""The tab that shows what the service is doing: asked of it every other second while the tab is open, and only then."""

from __future__ import annotations

import time

import gradio as gr

from deployments.ui import html
from deployments.ui.controls import Shell
from deployments.ui.live import KEPT, Sample, of_load, of_metrics
from deployments.ui.live_html import panel
from deployments.ui.refusals import advice
from deployments.ui.service import Refused, Service

TITLE = "Live"
_EVERY_S = 2.0
_NOT_SERVED = (403, 404)
"""Figures are not for this key, or nothing is counted: what is in flight may still be told."""


def build(shell: Shell) -> None:
    """Add the tab's panel and what keeps it fresh."""
    figures = gr.HTML(html.hint("Looking …"), elem_id="live")
    samples = gr.State([], time_to_live=3_600)
    timer = gr.Timer(_EVERY_S, active=False)

    async def look(samples: list[Sample], key: str) -> tuple[str, list[Sample]]:
        try:
            samples = [*samples[1 - KEPT :], await _sample(shell.own, key.strip())]
        except Refused as refused:
            return html.refusal(advice(refused)), samples
        return panel(samples), samples

    timer.tick(look, [samples, shell.key], [figures, samples], api_visibility="private", show_progress="hidden")
    shell.tabs.select(_chosen, None, timer, api_visibility="private", show_progress="hidden")


def _chosen(event: gr.SelectData) -> gr.Timer:
    return gr.Timer(_EVERY_S, active=event.value == TITLE)


async def _sample(service: Service, key: str) -> Sample:
    try:
        text = await service.text("/metrics", key)
    except Refused as refused:
        if refused.status not in _NOT_SERVED:
            raise
        return of_load(await service.get("/v1/load", key), time.monotonic())
    return of_metrics(text, time.monotonic())
