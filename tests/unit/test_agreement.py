"""How two rankings compare, in numbers that were worked out by hand or by another library, and in words."""

from __future__ import annotations

import random
from typing import Any

import httpx
import pytest
from scipy import stats  # type: ignore[import-untyped]

from deployments.cli import compare as command
from deployments.cli.main import main
from reranker.ranking import agreement
from reranker.ranking.agreement import Agreement, compare
from reranker.ranking.shadow import report
from tests.unit.doors import KEYS, WordBackend, door, visitor


def test_figures_of_one_list_by_hand() -> None:
    # Places 0 and 1 exchanged: squares 1 + 1, so 1 - 6 * 2 / (4 * 15).
    assert compare([2, 0, 1, 3], [0, 2, 1, 3]) == Agreement("2-10", True, 0.8, None)
    assert compare([2, 0, 1, 3], [2, 0, 1, 3]) == Agreement("2-10", False, 1.0, None)
    assert compare([0, 1], [1, 0]) == Agreement("2-10", True, -1.0, None)
    twelve = list(range(12))
    # The last two come first: of the first ten, eight are the same.
    found = compare(twelve, [10, 11, *range(10)])
    squares = 2 * 10**2 + 10 * 2**2
    assert found == Agreement("11-100", True, 1 - 6 * squares / (12 * 143), 0.8)


@pytest.mark.parametrize(("count", "size"), [(2, "2-10"), (10, "2-10"), (11, "11-100"), (100, "11-100"), (101, ">100")])
def test_correlation_is_spearmans_of_the_places(count: int, size: str) -> None:
    draw = random.Random(count)
    first, second = draw.sample(range(count), count), draw.sample(range(count), count)
    places = [[order.index(document) for document in range(count)] for order in (first, second)]
    found = compare(first, second)
    assert found.size == size
    assert found.correlation == pytest.approx(stats.spearmanr(*places).statistic)


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (37, 1_204), (5, 5), (1, 2)])
def test_interval_of_a_share_is_wilsons(hits: int, count: int) -> None:
    wanted = stats.binomtest(hits, count).proportion_ci(method="wilson")
    assert agreement.wilson(hits, count) == pytest.approx((wanted.low, wanted.high), abs=1e-6)


def _state(*found: Agreement, dropped: int = 0, other: str = "best", **more: Any) -> dict[str, Any]:
    sums = agreement.nothing()
    for one in found:
        agreement.add(sums, one)
    sums["dropped"]["load"] += dropped
    return (
        {"of": "fast", "with": other, "instruction": None, "share": 0.05, "since": 1_700_000_000.9}
        | more
        | {"sums": sums}
    )


FIRST = _state(Agreement("11-100", True, 0.5, 0.8), Agreement("2-10", False, 1.0, None), dropped=2)
SECOND = _state(Agreement("11-100", False, 0.9, 1.0), Agreement(">100", False, 0.8, 0.6), since=1_600_000_000)


def test_report_is_of_all_ingress_replicas() -> None:
    said = report([[FIRST], [SECOND]])
    assert said["ingress_replicas"] == 2
    [one] = said["shadows"]
    assert (one["lists"], one["since"], one["dropped"]) == (4, 1_600_000_000, {"load": 2})
    low, high = agreement.wilson(1, 4)
    assert low is not None
    assert high is not None
    assert one["first_place_differs"] == {"lists": 1, "share": 0.25, "low": round(low, 6), "high": round(high, 6)}
    values = [0.5, 1.0, 0.9, 0.8]
    half = 1.959964 * stats.sem(values)
    assert one["rank_correlation"] == pytest.approx({"mean": 0.8, "low": 0.8 - half, "high": 1.0}, abs=1e-6)
    half = 1.959964 * stats.sem([0.8, 1.0, 0.6])
    overlap = {"mean": 0.8, "low": 0.8 - half, "high": 1.0, "lists": 3}
    assert one["overlap_at_10"] == pytest.approx(overlap, abs=1e-6)
    assert {size: found["lists"] for size, found in one["by_size"].items()} == {"2-10": 1, "11-100": 2, ">100": 1}
    assert one["by_size"]["11-100"]["overlap_at_10"]["mean"] == pytest.approx(0.9)
    assert one["by_size"]["2-10"]["overlap_at_10"] == {"mean": None, "low": None, "high": None, "lists": 0}


def test_shadows_that_differ_are_reported_apart() -> None:
    said = report([[FIRST], [_state(instruction="@medical"), _state(other="none")]])
    assert [(one["with"], one["instruction"], one["lists"]) for one in said["shadows"]] == [
        ("best", None, 2),
        ("best", "@medical", 0),
        ("none", None, 0),
    ]


def test_report_in_words() -> None:
    found = [Agreement("11-100", number < 37, 0.9, 0.9) for number in range(1_204)]
    [one] = report([[_state(*found, dropped=1_300)]])["shadows"]
    assert (
        "\n".join(command.lines([one]))
        == """\
fast beside best (5 % of its lists, since 2023-11-14 22:13 UTC)
  first place differs in 3.1 % [2.2, 4.2] of 1,204 lists
  same documents in the first ten: 90.0 % [90.0, 90.0] of 1,204 lists with more than ten documents
  rank correlation 0.900 [0.900, 0.900]
  documents  lists  first place differs  same in first ten    rank correlation
  2-10       0      –                    –                    –
  11-100     1,204  3.1 % [2.2, 4.2]     90.0 % [90.0, 90.0]  0.900 [0.900, 0.900]
  >100       0      –                    –                    –
  not compared: 1,300 more (load 1,300)"""
    )
    [other] = report([[_state(other="none", instruction="to be found")]])["shadows"]
    lines = list(command.lines([one, other]))
    assert lines[9:12] == [
        "",
        "fast beside the client's own order under 'to be found' (5 % of its lists, since 2023-11-14 22:13 UTC)",
        "  first place differs in – of 0 lists",
    ]
    assert list(command.lines([])) == [command._NONE]


class _Compared(WordBackend):
    async def comparison(self) -> Any:
        return report([[FIRST], [SECOND]])


async def test_route_answers_whoever_has_a_key() -> None:
    app = door(_Compared(), keys=KEYS)
    async with visitor(app) as client:
        refused = await client.get("/v1/compare")
        answer = await client.get("/v1/compare", headers={"Authorization": "Bearer team-key"})
        described = (await client.get("/openapi.json")).json()["paths"]["/v1/compare"]
    assert (refused.status_code, answer.status_code) == (401, 200)
    assert answer.json() == report([[FIRST], [SECOND]])
    assert set(described) == {"get"}


def test_command_asks_the_service(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = httpx.AsyncClient

    def client(**options: Any) -> httpx.AsyncClient:
        return real(base_url=options["base_url"], transport=httpx.ASGITransport(app=door(_Compared(), keys=KEYS)))

    monkeypatch.setattr(httpx, "AsyncClient", client)
    monkeypatch.setenv("RERANKER_API_KEY", "team-key")
    assert main(["compare", "--url", "http://door"]) == 0
    assert "first place differs in 25.0 % [4.6, 69.9] of 4 lists" in capsys.readouterr().out
    assert main(["compare", "--url", "http://door", "--json"]) == 0
    assert '"ingress_replicas": 2' in capsys.readouterr().out
    monkeypatch.setenv("RERANKER_API_KEY", "another")
    assert main(["compare", "--url", "http://door"]) == 1
