"""What caches have done and hold, told as JSON; and of those of several ingress replicas, together. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

Use: TypeAlias = Mapping[str, "int | bool | Use"]
"""Numbers and truth values by name, in groups."""


def report(uses: Sequence[Use]) -> dict[str, object]:
    """Tell of all ingress replicas together: numbers as their sum, truth values as whether they hold everywhere.

    Args:
        uses: One for each ingress replica that has a cache; they have the same names.
    """
    if not uses:
        return {"enabled": False}
    total = _together(uses)
    known = int(str(total["hits"])) + int(str(total["coalesced"]))
    asked = known + int(str(total["misses"]))
    rate = round(known / asked, 4) if asked else None
    return {"enabled": True, "ingress_replicas": len(uses), "hit_rate": rate} | total


def _together(uses: Sequence[Use]) -> dict[str, object]:
    total: dict[str, object] = {}
    for name, first in uses[0].items():
        values = [use[name] for use in uses]
        if isinstance(first, Mapping):
            total[name] = _together([value for value in values if isinstance(value, Mapping)])
        elif isinstance(first, bool):
            total[name] = all(values)
        else:
            total[name] = sum(value for value in values if isinstance(value, int))
    return total
