"""The playground in a real browser, on the service as `make serve` starts it, with the real demo model."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser import PHONE, Visitor, visitor
from tests.integration.conftest import Service

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
HOSTILE = "<img src=x onerror=document.title='pwned'><b>bold</b> ${document.title='pwned'} {{value}}"
PATIENCE_MS = 30_000


@contextlib.contextmanager
def person_at(service: Service) -> Iterator[Visitor]:
    """Somebody whose browser has the page open."""
    with visitor() as person:
        person.page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        arrive(person.page, service)
        yield person


@pytest.fixture(scope="module")
def person(service: Service) -> Iterator[Visitor]:
    with person_at(service) as person:
        yield person


def arrive(page: Page, service: Service) -> None:
    """Open the page; the first visitor waits while it is loaded."""
    page.goto(f"{service.url}/ui")
    expect(button(page, "Rank")).to_be_visible()
    expect(page.locator(".rr-status")).to_be_visible()


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True)


def documents_box(page: Page) -> Locator:
    return page.get_by_role("textbox", name=re.compile("^Documents")).first


def ranked(page: Page) -> list[str]:
    """The documents, best first, once there is a ranking."""
    expect(page.locator("#ranking .rr-table tbody tr").first).to_be_visible()
    return page.locator("#ranking .rr-doc .rr-text").all_inner_texts()


def fits_the_screen(page: Page) -> None:
    """Fail if anything is wider than the window."""
    width, window = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= window


def rank(page: Page, query: str, documents: list[str]) -> None:
    page.get_by_label("Query", exact=True).first.fill(query)
    documents_box(page).fill("\n".join(documents))
    button(page, "Rank").click()


def test_the_first_view_is_an_example_that_is_ranked(person: Visitor) -> None:
    page = person.page
    best = ranked(page)[0]
    assert best.startswith("The first symptoms of iron deficiency anaemia")
    top = page.locator("#ranking tbody tr").first
    assert top.locator(".rr-moved").inner_text() == "▲ 3"
    assert float(top.locator(".rr-score").inner_text()) > 0.5
    facts = page.locator("#ranking .rr-facts").inner_text()
    assert re.search(r"8 documents · .* · [\d,]+ tokens · 1 shard on 1 replica · .*model", facts)
    expect(page.get_by_text("Which replica scored what")).to_be_visible()


def test_a_page_that_is_early_says_what_is_going_on_and_fills_itself(person: Visitor, service: Service) -> None:
    starting = {"status": "starting", "message": "no engine", "replicas": [{"stage": "loading the weights"}]}
    page, before = person.page, len(person.asked)
    page.route("**/health", lambda route: route.fulfill(status=503, json=starting))
    arrive(page, service)
    hint = page.locator("#ranking .rr-hint")
    expect(hint).to_contain_text("The model is still loading (loading the weights)")
    page.unroute("**/health")
    assert ranked(page)[0].startswith("The first symptoms")
    expect(page.locator(".rr-status.ok")).to_be_visible()
    sent = [url for url in person.asked[before:] if url.endswith("/run/predict")]
    assert len(sent) == 3, "the models' names when it came and when they were ready, and the example once"


def test_every_example_has_its_answer_first(person: Visitor, service: Service) -> None:
    """The picture must be one that a person understands without help."""
    firsts = {
        "Patents": "A battery pack comprising",
        "RAG": "Carrying over parental leave",
        "Code": "with open(path)",
        "中文": "糖尿病的早期症状有口渴",
    }
    for title, first in firsts.items():
        person.page.get_by_role("radio", name=title).first.check()
        expect(person.page.locator("#ranking .rr-doc .rr-text").first).to_contain_text(first)


def test_documents_are_text_whatever_is_in_them(person: Visitor) -> None:
    page = person.page
    rank(page, f"bold {HOSTILE}", [HOSTILE, "an image of something bold"])
    expect(page.locator("#ranking")).to_contain_text("<b>bold</b> ${document.title")
    assert page.locator("#ranking .rr-table img, #ranking .rr-doc b").count() == 0
    assert page.title() == "Reranker playground"


def test_a_file_s_documents_are_ranked(person: Visitor, tmp_path: Path) -> None:
    page = person.page
    table = tmp_path / "places.csv"
    table.write_text('id,text\n1,"Paris, in France"\n2,"Beijing is the capital\nof China"\n', encoding="utf-8")
    page.locator(".rr-pick input").first.set_input_files(table)
    expect(documents_box(page)).to_have_value(re.compile("capital"))
    page.get_by_label("Query", exact=True).first.fill("capital of China")
    button(page, "Rank").click()
    expect(page.locator("#ranking .rr-doc .rr-text").first).to_have_text(
        re.compile("Beijing is the capital\\s+of China")
    )
    assert len(ranked(page)) == 2
    broken = tmp_path / "broken.jsonl"
    broken.write_text("{no json\n", encoding="utf-8")
    page.locator(".rr-pick input").first.set_input_files(broken)
    expect(page.get_by_text("Line 1 is not JSON")).to_be_visible()


def test_what_the_service_refuses_is_said_with_what_to_do(person: Visitor) -> None:
    page = person.page
    rank(page, "many " * 9_000, ["one"])
    expect(page.get_by_role("alert")).to_contain_text("The query is too long")
    expect(page.get_by_role("alert")).to_contain_text("Shorten the query")


def test_two_instructions_are_compared_side_by_side(person: Visitor) -> None:
    page = person.page
    page.get_by_role("tab", name="Compare").click()
    button(page, "Compare").click()
    expect(page.locator(".rr-side")).to_have_count(2)
    expect(page.locator("#difference")).to_contain_text(re.compile("same order|another rank|changes no score"))
    expect(page.locator(".rr-side").last.locator(".rr-moved span").first).to_have_attribute("title", re.compile("in A"))
    page.get_by_role("tab", name="Rank", exact=True).click()


def test_the_live_panel_shows_the_service_at_work(person: Visitor) -> None:
    page = person.page
    page.get_by_role("tab", name="Live").click()
    tile = page.locator(".rr-tile", has_text="Replicas").locator("b")
    expect(tile).to_have_text("1")
    plot = page.locator(".rr-figure", has_text="Pairs computed")
    expect(plot.locator("path")).to_have_count(1)
    expect(plot).to_contain_text("/s")
    page.get_by_role("tab", name="Rank", exact=True).click()


def test_on_a_phone_nothing_is_wider_than_the_screen(person: Visitor) -> None:
    page = person.page
    person.resize(PHONE)
    page.get_by_role("radio", name="RAG").first.check()
    expect(page.locator("#ranking .rr-doc .rr-text").first).to_contain_text("Carrying over parental leave")
    fits_the_screen(page)


def test_no_other_host_was_asked_for_anything(person: Visitor, service: Service) -> None:
    """Last: it looks at all that the page has asked for in the tests above."""
    hosts = {urlsplit(url).netloc for url in person.asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {f"127.0.0.1:{service.port}"}
    assert not person.complaints


def test_of_gradio_s_paths_the_service_has_those_of_the_page(service: Service) -> None:
    """What is asked for and not there is JSON, as everywhere."""
    response = httpx.get(f"{service.url}/ui/gradio_api/info")
    assert (response.status_code, response.json()["error_type"]) == (404, "http_404")
    assert json.loads(httpx.get(f"{service.url}/ui/config").text)["version"]
