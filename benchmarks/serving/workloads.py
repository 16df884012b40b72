"""What is sent: which lists, by how many clients at once, for how long. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from benchmarks.serving.texts import TextKind

MAX_PEER_DOCUMENTS = 1_000
"""Longer lists are ours only: it is the growth of our own cost that they show."""
_NAME = re.compile(r"(\d+)x(\d+)")


@dataclass(frozen=True, slots=True)
class Stream:
    """Clients that send lists of one length, each its next one when it has its answer."""

    clients: int
    documents: int


@dataclass(frozen=True, slots=True)
class Workload:
    """One load."""

    name: str
    streams: tuple[Stream, ...]
    """Closed loops, all at once."""
    seconds: float
    """How long lists are sent; the last ones are waited for."""
    text: TextKind = "words"
    hot_lists: int = 0
    """Send only so many different lists, again and again. 0: never the same."""
    open_pairs_per_s: float = 0
    """Send lists at random moments (a Poisson process) at this rate, whatever the answers do. 0: closed loops."""
    open_mix: tuple[tuple[float, int], ...] = ()
    """Of an open loop: share of the lists, and their documents."""
    repeated: bool = True
    """Measured in every round, not only in the first."""

    @property
    def only_ours(self) -> bool:
        """Whether no peer is asked."""
        return any(stream.documents > MAX_PEER_DOCUMENTS for stream in self.streams)

    def as_json(self) -> dict[str, Any]:  # Any: JSON
        """All fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """Read what `as_json` wrote, also after it was JSON."""
        streams = tuple(Stream(**stream) for stream in fields["streams"])
        mix = tuple((float(share), int(documents)) for share, documents in fields["open_mix"])
        return cls(**(fields | {"streams": streams, "open_mix": mix}))


@dataclass(frozen=True, slots=True)
class Pace:
    """How a shape is driven."""

    patience: float = 1.0
    """Times the seconds of every workload."""
    open_pairs_per_s: float = 400
    """What the open loop offers."""
    max_pairs_per_s: float = 5_000
    """So many pairs are made ahead for every second; more are made while it runs, and counted."""
    side_repeated: bool = True
    """Whether side workloads are measured in every round."""


PACES = {
    "nano": Pace(),
    "demo": Pace(open_pairs_per_s=200),
    "small": Pace(patience=1.5, open_pairs_per_s=80, max_pairs_per_s=1_000, side_repeated=False),
    "0.6b": Pace(open_pairs_per_s=2_000, max_pairs_per_s=20_000),
}
_GRID = {  # documents x clients: seconds
    "1x1": 2.0,
    "10x1": 2.0,
    "20x1": 2.0,
    "20x8": 3.0,
    "20x16": 4.0,
    "20x64": 4.0,
    "200x1": 2.0,
    "200x4": 3.0,
    "1000x1": 4.0,
    "10000x1": 1.0,
}
_SPECIAL = (
    Workload("mixed", (Stream(1, 600), Stream(2, 10)), 13),
    Workload("open", (), 8, open_pairs_per_s=1, open_mix=((0.9, 10), (0.1, 600))),
    Workload("long", (Stream(2, 10),), 4, text="long"),
    Workload("text", (Stream(8, 20),), 3, text="real"),
    Workload("hot", (Stream(8, 20),), 3, hot_lists=20),
)
NAMES = (*_GRID, *(one.name for one in _SPECIAL))
_SIDE = frozenset({"10000x1", "open", "long", "text", "hot"})


def workload(name: str, shape: str, *, quick: bool = False) -> Workload:
    """Find or make a workload.

    Args:
        name: One of `NAMES`, or DOCUMENTSxCLIENTS.
        shape: Sets the pace.
        quick: A fifth of the time: to see whether it runs.

    Raises:
        ValueError: There is none of this name.
    """
    pace = PACES[shape]
    special = next((one for one in _SPECIAL if one.name == name), None)
    if special is None:
        grid = _NAME.fullmatch(name)
        if grid is None:
            raise ValueError(f"no workload {name!r}; there are {', '.join(NAMES)}, or DOCUMENTSxCLIENTS")
        special = Workload(name, (Stream(int(grid[2]), int(grid[1])),), _GRID.get(name, 3.0))
    return replace(
        special,
        seconds=special.seconds * pace.patience / (5 if quick else 1),
        open_pairs_per_s=pace.open_pairs_per_s if special.open_mix else 0,
        repeated=name not in _SIDE or pace.side_repeated,
    )


def workloads(names: Sequence[str], shape: str, *, quick: bool = False) -> list[Workload]:
    """Find or make workloads; see `workload`."""
    return [workload(name, shape, quick=quick) for name in names]
