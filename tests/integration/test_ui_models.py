"""The playground on a service with several models. A file of its own: its service is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser import DESKTOP, PHONE
from tests.integration.conftest import configuration, deployment, started
from tests.integration.test_ui import button, fits_the_screen, person_at, ranked
from tests.zoo import save_small_files

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def _configure(folder: Path) -> dict[str, Any]:
    """Two models that rank differently, a cascade of the two, and a model that reads no instruction."""
    plain = folder / "plain"
    plain.mkdir()
    save_small_files("bert", plain)
    simulated = {"tokens_per_s": 200_000}
    models = {
        "fast": {"name": "demo", "engine": {"simulated": simulated}},
        "best": {"name": "demo", "engine": {"simulated": simulated | {"score_seed": 1}}},
        "plain": {"name": str(plain), "engine": {"simulated": simulated}},
    }
    cascades = {"careful": {"first": "fast", "keep": 4, "then": "best"}}
    config = configuration(1, {"models": models, "default": "fast", "cascades": cascades}, ui=True)
    engine = deployment(config, "EngineReplica")
    config["applications"][0]["deployments"] += [engine | {"name": f"EngineReplica-{name}"} for name in models][1:]
    return config


def _choose(page: Page, label: str, name: str) -> None:
    page.get_by_label(label, exact=True).click()
    page.get_by_role("option", name=name, exact=True).click()
    expect(page.get_by_role("option")).to_have_count(0)


def test_models_are_compared_and_watched_on_a_desk_and_on_a_phone(tmp_path: Path) -> None:
    with started(_configure(tmp_path), tmp_path) as service, person_at(service) as person:
        page = person.page
        assert len(ranked(page)) == 8
        page.get_by_role("tab", name="Compare").click()
        said, sides = page.locator("#difference"), page.locator(".rr-side")
        expect(page.get_by_label("B: model")).to_have_value("best")
        button(page, "Compare").click()
        expect(said).to_contain_text("documents have another rank")
        expect(sides.locator("h3")).to_have_text(["A: fast", "B: best"])
        marks = [sorted(side.locator(".rr-moved").all_inner_texts()) for side in sides.all()]
        assert marks[0] == marks[1]
        assert re.search("[▲▼]", "".join(marks[0]))

        _choose(page, "B: model", "careful: fast, then best")
        button(page, "Compare").click()
        expect(sides.last.locator(".rr-mark", has_text="ranked again by best")).to_have_count(4)

        _choose(page, "A: model", "plain")
        _choose(page, "B: model", "plain")
        button(page, "Compare").click()
        expect(said).to_contain_text("they were asked the same")
        page.get_by_label("B: instruction").fill("Given a question, find a poem")
        button(page, "Compare").click()
        expect(said).to_contain_text("plain reads no instruction")
        person.resize(PHONE)
        fits_the_screen(page)

        person.resize(DESKTOP)  # on a phone the last tabs are in a menu
        page.get_by_role("tab", name="Live").click()
        expect(page.locator(".rr-figure").first).to_be_visible()  # it has looked twice: what comes now is counted
        for model in ("fast", "best", "plain", "careful"):
            service.rerank("a question", ["one", "two"], model=model)
        plot = page.locator(".rr-figure", has_text="99 % answered within")
        expect(plot.locator("path")).to_have_count(4)
        expect(page.locator(".rr-figure", has_text="Pairs computed")).to_contain_text(re.compile(r"best \w+"))
        person.resize(PHONE)
        fits_the_screen(page)
        assert not person.complaints
