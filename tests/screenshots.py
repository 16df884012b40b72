"""Take the pictures of the playground that the docs show, from a running service.

It has the demo model, a variant of it that knows the words of hospitals, and the index of an example:

reranker index build docs --out build/pictures/docs --chunk-tokens 256 --overlap-tokens 32
python -m tests.screenshots --configure build/pictures
reranker serve --config build/pictures/serve_config.yaml --index docs=build/pictures/docs
python -m tests.screenshots --url http://127.0.0.1:8000
"""

import argparse
import re
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import yaml
from PIL import Image
from playwright.sync_api import Page, expect

from deployments.ui.documents import EXAMPLES
from tests.browser import DESKTOP, PHONE, visitor
from tests.models import save_hospital_demo

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
_PATIENCE_MS = 60_000
_MAX_HEIGHT = 3_000
_LOADS_S = 120
"""The service is given work for this time before the picture of the live panel, whose plots show the last half hour."""
_QUERY = "Which patient has kidney trouble?"
_DOCUMENTS = [
    "Seen on Monday: heart problem, the ECG will be repeated.",
    "Seen on Monday: renal problem, creatinine is high.",
    "The trouble with patients is that they have none.",
    "Seen on Tuesday: hepatic problem, no alcohol.",
    "Kidney beans are soaked overnight and boiled for ten minutes.",
    "Seen on Tuesday: cutaneous problem on the left arm.",
    "Seen on Friday: kidney stones, much to drink.",
]
"""What the two models see with other eyes."""


def configure(folder: Path) -> None:
    """Write the configuration of the service, and its second model."""
    folder.mkdir(parents=True, exist_ok=True)
    save_hospital_demo(folder / "hospital")
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    application = config["applications"][0]
    application["args"] = {
        "models": {
            "demo": {"name": "demo", "engine": {"cpus": 0.5}},
            "hospital": {"name": str(folder.resolve() / "hospital"), "engine": {"cpus": 0.5}},
        },
        "default": "demo",
        "cascades": {"careful": {"first": "demo", "keep": 4, "then": "hospital"}},
    }
    [engine] = [one for one in application["deployments"] if one["name"] == "EngineReplica"]
    application["deployments"].append(engine | {"name": "EngineReplica-hospital"})
    (folder / "serve_config.yaml").write_text(yaml.safe_dump(config))


def _first_view(page: Page) -> None:
    expect(page.locator("#ranking .rr-table")).to_be_visible(timeout=_PATIENCE_MS)


def _chinese(page: Page) -> None:
    page.get_by_role("radio", name="中文").first.check()
    expect(page.locator("#ranking .rr-doc .rr-text").first).to_contain_text("糖尿病", timeout=_PATIENCE_MS)


def _compare(page: Page) -> None:
    page.get_by_role("tab", name="Compare").click()
    panel = page.get_by_role("tabpanel").filter(has=page.locator("#difference"))
    panel.get_by_label("Query", exact=True).fill(_QUERY)
    panel.get_by_role("textbox", name=re.compile("^Documents")).fill("\n".join(_DOCUMENTS))
    expect(panel.get_by_label("B: model")).to_have_value("hospital", timeout=_PATIENCE_MS)
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
    began_s = time.monotonic()
    with httpx.Client(base_url=url, timeout=30) as client:
        while (age_s := time.monotonic() - began_s) < _LOADS_S:
            for model in ("demo", "demo", "hospital", "careful"):
                for example in list(EXAMPLES.values())[: 2 + int(age_s / 30) % 4]:
                    cache = "off" if int(age_s / 40) % 2 else None
                    body = {"query": example.query, "documents": example.documents, "model": model, "cache": cache}
                    client.post("/v1/rerank", json=body).raise_for_status()
            page.wait_for_timeout(200)


PICTURES: tuple[tuple[str, Callable[[Page], None], bool, tuple[int, int]], ...] = (
    ("playground", _first_view, False, DESKTOP),
    ("playground-compare", _compare, False, DESKTOP),
    ("playground-live", _live, False, DESKTOP),
    ("playground-search", _search, False, DESKTOP),
    ("playground-dark", _chinese, True, DESKTOP),
    ("playground-phone", _first_view, False, PHONE),
)
"""Name, what is done first, whether in the dark, and the size of the window."""


def main() -> int:
    """Take them all; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="the service (%(default)s)")
    parser.add_argument("--only", choices=[name for name, *_ in PICTURES], help="this one (all)")
    parser.add_argument("--into", type=Path, default=IMAGES, help="folder for the pictures (%(default)s)")
    parser.add_argument(
        "--configure", type=Path, help="write the service's configuration into this folder, no pictures"
    )
    options = parser.parse_args()
    if options.configure:
        configure(options.configure)
        return 0
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
