"""`serve run`, which ends when the application cannot be deployed: Serve's own waits on for somebody to fix it.

python -m deployments.cli.run FILE     what `reranker serve` runs
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Collection, Mapping
from pathlib import Path

import ray
import yaml
from ray import serve
from ray.exceptions import RayError
from ray.serve import scripts
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from deployments.cli.launcher import CANNOT_BE_DEPLOYED, playgrounds

_LOOK_EVERY_S = 2


class Watch(threading.Thread):
    """Looks at the applications until all run, or one cannot. Without the playground the service is still one."""

    def __init__(self, optional: Collection[str]) -> None:
        """To be started.

        Args:
            optional: Names of applications that the others do without.
        """
        super().__init__(name="watch", daemon=True)
        self._optional = optional
        self.failed: list[str] = []
        """Of each application that cannot be deployed and is needed, why."""

    def run(self) -> None:
        """Interrupt this process when one cannot."""
        while True:
            time.sleep(_LOOK_EVERY_S)
            if not ray.is_initialized():  # to ask would start one
                continue
            try:
                applications = serve.status().applications
            except (RayError, RayServeException):  # it is starting, or ending
                continue
            if self.settled(applications):
                break
        if self.failed:
            os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does: it shuts Serve down

    def settled(self, applications: Mapping[str, ApplicationStatusOverview]) -> bool:
        """Whether nothing more is to come: all run, or what is needed cannot."""
        broken = {name: one for name, one in applications.items() if one.status == ApplicationStatus.DEPLOY_FAILED}
        self.failed = [f"{name}: {one.message}" for name, one in broken.items() if name not in self._optional]
        if self.failed:
            return True
        done = bool(applications) and all(
            one.status == ApplicationStatus.RUNNING or name in broken for name, one in applications.items()
        )
        if done:
            for name, one in broken.items():
                print(f"goes on without {name}, which cannot be deployed: {one.message}", file=sys.stderr, flush=True)
        return done


def main() -> None:
    """Run until asked to stop; ends with `CANNOT_BE_DEPLOYED` as its status where that is so."""
    config = yaml.safe_load(Path(sys.argv[1]).read_text(encoding="utf-8"))
    watch = Watch({str(one.get("name")) for one in playgrounds(config)})
    watch.start()
    try:
        # A Ray of its own ("local"), not one that happens to run on this machine and may serve somebody else.
        scripts.cli(["run", "--address", "local", *sys.argv[1:]])
    finally:
        for reason in watch.failed:
            print(f"cannot be deployed: {reason}", file=sys.stderr, flush=True)  # the terminal's
        if watch.failed:
            sys.exit(CANNOT_BE_DEPLOYED)


if __name__ == "__main__":
    main()
