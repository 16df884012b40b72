"""What `reranker serve` waits for, and what it ends for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from deployments.cli.run import Watch


def _status(**applications: str) -> Mapping[str, ApplicationStatusOverview]:
    return {
        name: ApplicationStatusOverview(ApplicationStatus(status), f"{name} is so", 0.0, {})
        for name, status in applications.items()
    }


def test_service_that_cannot_be_deployed_ends_the_start() -> None:
    watch = Watch({"playground"})
    assert watch.settled(_status(reranker="DEPLOY_FAILED", playground="DEPLOYING"))
    assert watch.failed == ["reranker: reranker is so"]


def test_playground_that_cannot_be_deployed_ends_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Who reranks does not need it."""
    watch = Watch({"playground"})
    assert not watch.settled(_status(reranker="DEPLOYING", playground="DEPLOY_FAILED"))
    assert watch.settled(_status(reranker="RUNNING", playground="DEPLOY_FAILED"))
    assert watch.failed == []
    assert "goes on without playground" in capsys.readouterr().err


def test_start_is_over_when_all_run() -> None:
    watch = Watch(set())
    assert not watch.settled({})
    assert not watch.settled(_status(reranker="RUNNING", playground="DEPLOYING"))
    assert watch.settled(_status(reranker="RUNNING", playground="RUNNING"))
    assert watch.failed == []
