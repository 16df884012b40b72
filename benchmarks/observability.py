"""What metrics, traces and logs cost in throughput: services with all of it and with nothing, in alternating rounds.

python -m benchmarks.observability                writes benchmarks/results/observability.json (8 minutes)
python -m benchmarks.observability --starts 1     quicker, and coarser

All services run all the time, and are asked in turns by clients in a closed loop. Lists are short, engines simulated
at a speed that no GPU has, so that the ingress is the limit and every microsecond of it counts: with real engines the
share is smaller. Two of the services are the same, with nothing on: how far these differ is what the figure is worth.
"""

import asyncio
import math
import statistics
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.load import Client, require_ok
from benchmarks.results import describe, say
from benchmarks.service import configuration, running
from benchmarks.texts import Lists

RESULTS = results.RESULTS / "observability.json"
_CLIENTS, _DOCUMENTS = 8, 10
_WORDS = 12

# Any: YAML.
ARMS: Mapping[str, Mapping[str, Any]] = {
    "off": {"observability": {"metrics": False, "slow_request_s": None}},
    "off again": {"observability": {"metrics": False, "slow_request_s": None}},
    "metrics": {"observability": {"metrics": True, "slow_request_s": None}},
    "all": {"observability": {"metrics": True}, "tracing": {"exporter": "file"}},
}
"""What each service is configured with; of traces, the default share. Logs: JSON where anything is on."""


def _config(arm: str, folder: str) -> dict[str, Any]:
    args = {"engine": {"simulated": {"tokens_per_s": 10_000_000, "step_s": 0.001}}, **ARMS[arm]}
    if "tracing" in args:
        args["tracing"] = args["tracing"] | {"file": str(Path(folder) / f"{arm}.jsonl")}
    config = configuration(args)
    config["logging_config"]["encoding"] = "TEXT" if arm.startswith("off") else "JSON"
    return config


async def _lists_per_s(url: str, seconds: float) -> float:
    lists = Lists(seed=0)  # the same in each turn
    bodies = iter(lambda: lists.body(_DOCUMENTS, _WORDS), b"")
    async with Client(url) as client:
        began_s = time.perf_counter()
        answers = await client.in_loops(_CLIENTS, bodies, lambda: time.perf_counter() < began_s + seconds)
        took_s = time.perf_counter() - began_s
    require_ok(answers)
    return len(answers) / took_s


def measure(rounds: int, seconds: float, arms: tuple[str, ...]) -> dict[str, list[float]]:
    """Start the services, and ask them in turns; lists per second of each round, by arm."""
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        services = {
            arm: stack.enter_context(running(_config(arm, folder), 1, simulated=False, name=arm)) for arm in arms
        }
        for service in services.values():
            asyncio.run(_lists_per_s(service.url, 2 * seconds))  # warm
        for number in range(rounds):
            turn = number % len(arms)  # what drifts must not always meet the same one
            for arm in arms[turn:] + arms[:turn]:
                found[arm].append(asyncio.run(_lists_per_s(services[arm].url, seconds)))
            say({arm: round(rates[-1], 1) for arm, rates in found.items()})
    return found


def costs(found: Mapping[str, list[float]]) -> dict[str, dict[str, float]]:
    """Share of the throughput that each arm costs, and that share's standard error.

    Against the two services with nothing on; of these, the second against the first. Of the ratios within each round,
    as what else the machine does changes from one to the next: their geometric mean.
    """
    first, second = found["off"], found.get("off again", found["off"])
    shares = {}
    for arm in found.keys() - {"off"}:
        base = (
            first if arm == "off again" else [math.sqrt(pair[0] * pair[1]) for pair in zip(first, second, strict=True)]
        )
        logs = [math.log(one / off) for one, off in zip(found[arm], base, strict=True)]
        error = statistics.stdev(logs) / math.sqrt(len(logs)) if len(logs) > 1 else math.nan
        shares[arm] = {"share": 1 - math.exp(statistics.fmean(logs)), "standard_error": error}
    return shares


def main() -> None:
    parser = results.parser(__doc__)
    parser.add_argument("--starts", type=int, default=4, help="of all services anew")
    parser.add_argument("--rounds", type=int, default=12, help="in each start")
    parser.add_argument("--seconds", type=float, default=2, help="of each turn")
    parser.add_argument("--arms", nargs="+", default=["off", "off again", "all"], choices=list(ARMS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    arms = tuple(arguments.arms)
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    for start in range(arguments.starts):  # two starts of the same service differ as well
        order = arms if start % 2 == 0 else arms[::-1]
        for arm, rates in measure(arguments.rounds, arguments.seconds, order).items():
            found[arm] += rates
    cost = costs(found)
    print("cost: " + ", ".join(f"{arm} {one['share']:.1%} +- {one['standard_error']:.1%}" for arm, one in cost.items()))
    load = f"{_CLIENTS} clients, lists of {_DOCUMENTS} documents, {arguments.starts} starts, {arguments.rounds} rounds"
    result = describe() | {"load": load, "arms": ARMS, "lists_per_s": found, "cost": cost}
    results.write(arguments.out, result)


if __name__ == "__main__":
    main()
