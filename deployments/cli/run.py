"""`serve run` on a Ray of its own, which reports to `reranker serve` how far it is, and why it cannot go on.

python -m deployments.cli.run CONFIGURATION REPORTS     the second file gets JSON lines, each {kind: text}
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import ray
import yaml
from ray import serve
from ray.exceptions import RayError
from ray.serve import scripts
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview, DeploymentStatus

from deployments import ENGINE_DEPLOYMENT, UI_IMPORT_PATH
from deployments.cli.config import applications
from reranker.errors import every_class

_LOOK_EVERY_S = 0.5

Report = Callable[[str, str], None]
"""Takes a kind, "step", "failed" or "without", and a text."""

_RAY_REMEDY = "See whether memory, disk (/tmp/ray) or processes (`ulimit -u`) have run out"
_REMEDIES = {
    r"StartupCheckError": "`reranker check --model …` shows every check; docs/models.md says which models work",
    r"DeviceError": "docs/models.md says what a GPU needs",
    r"[Oo]ut of memory|MemoryError|[Nn]o available memory|[Cc]annot allocate|OOM|[Nn]ot enough memory|free memory"
    r"|Available memory on node": (
        "Give it more memory or less to hold: a smaller model, engine.cpu_kv_cache_gib on a CPU, "
        "engine.gpu_memory_utilization or model.max_pair_tokens on a GPU"
    ),
    r"[Ss]afetensor|incomplete metadata|header|state_dict|size mismatch|weights": (
        "The weights are damaged or belong to another model: fetch them again, or give another with MODEL=…"
    ),
    r"ModuleNotFoundError|ImportError|No module named": "Install it, or correct import_path in the configuration",
    r"No space left": "Free some disk",
    r"cannot listen on": "Choose another port: make serve PORT=…",
}
"""What to do, by a pattern of what was said."""


def failure(name: str, message: str) -> str:
    """Say in a sentence why an application cannot be deployed, and in another what to do.

    `message` is what Serve says of it: sentences and tracebacks, the cause last.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    raised = re.findall(r"^(?:\w+\.)*(\w*(?:Error|Exception|Died))\b(?::[ \t]*(.+))?$", plain, re.MULTILINE)
    kind, text = next((one for one in reversed(raised) if one[1]), ("", _first_line(plain)))
    ours = kind in {one.__name__ for one in every_class()}
    why = text if ours or not kind else f"{kind}: {text}"
    remedy = _remedy(f"{kind} {text}", "See docs/models.md and docs/configuration.md for what works")
    return f"{name} cannot be deployed: {why.rstrip('. ')}. {remedy}"


def _remedy(said: str, otherwise: str) -> str:
    return next((remedy for pattern, remedy in _REMEDIES.items() if re.search(pattern, said)), otherwise)


def _first_line(said: object) -> str:
    return (str(said).strip().splitlines() or ["no reason was given"])[0]


def watch(optional: Collection[str], report: Report) -> None:
    """Look at the applications until all is said. `optional` are names of those that the others do without."""
    over = False
    while not over:
        time.sleep(_LOOK_EVERY_S)
        with contextlib.suppress(RayError, RayServeException):  # it is starting, or ending
            over = settled(serve.status().applications, optional, report)


def settled(status: Mapping[str, ApplicationStatusOverview], optional: Collection[str], report: Report) -> bool:
    """Whether nothing more is to come: all run, or what is needed cannot, which is reported."""
    broken = {name: one for name, one in status.items() if one.status == ApplicationStatus.DEPLOY_FAILED}
    without = {name: f"{name}: {one.message}" for name, one in broken.items() if name in optional}
    for name, one in ((name, one) for name, one in broken.items() if name not in optional):
        failed = {key for key, part in one.deployments.items() if part.status == DeploymentStatus.DEPLOY_FAILED}
        if not failed or not all(key.startswith(f"{ENGINE_DEPLOYMENT}-") for key in failed):
            said = [one.message, *(deployment.message for deployment in one.deployments.values())]
            report("failed", failure(name, "\n".join(said)))
            return True
        if any(part.status == DeploymentStatus.UPDATING for part in one.deployments.values()):
            return False  # the other models are still starting
        for key in sorted(failed):  # of a model other than the default
            model = key.removeprefix(f"{ENGINE_DEPLOYMENT}-")
            without[key] = f"the model {model}: {failure('it', one.deployments[key].message).partition(': ')[2]}"
    if not status or any(
        one.status != ApplicationStatus.RUNNING and name not in broken for name, one in status.items()
    ):
        return False
    for text in without.values():
        report("without", text)
    return True


def main() -> None:
    path, reports = sys.argv[1:]

    def report(kind: str, text: str) -> None:
        with open(reports, "a", encoding="utf-8") as file:  # whole lines: the other side reads meanwhile
            file.write(json.dumps({kind: text}) + "\n")

    config = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    report("step", "Starting Ray")
    try:
        # A Ray of its own ("local"), not one that happens to run on this machine and may serve somebody else.
        ray.init(address="local", namespace="serve")
    except Exception as error:
        report("failed", f"Ray cannot start: {_first_line(error)}. {_remedy(str(error), _RAY_REMEDY)}")
        raise
    report("step", "Deploying the service")
    optional = {str(one.get("name")) for one in applications(config, UI_IMPORT_PATH)}
    threading.Thread(target=watch, args=(optional, report), name="watch", daemon=True).start()
    scripts.cli(["run", path])


if __name__ == "__main__":
    main()
