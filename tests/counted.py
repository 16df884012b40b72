"""What this process has counted since a moment: prometheus_client's metrics are the process's own, as in a replica."""

from __future__ import annotations

from prometheus_client import REGISTRY
from prometheus_client.samples import Sample


class Counted:
    """Begins at 0 when it is made."""

    def __init__(self) -> None:
        self._before = {_series(one): one.value for one in _samples()}

    def __call__(self, name: str, **labels: str) -> float:
        """Give what was counted under a sample's name, over all series that have these labels."""
        return sum(
            one.value - self._before.get(_series(one), 0.0)
            for one in _samples()
            if one.name == name and labels.items() <= one.labels.items()
        )

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """Give what was counted under a sample's name, by the labels' values in their alphabetical order."""
        risen = {_series(one): one.value - self._before.get(_series(one), 0.0) for one in _samples()}
        return {
            tuple(text for _, text in labels): value for (of, labels), value in risen.items() if of == name and value
        }


def gauge(name: str) -> float | None:
    """Give what a gauge without labels says now."""
    return REGISTRY.get_sample_value(name)


def _samples() -> list[Sample]:
    return [sample for metric in REGISTRY.collect() for sample in metric.samples]


def _series(sample: Sample) -> tuple[str, tuple[tuple[str, str], ...]]:
    return sample.name, tuple(sorted(sample.labels.items()))
