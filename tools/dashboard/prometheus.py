"""Asks a Prometheus server; for the picture and the tests."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from typing import Any

import httpx

from tools.dashboard.panels import WINDOW


@dataclass(frozen=True, slots=True)
class Line:
    """One series of an answer."""

    labels: dict[str, str]
    points: list[tuple[float, float]]
    """(Unix time, value)."""

    def name(self, legend: str) -> str:
        return re.sub(r"\{\{(\w+)\}\}", lambda found: self.labels.get(found[1], ""), legend)


class Prometheus:
    """A server at an address."""

    def __init__(self, url: str, window: str = "1m") -> None:
        """The window stands in for Grafana's rate interval; four times the scrape interval or more."""
        self._url, self._window = url, window
        self._tls = ssl.create_default_context()  # to make one takes longer than a query

    def now(self, promql: str) -> list[Line]:
        return [
            Line(one["metric"], [(float(one["value"][0]), float(one["value"][1]))])
            for one in self._ask("query", {"query": self._filled(promql)})
        ]

    def between(self, promql: str, start_s: float, end_s: float, step_s: float) -> list[Line]:
        asked = {"query": self._filled(promql), "start": start_s, "end": end_s, "step": step_s}
        return [
            Line(one["metric"], [(float(at_s), float(value)) for at_s, value in one["values"]])
            for one in self._ask("query_range", asked)
        ]

    def alerts(self) -> dict[str, str]:
        """Alerts that are pending or firing, by name."""
        found = self._get("alerts").json()["data"]["alerts"]
        return {one["labels"]["alertname"]: one["state"] for one in found}

    def _get(self, what: str, asked: dict[str, Any] | None = None) -> httpx.Response:  # Any: JSON
        return httpx.get(f"{self._url}/api/v1/{what}", params=asked, timeout=30, verify=self._tls)

    def _filled(self, promql: str) -> str:
        return promql.replace(WINDOW, self._window)

    def _ask(self, what: str, asked: dict[str, Any]) -> list[dict[str, Any]]:  # Any: JSON
        response = self._get(what, asked)
        answer = response.json()
        if answer["status"] != "success":
            raise ValueError(f"{asked['query']}: {answer['error']}")
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found
