"""The playground on a service with keys. A file of its own: one browser at a time, and test_ui.py keeps one open."""

from __future__ import annotations

import socket
import time

import httpx
import pytest
from playwright.sync_api import expect

from tests.integration.conftest import NARROW_KEY, Service
from tests.integration.test_ui import button, person_at, ranked

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_with_keys_the_page_asks_for_one_and_tells_nobody(narrow: Service) -> None:
    """Also in the address of a request it must not be: addresses are logged."""
    with person_at(narrow) as person:
        page = person.page
        expect(page.locator("#ranking .rr-hint")).to_contain_text("With an API key")
        assert not [url for url in person.asked if "/run/" in url]
        button(page, "Rank").click()
        expect(page.get_by_role("alert")).to_contain_text("An API key is needed")
        page.get_by_label("API key").fill("wrong")
        button(page, "Rank").click()
        expect(page.get_by_role("alert")).to_contain_text("not known")
        page.get_by_label("API key").fill(NARROW_KEY)
        page.get_by_label("API key").blur()
        assert len(ranked(page)) == 8, "the example, unasked"
        assert not [url for url in person.asked if NARROW_KEY in url]
        assert NARROW_KEY not in page.locator(".cm-content").all_inner_texts()
    assert NARROW_KEY not in narrow.log.read_text()


def test_a_tab_searches_its_example_s_index_and_says_which_command_starts_another(narrow: Service) -> None:
    with person_at(narrow) as person:
        page = person.page
        page.get_by_label("API key").fill(NARROW_KEY)
        page.get_by_role("tab", name="Documents for RAG").click()
        tab = page.get_by_role("tabpanel").filter(has=page.locator("#found-docs"))
        tab.get_by_label("Query", exact=True).fill("a captain hunts a whale")
        tab.get_by_role("button", name="Search").click()
        rows = tab.locator("#found-docs .rr-table tbody tr")
        expect(rows.filter(has_text="A captain hunts a white whale.")).to_have_count(1)
        expect(tab.locator(".cm-content")).to_contain_text("Answer the question from these sources only")
        page.get_by_role("tab", name="Patents").click()
        other = page.get_by_role("tabpanel").filter(has=page.locator("#found-patents"))
        other.get_by_role("button", name="Search").click()
        expect(page.get_by_role("alert")).to_contain_text("make example-patents")
        assert not person.complaints


def test_what_is_sent_to_the_page_without_a_key_is_refused_before_its_body_is_read(narrow: Service) -> None:
    """The answer comes although nothing of the body is sent."""
    for path in ("/ui/gradio_api/run/predict", "/ui/gradio_api/queue/join"):
        with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as connection:
            head = f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-encoding: gzip\r\ncontent-length: 8000000\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(64).startswith(b"HTTP/1.1 401")


def test_nothing_is_kept_of_what_pages_sent_that_are_gone(narrow: Service) -> None:
    [playground] = narrow.replica_processes("Playground")

    def mib() -> float:
        return playground.memory_info().rss / 2**20

    with httpx.Client(base_url=narrow.url, headers=narrow.headers, timeout=60) as client:
        page_config = client.get("/ui/config").json()
        props = {one["id"]: one["props"] for one in page_config["components"]}
        rank = next(
            one
            for one in page_config["dependencies"]
            if "ranking" in {props[out].get("elem_id") for out in one["outputs"]}
        )
        options = [props[one]["value"] for one in rank["inputs"][3:]]
        before_mib = mib()
        for page in range(50):
            fields = ["q", "a " * 300_000, "http://a", *options]
            event = {"fn_index": rank["id"], "session_hash": f"page-{page}", "data": fields}
            assert client.post("/ui/gradio_api/run/predict", json=event).status_code == 200
    deadline = time.monotonic() + 30
    while mib() > min(1.3 * before_mib, before_mib + 64):
        assert time.monotonic() < deadline, f"{before_mib:.0f} MiB before, {mib():.0f} MiB after"
        time.sleep(1)
