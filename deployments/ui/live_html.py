"""The live panel as HTML: a tile for each figure, and a line for its last minutes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.ui.live import Sample, course, reading

_WIDTH, _HEIGHT = 600, 100


def panel(samples: Sequence[Sample]) -> str:
    """Draw what the samples say."""
    now, last = reading(samples), samples[-1]
    tiles = [
        _tile("Requests", now.requests_per_s, "/s"),
        _tile("Documents", now.documents_per_s, "/s"),
        _tile("Half within", _ms(now.p50_s), "ms", "p50: half of the answers of the last seconds took no longer"),
        _tile("95 % within", _ms(now.p95_s), "ms", "p95"),
        _tile("Replicas", last.replicas, ""),
        _tile("In flight", last.in_flight, "lists"),
        _tile("Queue", last.queued_tokens, "tokens", "in the engines, waiting or being computed"),
        _tile("Refused", now.refused_per_s, "/s", "turned away before any work"),
    ]
    past = list(course(samples))
    plots = [
        _plot("Requests per second", [one.requests_per_s for one in past], ""),
        _plot("95 % answered within", [_ms(one.p95_s) for one in past], " ms"),
        _plot("Tokens queued", [one.queued_tokens for one in samples], ""),
    ]
    uncounted = last.requests is None
    said = '<p class="rr-note">This service counts no requests (observability.metrics is off).</p>' if uncounted else ""
    drawn = f'<div class="rr-tiles">{"".join(tiles)}</div>{said}<div class="rr-plots">{"".join(plots)}</div>'
    return f'<div class="rr">{drawn}</div>'


def _ms(seconds: float | None) -> float | None:
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
    step = _WIDTH / max(1, len(values) - 1)
    points = [
        f"{place * step:.1f},{_HEIGHT - 4 - value / most * (_HEIGHT - 12):.1f}"
        for place, value in enumerate(values)
        if value is not None
    ]
    line = " ".join(points)
    return (
        f'<figure class="rr-figure"><figcaption>{name}<span>up to {_shown(max(known))}{unit}</span></figcaption>'
        f'<svg class="rr-plot" viewBox="0 0 {_WIDTH} {_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="{name}"><polyline points="{line}" fill="none" stroke="currentColor" stroke-width="2" '
        'vector-effect="non-scaling-stroke"/></svg></figure>'
    )
