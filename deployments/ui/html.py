"""The page's own pieces of HTML: a ranking, what it took, an error, live figures. Every text is escaped here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, StrictUndefined

from deployments.ui.live import Sample, figures

_STAGE_NAMES = {
    "read": "receive",
    "admit": "is there room",
    "retrieve": "find candidates",
    "cache": "known scores",
    "coalesce": "wait for another list",
    "tokenize": "make prompts",
    "queue": "wait for a turn",
    "engine": "model",
    "evidence": "find the spans",
    "respond": "write the answer",
}
"""In words, where the service's own are terms: docs/api.md."""
_PLOT_WIDTH, _PLOT_HEIGHT = 600, 100
_TEMPLATE = """
{% set SHOWN_ROWS, LISTED_DOCUMENTS = 200, 12 %}
{% set SHORT, LONGEST = 260, 4000 %}{# characters of a document: shown at once, and when it is opened #}

{% macro hint(text) %}<p class="rr-hint">{{ text }}</p>{% endmacro %}
{% macro note(text) %}<p class="rr-said">{{ text }}</p>{% endmacro %}
{% macro side(name, content) %}<div class="rr rr-side"><h3>{{ name }}</h3>{{ content }}</div>{% endmacro %}

{% macro refusal(advice) %}
<div class="rr-refused" role="alert"><h4>{{ advice.title }}</h4><p>{{ advice.message }}</p>
<p><b>{{ advice.remedy }}</b></p></div>
{% endmacro %}

{# `rows`, best first; `omitted`: what is not in it; `against`: what the ranks are compared with, in words #}
{% macro ranking(rows, omitted=(), against="the input") %}
<div class="rr">
{% if rows %}
<table class="rr-table"><thead><tr><th scope="col">Rank</th><th scope="col">Moved</th><th scope="col">Relevance</th>
<th scope="col">Document</th></tr></thead><tbody>
{% for row in rows[:SHOWN_ROWS] %}
<tr><td class="rr-rank">{{ row.rank }}</td><td class="rr-moved">
{% if row.moved is none %}<span class="rr-new" title="not in {{ against }}">new</span>{% else %}
{% set kind, sign = ("up", "▲ ") if row.moved > 0 else ("down", "▼ ") if row.moved else ("same", "=") %}
<span class="rr-{{ kind }}" title="was {{ row.rank + row.moved }} in {{ against }}">{{ sign }}
{{- row.moved | abs or "" }}</span>{% endif %}</td>
<td class="rr-score">{{ bar(row.score) }}<b>{{ "%.3f" | format(row.score) }}</b></td>
<td class="rr-doc">{{ marked(row.pieces) if row.spans else text(row.text) }}<span class="rr-from">{{ row.name }}</span>
{% for mark in row.marks %}<span class="rr-mark">{{ mark }}</span>{% endfor %}</td></tr>
{% endfor %}
</tbody></table>
{% elif omitted %}<p class="rr-note">No document is left: lower the threshold.</p>{% endif %}
{% if rows[SHOWN_ROWS:] %}
<p class="rr-note">… and {{ "{:,}".format(rows | length - SHOWN_ROWS) }} more, all of them worse.</p>
{% endif %}
{% if omitted %}
<details class="rr-left"><summary>{{ omitted | length | count("document") }}
{{ "is" if omitted | length == 1 else "are" }} not in the ranking</summary><ul>
{% for one in omitted[:SHOWN_ROWS] %}
<li>{{ text(one.text) }}<span class="rr-from">{{ one.name }}: {{ one.why }}</span></li>
{% endfor %}
</ul></details>
{% endif %}
</div>
{% endmacro %}

{% macro bar(share) %}
<span class="rr-bar"><i style="width:{{ "%.1f" | format([0, [share, 1] | min] | max * 100) }}%"></i></span>
{%- endmacro %}

{% macro text(whole) %}
{% set whole = whole.strip() %}
{% if whole | length <= SHORT %}<span class="rr-text">{{ whole }}</span>{% else %}
<details class="rr-text"><summary>{{ whole[:SHORT] }}<span class="rr-more"> … more</span></summary>
{{- whole[:LONGEST] }}{{ " …" if whole[LONGEST:] }}</details>
{%- endif %}
{% endmacro %}

{% macro marked(pieces) %}
<span class="rr-text">{% for piece, span in pieces %}{% if span %}<mark>{{ piece }}</mark>{% else %}{{ piece }}
{%- endif %}{% endfor %}</span>
{%- endmacro %}

{# What a ranking took, in a line #}
{% macro facts(answer, documents, took_ms) %}
{% set usage, meta = answer.get("usage", {}), answer.get("meta", {}) %}
<p class="rr-facts"><b>{{ documents | count("document") }}</b> · <b>{{ took_ms | ms }}</b>
 · {{ usage.get("total_tokens", 0) | count("token") }}
{% if meta.get("shards") %} · {{ meta.shards | count("shard") }} on {{ meta.replicas | count("replica") }}{% endif %}
{% if usage.get("cached_documents") %} · {{ "{:,}".format(usage.cached_documents) }} from the cache{% endif %}
{% if usage.get("deduplicated_pairs") %} · {{ "{:,}".format(usage.deduplicated_pairs) }} the same as another{% endif %}
 · model {{ answer.get("model", "?") }}</p>
{% endmacro %}

{# Where the time went, and what each replica scored, as far as the service says so #}
{% macro timing(answer) %}
{% set timings = answer.get("timings") or {} %}
{% set stages, whole = timings.get("stages_ms"), timings.get("total_ms") %}
<div class="rr">
{% if stages and whole %}
<h4>Where the {{ whole | ms }} in the service went</h4><div class="rr-stages">
{% for stage, ms in stages.items() %}
<span>{{ STAGE_NAMES.get(stage, stage) }}</span>{{ bar(ms / whole) }}<b>{{ ms | ms }}</b>
{% endfor %}
</div>
{% endif %}
{% if timings.get("shards") %}
<h4>Which replica scored what</h4><table class="rr-shards"><thead><tr><th>Replica</th><th>Documents</th>
<th>Tokens</th><th>Waited</th><th>Model</th></tr></thead><tbody>
{% for shard in timings.shards[:SHOWN_ROWS] %}
{% set documents, attempts = shard.get("documents") or (), shard.get("attempts", 1) %}
<tr><td>{{ shard.get("replica") or "none in time" }}{{ " (attempt %d)" | format(attempts) if attempts > 1 }}</td>
<td>{{ documents | length }}: {% for index in documents[:LISTED_DOCUMENTS] %}{{ index + 1 }}{{ ", " if not loop.last }}
{%- endfor %}{{ " …" if documents[LISTED_DOCUMENTS:] }}</td><td>{{ "{:,}".format(shard.get("tokens", 0)) }}</td>
<td>{{ (shard.get("queue_ms") or 0) | ms }}</td><td>{{ (shard.get("engine_ms") or 0) | ms }}</td></tr>
{% endfor %}
</tbody></table>
{% endif %}
</div>
{% endmacro %}

{% macro live(tiles, plots, counted) %}
<div class="rr"><div class="rr-tiles">
{% for name, value, unit, title in tiles %}
<div class="rr-tile" title="{{ title }}"><span>{{ name }}</span><b>{{ value | figure }}</b>
{%- if unit and value is not none %}<small>{{ unit }}</small>{% endif %}</div>
{% endfor %}
</div>
{% if not counted %}<p class="rr-note">This service counts no requests (observability.metrics is off).</p>{% endif %}
<div class="rr-plots">
{% for name, most, unit, points in plots %}
<figure class="rr-figure"><figcaption>{{ name }}<span>up to {{ most | figure }}{{ unit }}</span></figcaption>
<svg class="rr-plot" viewBox="0 0 {{ WIDTH }} {{ HEIGHT }}" preserveAspectRatio="none" role="img"
aria-label="{{ name }}"><polyline points="{{ points }}" fill="none" stroke="currentColor"
stroke-width="2" vector-effect="non-scaling-stroke"/></svg></figure>
{% endfor %}
</div></div>
{% endmacro %}
"""


def count(number: int, thing: str) -> str:
    """Write a number of things: 1 token, 1,234 tokens."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def _ms(ms: float) -> str:
    if ms >= 1_000:
        return f"{ms / 1_000:.1f} s"
    if 0 < ms < 0.05:
        return "< 0.1 ms"
    return f"{ms:.0f} ms" if ms >= 10 else f"{ms:.1f} ms"


def _figure(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.1f}" if 0 < value < 10 and value != int(value) else f"{value:,.0f}"


_jinja = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
_jinja.filters |= {"count": count, "ms": _ms, "figure": _figure}
_jinja.globals |= {"STAGE_NAMES": _STAGE_NAMES, "WIDTH": _PLOT_WIDTH, "HEIGHT": _PLOT_HEIGHT}
_macros: Any = _jinja.from_string(_TEMPLATE).module
hint, note, side, refusal = _macros.hint, _macros.note, _macros.side, _macros.refusal
ranking, facts, timing = _macros.ranking, _macros.facts, _macros.timing


def live_panel(samples: Sequence[Sample]) -> str:
    """Draw what the samples say."""
    last, past = samples[-1], [figures(samples[: end + 1]) for end in range(len(samples))]
    now = past[-1]
    tiles = [
        ("Requests", now.requests_per_s, "/s", ""),
        ("Documents", now.documents_per_s, "/s", ""),
        ("Half within", now.p50_ms, "ms", "p50: half of the answers of the last seconds took no longer"),
        ("95 % within", now.p95_ms, "ms", "p95"),
        ("Replicas", last.replicas, "", ""),
        ("In flight", last.in_flight, "lists", ""),
        ("Queue", last.queued_tokens, "tokens", "in the engines, waiting or being computed"),
        ("Refused", now.refused_per_s, "/s", "turned away before any work"),
    ]
    plots = []
    for name, values, unit in (
        ("Requests per second", [one.requests_per_s for one in past], ""),
        ("95 % answered within", [one.p95_ms for one in past], " ms"),
        ("Tokens queued", [one.queued_tokens for one in samples], ""),
    ):
        known = {place: value for place, value in enumerate(values) if value is not None}
        if len(known) > 1:
            most = max(known.values())
            step, scale = _PLOT_WIDTH / (len(values) - 1), (_PLOT_HEIGHT - 12) / (most or 1.0)
            points = (f"{place * step:.1f},{_PLOT_HEIGHT - 4 - value * scale:.1f}" for place, value in known.items())
            plots.append((name, most, unit, " ".join(points)))
    return str(_macros.live(tiles, plots, last.requests is not None))
