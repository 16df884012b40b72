"""The page's own pieces of HTML: a ranking, what it took, an error, live figures. Every text is escaped here. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from deployments.ui.live import Sample, figures, history
from deployments.ui.results import Advice, Omission, Row

_SHOWN_ROWS = 200
_SHORT, _LONGEST = 260, 4_000
"""Characters of a document: shown at once, and when it is opened."""
_STAGE_NAMES = {
    "read": "receive",
    "admit": "is there room",
    "retrieve": "find candidates",
    "cache": "known scores",
    "coalesce": "wait for another list",
    "tokenize": "make prompts",
    "queue": "wait for a turn",
    "engine": "model",
    "respond": "write the answer",
}
"""In words, where the service's own are terms: docs/api.md."""
_LISTED_DOCUMENTS = 12
_PLOT_WIDTH, _PLOT_HEIGHT = 600, 100


def ranking(rows: Sequence[Row], omitted: Sequence[Omission] = (), against: str = "the input") -> str:
    """Draw a ranking as a table.

    Args:
        rows: Best first.
        omitted: What is not in it.
        against: What the ranks are compared with, in words.
    """
    if not rows and not omitted:
        return ""
    lines = "".join(_row(row, against) for row in rows[:_SHOWN_ROWS])
    more = len(rows) - _SHOWN_ROWS
    note = f'<p class="rr-note">… and {more:,} more, all of them worse.</p>' if more > 0 else ""
    head = (
        '<thead><tr><th scope="col">Rank</th><th scope="col">Moved</th><th scope="col">Relevance</th>'
        '<th scope="col">Document</th></tr></thead>'
    )
    table = f'<table class="rr-table">{head}<tbody>{lines}</tbody></table>' if rows else ""
    empty = "" if rows else '<p class="rr-note">No document is left: lower the threshold.</p>'
    return f'<div class="rr">{table}{empty}{note}{_omissions(omitted)}</div>'


def _row(row: Row, against: str) -> str:
    marks = "".join(f'<span class="rr-mark">{escape(mark)}</span>' for mark in row.marks)
    width = min(100.0, max(0.0, row.score * 100))
    return (
        f'<tr><td class="rr-rank">{row.rank}</td><td class="rr-moved">{_moved(row, against)}</td>'
        f'<td class="rr-score"><span class="rr-bar"><i style="width:{width:.1f}%"></i></span>'
        f"<b>{row.score:.3f}</b></td>"
        f'<td class="rr-doc">{_text(row.text)}<span class="rr-from">{_name(row)}</span>{marks}</td></tr>'
    )


def _name(one: Row | Omission) -> str:
    return escape(one.name) if one.name else f"document {one.index + 1}"


def _moved(row: Row, against: str) -> str:
    if row.moved is None:
        return f'<span class="rr-new" title="not in {escape(against)}">new</span>'
    was = f"was {row.rank + row.moved} in {against}"
    if row.moved > 0:
        return f'<span class="rr-up" title="{escape(was)}">▲ {row.moved}</span>'
    if row.moved < 0:
        return f'<span class="rr-down" title="{escape(was)}">▼ {-row.moved}</span>'
    return f'<span class="rr-same" title="{escape(was)}">=</span>'


def _text(text: str) -> str:
    text = text.strip()
    if len(text) <= _SHORT:
        return f'<span class="rr-text">{escape(text)}</span>'
    whole = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
    return (
        f'<details class="rr-text"><summary>{escape(text[:_SHORT])}<span class="rr-more"> … more</span></summary>'
        f"{escape(whole)}</details>"
    )


def _omissions(omitted: Sequence[Omission]) -> str:
    if not omitted:
        return ""
    lines = "".join(
        f"<li>{_text(one.text)}<span class='rr-from'>{_name(one)}: {escape(one.why)}</span></li>"
        for one in omitted[:_SHOWN_ROWS]
    )
    documents = "1 document is" if len(omitted) == 1 else f"{len(omitted):,} documents are"
    return f'<details class="rr-left"><summary>{documents} not in the ranking</summary><ul>{lines}</ul></details>'


def facts(answer: Mapping[str, Any], documents: int, took_ms: float) -> str:
    """Say in a line what a ranking took."""
    usage, meta = answer.get("usage", {}), answer.get("meta", {})
    parts = [
        f"<b>{_count(documents, 'document')}</b>",
        f"<b>{_ms(took_ms)}</b>",
        _count(usage.get("total_tokens", 0), "token"),
    ]
    if meta.get("shards"):
        parts.append(f"{_count(meta['shards'], 'shard')} on {_count(meta.get('replicas', 1), 'replica')}")
    for name, words in (("cached_documents", "from the cache"), ("deduplicated_pairs", "the same as another")):
        if usage.get(name):
            parts.append(f"{usage[name]:,} {words}")
    parts.append(f"model {escape(str(answer.get('model', '?')))}")
    return f'<p class="rr-facts">{" · ".join(parts)}</p>'


def timing(stages_ms: Mapping[str, float], answer: Mapping[str, Any]) -> str:
    """Draw where the time went, and what each replica scored, as far as the service says so."""
    timings = answer.get("timings") or {}
    stages = dict(timings.get("stages_ms") or stages_ms)
    whole = timings.get("total_ms") or stages.pop("total", None) or sum(stages.values())
    return f'<div class="rr">{"".join(_stages(stages, whole))}{"".join(_shards(timings.get("shards") or ()))}</div>'


def _stages(stages_ms: Mapping[str, float], whole_ms: float) -> Iterator[str]:
    if not stages_ms or whole_ms <= 0:
        return
    yield f'<h4>Where the {_ms(whole_ms)} in the service went</h4><div class="rr-stages">'
    for name, ms in stages_ms.items():
        width = min(100.0, ms / whole_ms * 100)
        shown = escape(_STAGE_NAMES.get(name, name))
        yield f'<span>{shown}</span><span class="rr-bar"><i style="width:{width:.1f}%"></i></span><b>{_ms(ms)}</b>'
    yield "</div>"


def _shards(shards: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    if not shards:
        return
    yield (
        '<h4>Which replica scored what</h4><table class="rr-shards"><thead><tr><th>Replica</th><th>Documents</th>'
        "<th>Tokens</th><th>Waited</th><th>Model</th></tr></thead><tbody>"
    )
    for shard in shards[:_SHOWN_ROWS]:
        documents = [index + 1 for index in shard.get("documents") or ()]
        more = " …" if len(documents) > _LISTED_DOCUMENTS else ""
        listed = f"{len(documents)}: {', '.join(map(str, documents[:_LISTED_DOCUMENTS]))}{more}"
        again = f" (attempt {shard['attempts']})" if shard.get("attempts", 1) > 1 else ""
        yield (
            f"<tr><td>{escape(str(shard.get('replica') or 'none in time'))}{again}</td><td>{listed}</td>"
            f"<td>{shard.get('tokens', 0):,}</td><td>{_ms(shard.get('queue_ms') or 0)}</td>"
            f"<td>{_ms(shard.get('engine_ms') or 0)}</td></tr>"
        )
    yield "</tbody></table>"


def refusal(advice: Advice) -> str:
    """Show what went wrong and what to do."""
    return (
        f'<div class="rr-refused" role="alert"><h4>{escape(advice.title)}</h4>'
        f"<p>{escape(advice.message)}</p><p><b>{escape(advice.remedy)}</b></p></div>"
    )


def hint(text: str) -> str:
    """Show a sentence where an answer will be."""
    return f'<p class="rr-hint">{escape(text)}</p>'


def note(text: str) -> str:
    """Show a sentence."""
    return f'<p class="rr-said">{escape(text)}</p>'


def side(name: str, content: str) -> str:
    """Put a name above one of two rankings."""
    return f'<div class="rr rr-side"><h3>{escape(name)}</h3>{content}</div>'


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _ms(ms: float) -> str:
    if ms >= 1_000:
        return f"{ms / 1_000:.1f} s"
    if 0 < ms < 0.05:
        return "&lt; 0.1 ms"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def live_panel(samples: Sequence[Sample]) -> str:
    """Draw what the samples say."""
    now, last = figures(samples), samples[-1]
    tiles = [
        _tile("Requests", now.requests_per_s, "/s"),
        _tile("Documents", now.documents_per_s, "/s"),
        _tile(
            "Half within", _milliseconds(now.p50_s), "ms", "p50: half of the answers of the last seconds took no longer"
        ),
        _tile("95 % within", _milliseconds(now.p95_s), "ms", "p95"),
        _tile("Replicas", last.replicas, ""),
        _tile("In flight", last.in_flight, "lists"),
        _tile("Queue", last.queued_tokens, "tokens", "in the engines, waiting or being computed"),
        _tile("Refused", now.refused_per_s, "/s", "turned away before any work"),
    ]
    past = list(history(samples))
    plots = [
        _plot("Requests per second", [one.requests_per_s for one in past], ""),
        _plot("95 % answered within", [_milliseconds(one.p95_s) for one in past], " ms"),
        _plot("Tokens queued", [one.queued_tokens for one in samples], ""),
    ]
    uncounted = last.requests is None
    said = '<p class="rr-note">This service counts no requests (observability.metrics is off).</p>' if uncounted else ""
    drawn = f'<div class="rr-tiles">{"".join(tiles)}</div>{said}<div class="rr-plots">{"".join(plots)}</div>'
    return f'<div class="rr">{drawn}</div>'


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1e3


def _shown(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if 0 < value < 10 and value != int(value) else f"{value:,.0f}"


def _tile(name: str, value: float | None, unit: str, title: str = "") -> str:
    small = f"<small>{unit}</small>" if unit and value is not None else ""
    return f'<div class="rr-tile" title="{title}"><span>{name}</span><b>{_shown(value)}</b>{small}</div>'


def _plot(name: str, values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return ""
    most = max(known) or 1.0
    step = _PLOT_WIDTH / max(1, len(values) - 1)
    points = [
        f"{place * step:.1f},{_PLOT_HEIGHT - 4 - value / most * (_PLOT_HEIGHT - 12):.1f}"
        for place, value in enumerate(values)
        if value is not None
    ]
    line = " ".join(points)
    return (
        f'<figure class="rr-figure"><figcaption>{name}<span>up to {_shown(max(known))}{unit}</span></figcaption>'
        f'<svg class="rr-plot" viewBox="0 0 {_PLOT_WIDTH} {_PLOT_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{name}"><polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2" '
        'vector-effect="non-scaling-stroke"/></svg></figure>'
    )
