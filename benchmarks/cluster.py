"""Faults on several nodes: what do clients see when nodes, links and replicas fail, and when the service is changed?

python -m benchmarks.cluster [--only NAME ...] [--share 0.2] [--out FILE]     as root, on Linux

Real Ray nodes in namespaces of this machine (tests/cluster): a head with a Redis, two nodes for ingress replicas, three
for simulated engines. Lists of 10 and 300 documents keep coming, to both ingresses in turn; a list that one refuses is
sent to the other, as a gateway does. Every answer is compared, score by score, with what the model that it names gives.
Each fault is repeated so many times, or --share of them; then all must be as before. The time until it is, is noted.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import results
from benchmarks.results import RESULTS, SCRATCH, Result, percentiles, say
from deployments import ENGINE_DEPLOYMENT, INGRESS_DEPLOYMENT
from tests.cluster.load import Load, Outcome, summary
from tests.cluster.network import refusal
from tests.cluster.nodes import HEAD, RayCluster
from tests.integration.traffic import ListOfAnyModel

INGRESSES, ENGINES = 2, 3
SEEDS = {"simulated": 0, "simulated-1": 1}
SMALL, LARGE, RATE_PER_S = 10, 300, 4
REST_LISTS = 8
SHORT_CALM_S, CALM_S, LONG_CALM_S = 5, 20, 60
"""Before the first time: where nothing is compared with it, where a median is, and where a p99 is."""
NOTICED_S = 1.0
"""For the ingresses to hear of it: until then all looks as before."""
RECOVERY_TIMEOUT_S = 400

Do = Callable[[RayCluster, int], object]


@dataclass(frozen=True)
class Fault:
    """Something that is done to the cluster, again and again, and undone."""

    question: str
    times: int
    do: Do
    """Gets the number of the time."""
    undo: Do = lambda _cluster, _number: None
    watch_s: float = 0.0
    """Between the two."""
    before: tuple[int, int] = (INGRESSES, ENGINES)
    """Replicas there are, of ingresses and engines."""
    recovery_limit_s: float | None = None
    slowest_limit: bool = False
    """Whether no list may take more than three times what it takes in calm, and a second."""
    p99_limit: bool = False
    """Whether the p99 of small lists may be at most twice that of calm. Then lists come at random moments: evenly, a
    small one never comes while a large one is in the engines, but with one engine less it always does."""


def _engine(number: int) -> str:
    return f"eng{number % ENGINES + 1}"


def _ingress(number: int) -> str:
    return f"ing{number % INGRESSES + 1}"


def _kill_replica(cluster: RayCluster, name: str) -> None:
    for process in cluster.nodes[name].replicas():
        process.kill()


def _heal_after(cut: Do) -> tuple[Do, Do]:
    """What is cut off for long ends by itself or is declared dead: its node is started anew, as Kubernetes does."""

    def undo(cluster: RayCluster, number: int) -> None:
        cluster.kill(_engine(number))
        cluster.heal(_engine(number))

    return cut, undo


def _scale(deployment: str) -> tuple[Do, Do]:
    ingresses, engines = (1, None) if deployment == INGRESS_DEPLOYMENT else (None, 2)

    def down(cluster: RayCluster, _number: int) -> None:
        cluster.deploy(cluster.configuration(ingresses, engines))
        left = ingresses or engines
        cluster.wait("they have gone", lambda: sum(map(len, cluster.placed(deployment).values())) == left)

    return down, lambda cluster, _number: cluster.deploy(cluster.configuration())


def _drain(deployment: str) -> tuple[Do, Do]:
    def holder(cluster: RayCluster) -> str:
        return next(name for name, states in cluster.placed(deployment).items() if name and "RUNNING" in states)

    drained: list[str] = []

    def drain(cluster: RayCluster, _number: int) -> None:
        drained.append(holder(cluster))
        cluster.drain(drained[-1])

    return drain, lambda cluster, _number: cluster.start(drained.pop())


FAULTS = {
    "model changes": Fault(
        "Deploys that change the model, back and forth",
        10,
        lambda cluster, number: cluster.deploy(cluster.configuration(seed=1 - number % 2)),
    ),
    "engines killed": Fault(
        "SIGKILL of an engine replica", 20, lambda cluster, number: _kill_replica(cluster, _engine(number))
    ),
    "ingresses killed": Fault(
        "SIGKILL of an ingress replica",
        5,
        lambda cluster, number: _kill_replica(cluster, _ingress(number)),
        recovery_limit_s=30,
    ),
    "engine nodes killed": Fault(
        "All processes of an engine's node killed at once; it is started again after 10 s",
        5,
        lambda cluster, number: cluster.kill(_engine(number)),
        lambda cluster, number: cluster.start(_engine(number)),
        10,
    ),
    "ingress nodes killed": Fault(
        "All processes of an ingress's node killed at once; it is started again after 10 s",
        3,
        lambda cluster, number: cluster.kill(_ingress(number)),
        lambda cluster, number: cluster.start(_ingress(number)),
        10,
    ),
    "engine nodes cut off": Fault(
        "All packets of an engine's node lost for 20 s, then the node started anew",
        5,
        *_heal_after(lambda cluster, number: cluster.cut(_engine(number))),
        20,
    ),
    "partitions": Fault(
        "All packets between one ingress's node and one engine's lost for 20 s",
        5,
        lambda cluster, number: cluster.cut(_ingress(number), _engine(number)),
        lambda cluster, number: cluster.heal(_ingress(number)),
        20,
    ),
    "heads killed": Fault(
        "All processes of the head killed at once; it is started again after 20 s, with its Redis",
        3,
        lambda cluster, _: cluster.kill(HEAD),
        lambda cluster, _: cluster.start(HEAD),
        20,
    ),
    "engines scaled down": Fault("From three engines to two, and back", 10, *_scale(ENGINE_DEPLOYMENT)),
    "ingresses scaled down": Fault("From two ingresses to one, and back", 10, *_scale(INGRESS_DEPLOYMENT)),
    "engine nodes drained": Fault(
        "The node of one of two engines drained (k8s/drain.sh, SIGTERM), with a node to spare",
        3,
        *_drain(ENGINE_DEPLOYMENT),
        before=(INGRESSES, 2),
    ),
    "ingress nodes drained": Fault(
        "The node of the only ingress drained (k8s/drain.sh, SIGTERM), with a node to spare",
        2,
        *_drain(INGRESS_DEPLOYMENT),
        before=(1, ENGINES),
    ),
    "engines hung": Fault(
        "SIGSTOP of an engine replica for 20 s",
        3,
        lambda cluster, number: cluster.hang(_engine(number)),
        lambda cluster, number: cluster.heal(_engine(number)),
        20,
        slowest_limit=True,
    ),
    "ingresses hung": Fault(
        "SIGSTOP of an ingress replica, for good",
        3,
        lambda cluster, number: cluster.hang(_ingress(number)),
        recovery_limit_s=30,
    ),
    "200 ms": Fault(
        "200 ms more each way on one engine's link, for 60 s",
        1,
        lambda cluster, number: cluster.switch.slow(_engine(number), delay_s=0.2),
        lambda cluster, number: cluster.heal(_engine(number)),
        60,
        p99_limit=True,
    ),
    "5 % loss": Fault(
        "5 % of the packets lost on one engine's link, each way, for 60 s",
        1,
        lambda cluster, number: cluster.switch.slow(_engine(number), loss=0.05),
        lambda cluster, number: cluster.heal(_engine(number)),
        60,
        p99_limit=True,
    ),
}


def play(cluster: RayCluster, load: Load, fault: Fault, share: float) -> Result:
    """Do it as often as is asked, and say what became of the lists."""
    times, (ingresses, engines) = max(1, round(share * fault.times)), fault.before
    result = Result(fault.question, {"times": times, "ingresses": ingresses, "engines": engines} | PARAMETERS)
    if fault.before != (INGRESSES, ENGINES):
        cluster.deploy(cluster.configuration(ingresses, engines))
    _settle(cluster, fault)
    began_s = time.monotonic()
    time.sleep(LONG_CALM_S if fault.p99_limit else CALM_S if fault.slowest_limit else SHORT_CALM_S)
    calm = load.since(began_s)
    found: list[list[Outcome]] = []
    recovered_s, done_s = list[float](), list[float]()
    for number in range(times):
        began_s = time.monotonic()
        fault.do(cluster, number)
        done_s.append(time.monotonic() - began_s)
        time.sleep(fault.watch_s)
        undone_s = time.monotonic()
        fault.undo(cluster, number)
        time.sleep(NOTICED_S)
        _settle(cluster, fault)
        recovered_s.append(time.monotonic() - (undone_s if fault.watch_s else began_s))
        load.wait_for(REST_LISTS)
        found.append(load.since(began_s))
        one = summary(found[-1])
        say(f"  {number + 1}: {one['lists']} lists, {one['lost']} lost, {one['wrong']} wrong; {recovered_s[-1]:.1f} s")
    if fault.before != (INGRESSES, ENGINES):
        cluster.deploy(cluster.configuration())
    every = summary([outcome for some in found for outcome in some])
    result.raw = {
        "calm": summary(calm),
        "faults": every,
        "whole_after_s": percentiles(recovered_s) | {"each": [round(one, 1) for one in recovered_s]},
        "the_command_took_s": [round(one, 1) for one in done_s],
    }
    result.check(f"lists lost, of {every['lists']}", every["lost"], "<=", 0)
    result.check("lists with a wrong score or name", every["wrong"] + summary(calm)["wrong"], "<=", 0)
    _check_times(result, fault, recovered_s)
    return result


def _check_times(result: Result, fault: Fault, recovered_s: list[float]) -> None:
    calm, every = result.raw["calm"]["took_s"], result.raw["faults"]["took_s"]
    if fault.recovery_limit_s is not None:
        result.check(
            "the longest until it was replaced on its node", max(recovered_s), "<=", fault.recovery_limit_s, "s"
        )
    if fault.slowest_limit:
        for size, one in every.items():
            result.check(f"slowest list of {size}", one["max"], "<=", 3 * calm[size]["p50"] + 1, "s")
    if fault.p99_limit:
        small = str(SMALL)
        result.check(f"p99 of lists of {SMALL}", every[small]["p99"], "<=", 2 * calm[small]["p99"], "s")


PARAMETERS = {"lists_per_s": RATE_PER_S, "documents": [SMALL, SMALL, SMALL, LARGE], "tokens_per_s_of_an_engine": 20_000}


def _settle(cluster: RayCluster, fault: Fault) -> None:
    """Wait until Serve says that all runs, each ingress there should be knows each engine, and no node has two."""
    ingresses, engines = fault.before

    def whole() -> bool:
        placed = cluster.placed(INGRESS_DEPLOYMENT)
        running = [name for name, states in placed.items() if name and states == ["RUNNING"]]
        return (
            cluster.runs()
            and len(running) == ingresses == sum(map(len, placed.values()))
            and cluster.complete(running, engines)
        )

    cluster.wait("all is as it should be", whole, RECOVERY_TIMEOUT_S)


def main() -> int:
    parser = results.parser(__doc__)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS), metavar="NAME")
    parser.add_argument("--share", type=float, default=1.0, help="of the times that each fault is repeated")
    parser.add_argument("--out", type=Path, default=RESULTS / "cluster.json")
    arguments = parser.parse_args()
    if (why := refusal()) is not None:
        parser.error(why)
    SCRATCH.mkdir(parents=True, exist_ok=True)
    held = True
    lists = [ListOfAnyModel.of(n, LARGE if n % 4 == 3 else SMALL, SEEDS) for n in range(16)]
    with (
        tempfile.TemporaryDirectory(dir=SCRATCH, prefix="cluster-") as folder,
        RayCluster(Path(folder), INGRESSES, ENGINES, redis=True) as cluster,
    ):
        cluster.deploy(cluster.configuration())
        cluster.wait("every ingress knows every engine", cluster.complete)
        for name in arguments.only:
            say(f"--- {name}: {FAULTS[name].question}")
            with Load(cluster.urls(), lists, RATE_PER_S, FAULTS[name].p99_limit) as load:
                result = play(cluster, load, FAULTS[name], arguments.share)
            result.write(arguments.out, name, share=arguments.share)
            held &= result.held
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
