"""What must hold, and whether it does: the limits of the issue that asked for this benchmark. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.serving.registry import OURS, PEER

MAX_MEMORY_GROWTH = 1.05


@dataclass(frozen=True, slots=True)
class Limit:
    """A figure, and what it has to be."""

    number: int
    what: str
    figure: float | None
    """None: not measured."""
    relation: Literal["<=", ">="]
    limit: float
    reach: float | None = None
    """What was hoped for."""

    @property
    def held(self) -> bool | None:
        """Whether the figure is within the limit; None where it was not measured."""
        if self.figure is None:
            return None
        return self.figure <= self.limit if self.relation == "<=" else self.figure >= self.limit

    def as_json(self) -> dict[str, Any]:
        """All fields, and the verdict."""
        return asdict(self) | {"held": self.held}

    def __str__(self) -> str:
        verdict = {True: "held", False: "NOT HELD", None: "not measured"}[self.held]
        figure = "-" if self.figure is None else f"{self.figure:.3g}"
        return f"{self.number}. {self.what}: {figure} {self.relation} {self.limit:g}: {verdict}"


def limits(shape: str, found: dict[str, dict[str, Any]], ratios: dict[str, dict[str, float]]) -> list[Limit]:
    """Judge a shape.

    Args:
        shape: Which.
        found: What `figures.summary` made.
        ratios: Ours to the peer's, as `figures.ratios` made them.
    """

    def ratio(workload: str, key: str = "pairs_per_s") -> float | None:
        return ratios.get(workload, {}).get(key)

    single = Limit(3, f"{shape}: single pair, p50, ours / {PEER}", ratio("1x1", "p50_of_1"), "<=", 1.5)
    growth = [
        Limit(5, f"{shape}: seconds per pair, 10,000 documents / 10", time_growth(found), "<=", 1.1),
        Limit(5, f"{shape}: processor time per pair, 10,000 documents / 10", processor_growth(found), "<=", 1.1),
    ]
    if shape == "nano":
        return [
            Limit(1, f"nano: pairs/s, 16 x 20, ours / {PEER}", ratio("20x16"), ">=", 1.5, 2),
            Limit(1, f"nano: pairs/s, 1 x 1,000, ours / {PEER}", ratio("1000x1"), ">=", 2, 3),
            single,
            *growth,
        ]
    if shape == "small":
        return [
            Limit(2, f"small: pairs/s, 16 x 20, ours / {PEER}", ratio("20x16"), ">=", 1.05, 1.3),
            Limit(2, f"small: pairs/s, 1 x 1,000, ours / {PEER}", ratio("1000x1"), ">=", 1.05, 1.3),
            single,
            Limit(
                4, f"small: mixed load, p99 of the lists of 10, ours / {PEER}", ratio("mixed", "p99_of_10"), "<=", 0.15
            ),
            Limit(4, f"small: mixed load, pairs/s, ours / {PEER}", ratio("mixed"), ">=", 1),
            *growth,
        ]
    return [single, *growth]


def time_growth(found: dict[str, dict[str, Any]], system: str = OURS) -> float | None:
    """Seconds per pair in a list of 10,000 against those in a list of 10, one list at a time."""
    seconds = [
        found.get(f"{documents}x1", {}).get(system, {}).get("latency_ms", {}).get(str(documents))
        for documents in (10, 10_000)
    ]
    if not all(one and one["p50"] for one in seconds):
        return None
    short, long = (one["p50"]["median"] for one in seconds)
    return float((long / 10_000) / (short / 10))


def processor_growth(found: dict[str, dict[str, Any]], system: str = OURS) -> float | None:
    """The same of processor time, of all our processes together."""
    short, long = (found.get(f"{documents}x1", {}).get(system, {}).get("cpu_ms_per_pair") for documents in (10, 10_000))
    return float(long["median"] / short["median"]) if short and long else None
