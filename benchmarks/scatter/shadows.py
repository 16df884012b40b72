"""Shadows: do live lists notice that each of them is ranked a second time, and a third?

Two services, alike but for `shadows`: one has none, the other two of every list: by another model, which has an engine
of its own, and by the same engine under another instruction. All engines are simulated, at the default cost. In
alternating rounds, on both:

- full load: clients who always have lists waiting, less than admission lets queue;
- overload: lists at random moments (a Poisson process) at twice the capacity that the service without shadows had.

Before them, lists come one after the other with pauses, to see that shadows are there at all. Limits: throughput and
p99 of live lists at full load, and what is ranked in the overload, are at least 0.97 times those without; in the
overload fewer than a hundredth of the lists have a shadow.
"""

import asyncio
import itertools
import random
import statistics
import time
from contextlib import ExitStack
from typing import Any

import httpx

from benchmarks import models
from benchmarks.load import Answer, Client, require_ok, took
from benchmarks.results import Result, percentiles, say
from benchmarks.service import Server, running
from benchmarks.texts import Lists

DOCUMENTS, WORDS, CLIENTS = 20, 91, 32
WITHOUT, WITH = "without", "with"
_SHADOWS = [{"with": "best", "share": 1}, {"instruction": "Given a question, find what answers it", "share": 1}]
_LEAST, _SETTLE_S = 0.97, 8.0


def run(quick: bool) -> Result:
    rounds, seconds = (2, 4) if quick else (5, 15)
    result = Result(
        "Do live lists notice that each is ranked again by shadows?",
        {"documents": DOCUMENTS, "words_per_document": WORDS, "clients": CLIENTS, "shadows": _SHADOWS}
        | {"rounds": rounds, "seconds": seconds, "simulated": "default cost"},
    )
    with ExitStack() as stack:
        services = {
            arm: stack.enter_context(running(_args(arm), 1, simulated=False, name=arm)) for arm in (WITHOUT, WITH)
        }
        for service in services.values():
            while httpx.get(f"{service.url}/health", timeout=30).json()["models"]["best"]["status"] != "ok":
                time.sleep(0.2)
        asyncio.run(_measure(services, result, rounds, seconds))
    return result


def _args(arm: str) -> dict[str, Any]:
    model = {"name": str(models.checkpoint("nano"))}
    engines = {name: {"cpus": 0.5, "simulated": {"score_seed": seed}} for seed, name in enumerate(("fast", "best"))}
    each = {name: model | {"engine": engine} for name, engine in engines.items()}
    return {"models": each, "default": "fast", "shadows": _SHADOWS if arm == WITH else []}


async def _measure(services: dict[str, Server], result: Result, rounds: int, seconds: float) -> None:
    lists = Lists(7)
    bodies = [lists.body(DOCUMENTS, WORDS) for _ in range(2_000)]
    endless = itertools.cycle(bodies)  # engines are simulated: nothing is cached
    async with Client(services[WITH].url) as client:
        require_ok(await client.one_by_one(bodies[:10]))
        before = _shadowed(services[WITH])
        require_ok(await client.one_by_one(bodies[:40], pause_s=0.3))
        await asyncio.sleep(_SETTLE_S / 4)
    result.raw["shadows of 40 lists in calm"] = [_shadowed(services[WITH])[n] - before[n] for n in range(2)]
    say(f"calm: shadows {result.raw['shadows of 40 lists in calm']} of 40 lists")

    found: dict[str, dict[str, list[float]]] = {arm: {"lists_per_s": [], "p99_s": [], "ranked": []} for arm in services}
    shadowed: dict[str, list[int]] = {"full load": [], "overload": []}
    for number in range(rounds):
        for arm in sorted(services, reverse=number % 2 == 0):
            async with Client(services[arm].url) as client:
                end_s = time.perf_counter() + seconds
                before = _shadowed(services[arm])
                answers = await client.in_loops(CLIENTS, endless, lambda: time.perf_counter() < end_s)  # noqa: B023
                require_ok(answers)
            shadowed["full load"].append(sum(_shadowed(services[arm])) - sum(before))
            rate = len(answers) / (max(one.sent_s + one.took_s for one in answers) - answers[0].sent_s)
            found[arm]["lists_per_s"].append(rate)
            found[arm]["p99_s"].append(percentiles(took(answers))["p99"])
            await asyncio.sleep(_SETTLE_S / 4)
        say({arm: {key: round(of[-1], 3) for key, of in one.items() if of} for arm, one in found.items()})
    capacity = statistics.median(found[WITHOUT]["lists_per_s"])
    sent, statuses = 0, dict[str, list[dict[int, int]]]()
    for number in range(rounds):
        draw = random.Random(number)
        moments_s = list(
            itertools.accumulate(draw.expovariate(2 * capacity) for _ in range(int(2 * capacity * seconds)))
        )
        for arm in sorted(services, reverse=number % 2 == 0):
            async with Client(services[arm].url) as client:
                before = _shadowed(services[arm])
                answers, _ = await client.at_moments(list(itertools.islice(endless, len(moments_s))), moments_s)
            shadowed["overload"].append(sum(_shadowed(services[arm])) - sum(before))
            sent += len(answers) * (arm == WITH)
            found[arm]["ranked"].append(sum(one.ok for one in answers))
            statuses.setdefault(arm, []).append(_statuses(answers))
            await asyncio.sleep(_SETTLE_S)
        say({arm: some[-1] for arm, some in statuses.items()})
    result.raw |= {"found": found, "shadows": shadowed, "statuses": statuses, "report": _report(services[WITH])}
    middle = {arm: {key: statistics.median(of) for key, of in one.items()} for arm, one in found.items()}
    ranked = {arm: int(middle[arm]["ranked"]) for arm in services}
    rate = middle[WITH]["lists_per_s"] / middle[WITHOUT]["lists_per_s"]
    result.check("full load: lists/s, with / without", rate, ">=", _LEAST)
    result.check("full load: p99, without / with", middle[WITHOUT]["p99_s"] / middle[WITH]["p99_s"], ">=", _LEAST)
    result.check("overload: lists ranked, with / without", ranked[WITH] / ranked[WITHOUT], ">=", _LEAST)
    others = sum(count for one in statuses[WITH] for status, count in one.items() if status not in (200, 429))
    result.check("overload: answers that are neither ranked nor 429", others, "<=", 0)
    result.check("overload: shadows of a list", sum(shadowed["overload"]) / max(1, sent), "<=", 0.01)
    result.check(
        "calm: lists with a shadow by the other model, of 40", result.raw["shadows of 40 lists in calm"][0], ">=", 20
    )


def _statuses(answers: list[Answer]) -> dict[int, int]:
    return {status: sum(one.status == status for one in answers) for status in {one.status for one in answers}}


def _report(service: Server) -> list[dict[str, Any]]:
    shadows: list[dict[str, Any]] = (
        httpx.get(f"{service.url}/v1/compare", timeout=30).raise_for_status().json()["shadows"]
    )
    return shadows


def _shadowed(service: Server) -> list[int]:
    """How many lists each shadow has compared so far."""
    return [one["lists"] for one in _report(service)]
