"""What `reranker serve` waits for, what it ends for, and the reason that it gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from ray.serve.schema import ApplicationStatus, ApplicationStatusOverview

from deployments.cli.run import failure, settled


def _status(**applications: str) -> Mapping[str, ApplicationStatusOverview]:
    return {
        name: ApplicationStatusOverview(ApplicationStatus(status), f"{name} is so", 0.0, {})
        for name, status in applications.items()
    }


@pytest.fixture
def reports() -> list[tuple[str, str]]:
    return []


@pytest.fixture
def over(reports: list[tuple[str, str]]) -> Callable[..., bool]:
    """Whether a start is over that has these states of its applications."""

    def report(kind: str, text: str) -> None:
        reports.append((kind, text))

    return lambda **applications: settled(_status(**applications), {"playground"}, report)


def test_service_that_cannot_be_deployed_ends_the_start(
    over: Callable[..., bool], reports: list[tuple[str, str]]
) -> None:
    assert over(reranker="DEPLOY_FAILED", playground="DEPLOYING")
    [(kind, text)] = reports
    assert kind == "failed"
    assert text.startswith("reranker cannot be deployed: reranker is so")


def test_playground_that_cannot_be_deployed_ends_nothing(
    over: Callable[..., bool], reports: list[tuple[str, str]]
) -> None:
    """Who reranks does not need it."""
    assert not over(reranker="DEPLOYING", playground="DEPLOY_FAILED")
    assert over(reranker="RUNNING", playground="DEPLOY_FAILED")
    assert reports == [("without", "playground: playground is so")]


def test_start_is_over_when_all_run(over: Callable[..., bool], reports: list[tuple[str, str]]) -> None:
    assert not over()
    assert not over(reranker="RUNNING", playground="DEPLOYING")
    assert over(reranker="RUNNING", playground="RUNNING")
    assert reports == []


CONSTRUCTOR = """\
The deployment failed to start 2 times in a row. This may be due to a problem with its constructor. Error:
\x1b[36mray::ServeReplica:reranker:EngineReplica.initialize_and_get_metadata()\x1b[39m (pid=7, ip=127.0.0.1)
  File "/x/concurrent/futures/_base.py", line 456, in result
    return self.__get_result()
RuntimeError: Traceback (most recent call last):
  File "/x/deployments/engine_replica.py", line 50, in __init__
{}
"""


@pytest.mark.parametrize(
    ("raised", "why", "remedy"),
    [
        (
            "reranker.errors.StartupCheckError: the model fails the start-up check 'spread'; a head of zeros",
            "cannot be deployed: the model fails the start-up check 'spread'; a head of zeros. ",
            "reranker check",
        ),
        ("ModuleNotFoundError: No module named 'no_such'", "ModuleNotFoundError: No module named", "import_path"),
        ("ValueError: No available memory for the cache blocks.", "No available memory for the cache", "memory"),
        ("ValueError: Available memory on node 0 (13.87/15.84 GiB) on kv cache allocation", "13.87", "cpu_kv_cache"),
        ("safetensors_rust.SafetensorError: Error while deserializing header: x", "SafetensorError: Error", "damaged"),
        ("KeyError: 'x'", "KeyError: 'x'", "docs/"),
    ],
)
def test_reason_is_one_sentence_with_what_to_do(raised: str, why: str, remedy: str) -> None:
    """A traceback of thirty lines is not read by somebody who starts a service for the first time."""
    said = failure("reranker", CONSTRUCTOR.format(raised))
    assert why in said
    assert remedy in said
    assert "Traceback" not in said
    assert "\n" not in said
