"""Services that tests share: those of one service run after each other, and it ends after the last of them.

An idle service takes a quarter of a core from the tests of the others.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from typing import TypeVar

import pytest

T = TypeVar("T")
SHARED = ("watched", "service", "simulated", "narrow")
"""In this order; who uses two uses neighbours."""

_ends: dict[str, contextlib.ExitStack] = {}


def shared(name: str, running: contextlib.AbstractContextManager[T]) -> Iterator[T]:
    """For a fixture of the session: what it yields, until no test uses it any more."""
    with contextlib.ExitStack() as ends:
        _ends[name] = ends
        yield ends.enter_context(running)


def _used(item: pytest.Item) -> list[str]:
    """The shared services that a test asks for, by its arguments or by the value of a parameter."""
    of_parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = [*getattr(item, "fixturenames", ()), *of_parameters]
    return [name for name in SHARED if name in names]


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort them; with `pytest -n 2 --dist loadgroup` the tests of one service, or of one file, run in one process."""
    items.sort(key=lambda item: [SHARED.index(name) for name in _used(item)])
    if config.pluginmanager.hasplugin("xdist"):
        for item in items:
            item.add_marker(pytest.mark.xdist_group(next(iter(_used(item)), item.path.name)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """End what the next test does not use."""
    yield
    if nextitem is not None and not hasattr(item.config, "workerinput"):  # a process of xdist's has no such order
        for name in _ends.keys() - set(_used(nextitem)):
            _ends.pop(name).close()
