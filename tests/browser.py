"""Debian's chromium, driven by Playwright. The URLs that a page asks for are kept: tests look for other hosts."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field

from playwright.sync_api import Page, sync_playwright

from tests.programs import program

_QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
_SILENT = ("--disable-component-update", "--disable-sync")
DESKTOP, PHONE = (1280, 900), (390, 844)


@dataclass(slots=True)
class Visitor:
    """A person at a browser: one page of it, and what it has asked for."""

    page: Page
    asked: list[str] = field(default_factory=list)
    """URLs, of every request."""
    complaints: list[str] = field(default_factory=list)
    """Errors of the page's scripts, and what its policy kept it from."""

    def resize(self, size: tuple[int, int]) -> None:
        """Make the window another size, in pixels."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})


@contextlib.contextmanager
def visitor(*, dark: bool = False, size: tuple[int, int] = DESKTOP, scale: float = 1) -> Iterator[Visitor]:
    """Open a browser that nobody has used before.

    Args:
        dark: The system's colours.
        size: Of the window, in pixels.
        scale: Device pixels for each; for pictures.
    """
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile,
            executable_path=program("chromium"),
            headless=True,
            args=[*_QUIET, *_SILENT],
            viewport={"width": size[0], "height": size[1]},
            device_scale_factor=scale,
            color_scheme="dark" if dark else "light",
            locale="en-GB",
            permissions=["clipboard-read", "clipboard-write"],
        )
        page = context.pages[0]
        person = Visitor(page)
        page.on("request", lambda request: person.asked.append(request.url))
        page.on("pageerror", lambda error: person.complaints.append(str(error)))
        page.on("console", lambda said: person.complaints.append(said.text) if "Policy" in said.text else None)
        yield person
        context.close()
