"""Attack a running service with everything that has hurt one, and say of each attack what it cost.

python -m tests.attacks --url http://127.0.0.1:8000 --key KEY --other-key ANOTHER       everything: half an hour
python -m tests.attacks --url … --key … --quick                                          a minute of it
python -m tests.attacks --url … --key … --only hosts trailer                             those with these in their names

For a service of your own: it is meant to be harmed. Processor time and memory are measured where its processes run on
this machine.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path

from tests.attacks.attack import Attack, Target
from tests.attacks.campaign import Campaign, Result, as_json, every_attack
from tests.attacks.measure import Cost, Watch, percentile
from tests.attacks.processes import is_here, listeners
from tests.attacks.verdict import Bounds
from tests.attacks.wire import Address

_WIDE_S = 1.0
_NICE = 19
"""The attacker's own computing gives way to what it measures: Ray's workers have 15."""


def line(result: Result) -> str:
    """One attack, in one line."""
    attack, outcome, cost = result.attack, result.outcome, result.cost
    if outcome.skipped:
        return f"skipped {attack.name}: {outcome.skipped}"
    answers = ", ".join(f"{count} x {shown}" for shown, count in outcome.answers.most_common(8))
    waits = (
        f"/health {cost.longest_health_s:.2f} s, lists p50 {_pair(cost, result, 0.5)}, p99 {_pair(cost, result, 0.99)}"
    )
    log = "" if cost.log_bytes is None else f", log {cost.log_bytes / 1024:.0f} KB"
    verdict = "held" if not result.faults else "FAULT " + "; ".join(result.faults)
    return (
        f"{attack.name} [{attack.fact}] {answers or 'no answer'} in {outcome.slowest_s:.1f} s; "
        f"{_used(cost)}{log}; {waits} | {verdict}"
    )


def _pair(cost: Cost, result: Result, share: float) -> str:
    return f"{percentile(cost.lists_s, share):.3f} (quiet {percentile(result.quiet.lists_s, share):.3f}) s"


def _used(cost: Cost) -> str:
    if not cost.processes:
        return "processor and memory unknown"
    name, most = max(cost.processes.items(), key=lambda one: one[1].growth_mib)
    return f"processor {cost.cpu_s:.2f} s, {name} +{most.growth_mib:.0f} MiB (+{most.left_mib:.0f} left)"


def chosen(only: list[str], *, quick: bool) -> list[Attack]:
    """Attacks of these names, or whose name holds one of these; or those of the quick minute, or all."""
    attacks = every_attack()
    if not only:
        return [one for one in attacks if one.quick or not quick]
    names = {one.name for one in attacks}
    return [
        one for one in attacks if any(one.name == part or (part not in names and part in one.name) for part in only)
    ]


def main() -> int:
    """Attack, and report.

    Returns:
        Exit status: 1 when anything was out of bounds.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a running service of yours (%(default)s)")
    parser.add_argument("--key", default="", help="API key to attack with")
    parser.add_argument("--other-key", default="", help="API key of the client who must not notice; default: the same")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="attacks whose name holds one of these")
    parser.add_argument("--quick", action="store_true", help="one of each kind, smaller: a minute or two")
    parser.add_argument("--seed", type=int, default=random.randrange(2**32), help="default: another one each time")
    parser.add_argument("--list", action="store_true", help="name the attacks and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--loose", type=float, default=1.0, help="multiply the bounds of time, on a busy machine")
    parser.add_argument("--minutes", type=float, default=60, help="begin no attack after these (%(default)s)")
    parser.add_argument(
        "--give-back",
        type=float,
        default=600,
        metavar="S",
        help="seconds that memory has to be given back in at the end (%(default)s); 0: not looked at",
    )
    parsed = parser.parse_args()
    attacks = chosen(parsed.only, quick=parsed.quick)
    if parsed.list:
        for one in attacks:
            print(f"{one.name} [{one.fact}]{' with a key' if one.with_key else ''}{', quick' if one.quick else ''}")
        return 0
    print(f"seed {parsed.seed}, {len(attacks)} attacks", flush=True)
    address = Address.of(parsed.url)
    local = is_here(address.host) and bool(listeners(address.port))
    bounds = Bounds().loosened(parsed.loose)
    hurried = parsed.quick or bounds.health_s > _WIDE_S
    target = Target(address, parsed.key, parsed.other_key or parsed.key, parsed.quick, hurried, parsed.seed)
    results: list[Result] = []
    with Watch(parsed.url, target.key, target.other_key, local=local) as watch:
        os.nice(_NICE)  # after the watcher has started
        campaign = Campaign(target, watch, bounds)
        print(_without_attack(campaign.prepare()), flush=True)
        until_s = time.monotonic() + 60 * parsed.minutes
        for number, attack in enumerate(attacks, start=1):
            if time.monotonic() > until_s:
                break
            if sys.stdout.isatty():
                print(f"{number}/{len(attacks)} {attack.name} …", end="\r", flush=True)
            result = campaign.run(attack)
            results.append(result)
            print(f"{number}/{len(attacks)} {line(result)}", flush=True)
            if parsed.json:
                parsed.json.write_text(as_json(results, parsed.seed))
        waited_s, kept = campaign.kept(parsed.give_back)
        if parsed.give_back:
            print(f"FAULT memory kept: {'; '.join(kept)}" if kept else f"memory given back after {waited_s:.0f} s")
    verdicts = Counter("skipped" if one.outcome.skipped else "FAULT" if one.faults else "held" for one in results)
    verdicts["not tried"] = len(attacks) - len(results)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.items() if count))
    return 1 if verdicts["FAULT"] or verdicts["not tried"] or kept else 0


def _without_attack(cost: Cost) -> str:
    used = ", ".join(
        f"{name} {one.before_mib:.0f} MiB {one.cpu_s / cost.seconds:.0%} of a core"
        for name, one in cost.processes.items()
    )
    lists = f"lists p50 {percentile(cost.lists_s, 0.5):.3f} s, p99 {percentile(cost.lists_s, 0.99):.3f} s"
    health = f"/health at most {cost.longest_health_s:.3f} s"
    return f"without attack: {health}, {lists}; {used or 'its processes are not on this machine'}"


if __name__ == "__main__":
    sys.exit(main())
