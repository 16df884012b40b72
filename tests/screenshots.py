"""Take the pictures of the playground that the docs show, from a running service with the demo model and the examples.

examples/search/run.sh all
python -m tests.screenshots --url http://127.0.0.1:8000
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import httpx
from PIL import Image
from playwright.sync_api import Page, expect

from deployments.ui.documents import EXAMPLES
from tests.browser import DESKTOP, PHONE, visitor

IMAGES = Path(__file__).parents[1] / "docs" / "images"
_PATIENCE_MS = 60_000
_MAX_HEIGHT = 3_000
_LOADS_S = 25
"""The service is given work for this time before the picture of the live panel, whose plots show the last minutes."""


def _rank(page: Page) -> None:
    page.get_by_role("button", name="Rank", exact=True).click()
    expect(page.locator("#ranking .rr-table")).to_be_visible(timeout=_PATIENCE_MS)


def _chinese(page: Page) -> None:
    page.get_by_role("radio", name="中文").first.check()
    expect(page.locator("#ranking .rr-doc .rr-text").first).to_contain_text("糖尿病", timeout=_PATIENCE_MS)


def _compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.locator(".rr-side")).to_have_count(2, timeout=_PATIENCE_MS)


def _search(page: Page) -> None:
    page.get_by_role("tab", name="Documents for RAG").click()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#found-docs"))
    panel.get_by_role("button", name="Search").click()
    expect(panel.locator(".rr-table")).to_be_visible(timeout=_PATIENCE_MS)


def _live(page: Page) -> None:
    page.get_by_role("tab", name="Live").click()
    expect(page.locator(".rr-tiles")).to_be_visible(timeout=_PATIENCE_MS)
    url = page.url.partition("/ui")[0]
    with httpx.Client(base_url=url, timeout=30) as client:
        until_s = time.monotonic() + _LOADS_S
        while time.monotonic() < until_s:
            for example in EXAMPLES.values():
                body = {"query": example.query, "documents": example.documents, "cache": "off"}
                client.post("/v1/rerank", json=body).raise_for_status()
            page.wait_for_timeout(200)


PICTURES: tuple[tuple[str, Callable[[Page], None], bool, tuple[int, int]], ...] = (
    ("playground", _rank, False, DESKTOP),
    ("playground-compare", _compare, False, DESKTOP),
    ("playground-live", _live, False, DESKTOP),
    ("playground-search", _search, False, DESKTOP),
    ("playground-dark", _chinese, True, DESKTOP),
    ("playground-phone", _rank, False, PHONE),
)
"""Name, what is done first, whether in the dark, and the size of the window."""


def main() -> int:
    """Take them all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service (%(default)s)")
    parser.add_argument("--only", choices=[name for name, *_ in PICTURES], help="this one (all)")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder for the pictures (%(default)s)")
    options = parser.parse_args()
    options.into.mkdir(parents=True, exist_ok=True)
    for name, do, dark, size in PICTURES:
        if options.only not in (None, name):
            continue
        with visitor(dark=dark, size=size) as person:
            person.page.goto(f"{options.url}/ui")
            expect(person.page.locator(".rr-status.ok")).to_be_visible(timeout=_PATIENCE_MS)
            do(person.page)
            person.page.wait_for_timeout(500)  # what fades in has faded in
            path = options.into / f"{name}.png"
            person.page.screenshot(path=path, full_page=True)
            picture = Image.open(path).convert("RGB")
            picture = picture.crop((0, 0, picture.width, min(picture.height, _MAX_HEIGHT)))
            picture.quantize(128).save(path, optimize=True)  # a third of the size; it looks the same
            print(f"{path}: {path.stat().st_size // 1024} KiB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
