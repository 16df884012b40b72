"""The loads by name: which lists, by how many clients at once, for how long. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.load import Stream, Workload

MAX_PEER_DOCUMENTS = 1_000
"""Longer lists are ours only: it is the growth of our own cost that they show."""
_NAME = re.compile(r"(\d+)x(\d+)")


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
    "4b": Pace(patience=1.5, open_pairs_per_s=300, max_pairs_per_s=4_000, side_repeated=False),
    "8b": Pace(patience=1.5, open_pairs_per_s=150, max_pairs_per_s=2_000, side_repeated=False),
}
_GRID = dict(
    zip(  # documents x clients: seconds
        ("1x1", "10x1", "20x1", "20x8", "20x16", "20x64", "200x1", "200x4", "1000x1", "10000x1"),
        (2.0, 2.0, 2.0, 3.0, 4.0, 4.0, 2.0, 3.0, 4.0, 1.0),
        strict=True,
    )
)
_SPECIAL = (
    Workload("mixed", (Stream(1, 600), Stream(2, 10)), 13),
    Workload("open", (), 8, open_pairs_per_s=1, open_mix=((0.9, 10), (0.1, 600))),
    Workload("long", (Stream(2, 10),), 4, text="long"),
    Workload("text", (Stream(8, 20),), 3, text="real"),
    Workload("hot", (Stream(8, 20),), 3, hot_lists=20),
)
NAMES = (*_GRID, *(one.name for one in _SPECIAL))
_SIDE = frozenset({"10000x1", "open", "long", "text", "hot"})


def only_ours(work: Workload) -> bool:
    """Whether no peer is asked."""
    return any(stream.documents > MAX_PEER_DOCUMENTS for stream in work.streams)


def workload(name: str, shape: str, *, quick: bool = False) -> Workload:
    """Find or make a workload: one of `NAMES`, or DOCUMENTSxCLIENTS; quick: a fifth of the time."""
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
    return [workload(name, shape, quick=quick) for name in names]
