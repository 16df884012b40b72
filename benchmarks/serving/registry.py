"""The systems by name: NAME, NAME:VARIANT, and ours@CHECKOUT for another state of this repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.serving import ours, peers, vllm_serve
from benchmarks.serving.system import Bench, Launch

OURS, PEER = "ours", "vllm-serve"
DEFAULT = (OURS, PEER)
_LAUNCHES: dict[str, Callable[[Bench, str], Launch]] = {
    OURS: ours.launch,
    PEER: vllm_serve.launch,
    "ray-serve-llm": peers.ray_serve_llm,
    "transformers": peers.transformers_loop,
    "cross-encoder": peers.cross_encoder,
    "infinity": peers.infinity,
}
NAMES = tuple(_LAUNCHES)


def launch(system: str, bench: Bench) -> Launch:
    """Describe the start of a system.

    Raises:
        ValueError: There is none of this name, or no such variant.
        UnavailableError: It is not installed here.
    """
    name, _, variant = system.partition(":")
    name, _, checkout = name.partition("@")
    if name not in _LAUNCHES or (checkout and name != OURS):
        raise ValueError(f"no system {system!r}; there are {', '.join(NAMES)}")
    if checkout:
        return ours.launch(bench, variant, Path(checkout).resolve())
    return _LAUNCHES[name](bench, variant)


def is_ours(system: str) -> bool:
    """Whether this is our service, in any variant."""
    return system.partition(":")[0].partition("@")[0] == OURS
