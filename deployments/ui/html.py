"""The page's own pieces of HTML: a ranking, what it took, an error, live figures. Every text is escaped here. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from jinja2 import Environment, StrictUndefined

from deployments.ui.live import ALL, HISTORY_S, History, Step

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
_SHORTEST_S = 60.0
"""The least that a plot is wide in time: with two looks it would be all one step."""
_COLORS = ("#6366f1", "#0d9488", "#d97706", "#e11d48", "#0284c7", "#a21caf", "#65a30d", "#64748b")
"""Of a plot's lines, which are no more than these; readable on light and on dark."""
_PLOTS = (
    ("requests", "Requests", "/s"),
    ("p50", "Half answered within", "ms"),
    ("p99", "99 % answered within", "ms"),
    ("pairs", "Pairs computed", "/s"),
    ("queue", "Queue", "tokens"),
    ("cached", "From the cache", "%"),
)
"""What is drawn, and its unit."""
_TEMPLATE = """
{% set SHOWN_ROWS, LISTED_DOCUMENTS = 200, 12 %}
{% set SHORT, LONGEST = 260, 4000 %}{# characters of a document: shown at once, and when it is opened #}

{% macro hint(text) %}<p class="rr-hint">{{ text }}</p>{% endmacro %}
{% macro note(text) %}<p class="rr-said">{{ text }}</p>{% endmacro %}
{% macro side(name, content, instruction="") %}
<div class="rr rr-side"><h3>{{ name }}</h3>
<p class="rr-from">{{ instruction or "The service's default instruction" }}</p>{{ content }}</div>
{% endmacro %}

{% macro refusal(advice) %}
<div class="rr-refused" role="alert"><h4>{{ advice.title }}</h4><p>{{ advice.message }}</p>
<p><b>{{ advice.remedy }}</b></p></div>
{% endmacro %}

{# `rows`, best first; `omitted`: what is not in it; `against`: what the ranks are compared with, in words; `later`:
it is what became of the rows, not what they were #}
{% macro ranking(rows, omitted=(), against="the input", later=False) %}
<div class="rr">
{% if rows %}
<table class="rr-table"><thead><tr><th scope="col">Rank</th><th scope="col">Moved</th><th scope="col">Relevance</th>
<th scope="col">Document</th></tr></thead><tbody>
{% for row in rows[:SHOWN_ROWS] %}
<tr><td class="rr-rank">{{ row.rank }}</td><td class="rr-moved">
{% if row.moved is none %}<span class="rr-new" title="not in {{ against }}">{{ "gone" if later else "new" }}</span>
{% else %}
{% set kind, sign = ("up", "▲ ") if row.moved > 0 else ("down", "▼ ") if row.moved else ("same", "=") %}
<span class="rr-{{ kind }}" title="{{ "is" if later else "was" }} {{ row.rank + row.moved * (-1 if later else 1) }} in
{{- " " ~ against }}">{{ sign }}{{ row.moved | abs or "" }}</span>{% endif %}</td>
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
{% macro facts(answer, documents, took_ms, reads=True) %}
{% set usage, meta = answer.get("usage", {}), answer.get("meta", {}) %}
<p class="rr-facts"><b>{{ documents | count("document") }}</b> · <b>{{ took_ms | ms }}</b>
 · {{ usage.get("total_tokens", 0) | count("token") }}
{% if meta.get("shards") %} · {{ meta.shards | count("shard") }} on {{ meta.replicas | count("replica") }}{% endif %}
{% if usage.get("cached_documents") %} · {{ "{:,}".format(usage.cached_documents) }} from the cache{% endif %}
{% if usage.get("deduplicated_pairs") %} · {{ "{:,}".format(usage.deduplicated_pairs) }} the same as another{% endif %}
 · model {{ answer.get("model", "?") }}
{%- if not reads %}, which reads no instruction{% endif %}
{% set stages = answer.get("stages") or {} %}
{% if stages.get("missed") %} · {{ stages.then }} could not rank in time: it is {{ stages.first }}'s ranking{% endif %}
</p>
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

{% macro live(tiles, plots, counted, age_s) %}
<div class="rr"><div class="rr-tiles">
{% for name, value, unit, title in tiles %}
<div class="rr-tile" title="{{ title }}"><span>{{ name }}</span><b>{{ value | figure }}</b>
{%- if unit and value is not none %}<small>{{ unit }}</small>{% endif %}</div>
{% endfor %}
</div>
{% if not counted %}
<p class="rr-note">Counted requests are not shown: observability.metrics is off, or the key may not read them.</p>
{% endif %}
{% if not plots %}<p class="rr-note">The plots begin with the next look.</p>{% endif %}
<div class="rr-plots">
{% for plot in plots %}
<figure class="rr-figure"><figcaption><b>{{ plot.title }}</b>{% for line in plot.lines %}<span><i
style="background:{{ line.color }}"></i>{{ line.whose }} {{ line.now | figure }}{{ " " }}
{{- plot.unit if line.now is not none }}</span>{% endfor %}
{% if plot.left_out %}<span>and {{ plot.left_out }} more</span>{% endif %}</figcaption>
<div class="rr-plot"><small>{{ plot.most | figure }} {{ plot.unit }}</small><svg
viewBox="0 0 {{ WIDTH }} {{ HEIGHT }}" preserveAspectRatio="none" role="img" aria-label="{{ plot.title }}">
{% for line in plot.lines %}<path d="{{ line.path }}" fill="none" stroke="{{ line.color }}" stroke-width="2"
vector-effect="non-scaling-stroke"/>{% endfor %}</svg></div>
<p><small>{{ age_s | ago }}</small><small>now</small></p></figure>
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


def _ago(seconds: float) -> str:
    return f"{seconds / 60:.0f} min ago" if seconds >= 90 else f"{seconds:.0f} s ago"


_jinja = Environment(autoescape=True, trim_blocks=True, undefined=StrictUndefined)
_jinja.filters |= {"count": count, "ms": _ms, "figure": _figure, "ago": _ago}
_jinja.globals |= {"STAGE_NAMES": _STAGE_NAMES, "WIDTH": _PLOT_WIDTH, "HEIGHT": _PLOT_HEIGHT}
_macros: Any = _jinja.from_string(_TEMPLATE).module
hint, note, side, refusal = _macros.hint, _macros.note, _macros.side, _macros.refusal
ranking, facts, timing = _macros.ranking, _macros.facts, _macros.timing


class _Line(NamedTuple):
    whose: str
    color: str
    now: float | None
    path: str


class _Plot(NamedTuple):
    title: str
    unit: str
    most: float
    lines: list[_Line]
    left_out: int


def live_panel(history: History) -> str:
    """Draw what was seen of a service: figures of now, and the last half hour."""
    now, steps = history.now, history.steps
    counted = bool(history.last.counts)
    tiles = [
        ("Requests", "requests", "/s", ""),
        ("Documents", "documents", "/s", "of answered requests"),
        ("Pairs", "pairs", "/s", "computed by the engines"),
        ("Half within", "p50", "ms", "p50: half of the answers of the last seconds took no longer"),
        ("99 % within", "p99", "ms", "p99"),
        ("Replicas", "replicas", "", "engines that live"),
        ("In flight", "in_flight", "lists", ""),
        ("Queue", "queue", "tokens", "in the engines, waiting or being computed"),
        ("From the cache", "cached", "%", "of the documents that were looked up"),
        ("Refused", "refused", "/s", "turned away before any work"),
    ]
    shown = [(name, now.get(what, {}).get(ALL), unit, title) for name, what, unit, title in tiles]
    if not counted:
        shown = [one for one in shown if one[1] is not None]
    age_s = min(HISTORY_S, max(_SHORTEST_S, steps[-1].to_s - steps[0].from_s)) if steps else _SHORTEST_S
    drawn = [_plot(steps, age_s, *one) for one in _PLOTS]
    return str(_macros.live(shown, [one for one in drawn if one], counted, age_s))


def _plot(steps: Sequence[Step], age_s: float, what: str, title: str, unit: str) -> _Plot | None:
    """Draw one figure of all who have it; None if nobody does."""
    highest: dict[str, float] = {}
    for one in steps:
        for whose, value in one.figures.get(what, {}).items():
            highest[whose] = max(value, highest.get(whose, 0.0))
    each = [whose for whose in highest if whose != ALL] or list(highest)
    chosen = sorted(sorted(each, key=lambda whose: -highest[whose])[: len(_COLORS)])
    if not chosen:
        return None
    most = max(highest[whose] for whose in chosen)
    now = steps[-1].figures.get(what, {})
    lines = [
        _Line(whose, color, now.get(whose), _path(steps, age_s, what, whose, most or 1.0))
        for whose, color in zip(chosen, _COLORS, strict=False)
    ]
    return _Plot(title, unit, most, lines, len(each) - len(chosen))


def _path(steps: Sequence[Step], age_s: float, what: str, whose: str, most: float) -> str:
    """Write a line that is level through each step, and broken where nothing is known."""
    path: list[str] = []
    known = False
    for one in steps:
        value = one.figures.get(what, {}).get(whose)
        if value is not None:
            begin, end = (
                max(0.0, 1 - (steps[-1].to_s - at_s) / age_s) * _PLOT_WIDTH for at_s in (one.from_s, one.to_s)
            )
            height = _PLOT_HEIGHT - 2 - value / most * (_PLOT_HEIGHT - 20)  # above it is the scale
            path.append(f"V{height:.0f}H{end:.0f}" if known else f"M{begin:.0f} {height:.0f}H{end:.0f}")
        known = value is not None
    return "".join(path)
