"""`serve run`, which ends when the application cannot be deployed: Serve's own waits on for somebody to fix it.

python -m deployments.run FILE     what `reranker serve` runs
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve import scripts
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from reranker.launcher import CANNOT_BE_DEPLOYED

_LOOK_EVERY_S = 2


class Watch(threading.Thread):
    """Looks at the applications until all run, or one cannot."""

    def __init__(self) -> None:
        """To be started."""
        super().__init__(name="watch", daemon=True)
        self.failed: list[str] = []
        """Of each application that cannot be deployed, why."""

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
            self.failed = [
                f"{name}: {one.message}"
                for name, one in applications.items()
                if one.status == ApplicationStatus.DEPLOY_FAILED
            ]
            if self.failed:
                os.kill(os.getpid(), signal.SIGINT)  # as Ctrl-C does: it shuts Serve down
                return
            if applications and all(one.status == ApplicationStatus.RUNNING for one in applications.values()):
                return


def main() -> None:
    """Run until asked to stop; ends with `CANNOT_BE_DEPLOYED` as its status where that is so."""
    watch = Watch()
    watch.start()
    try:
        # A Ray of its own ("local"), not one that happens to run on this machine and may serve somebody else.
        scripts.cli(["run", "--address", "local", *sys.argv[1:]])
    finally:
        for reason in watch.failed:
            print(f"cannot be deployed: {reason}", file=sys.stderr, flush=True)  # noqa: T201 - the terminal's
        if watch.failed:
            sys.exit(CANNOT_BE_DEPLOYED)


if __name__ == "__main__":
    main()
