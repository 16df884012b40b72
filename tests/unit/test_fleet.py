"""What all replicas are asked: Ray's troubles become a 503 that says when to ask again, and a bug stays one."""

from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException

from deployments.fleet import ask_all
from reranker.errors import NoAnswerError


class Handle:
    """A deployment whose replicas answer with these, or that cannot be called."""

    def __init__(self, *answers: object, error: Exception | None = None) -> None:
        self._answers, self._error = answers, error

    def broadcast(self, method: str) -> Any:
        return self

    async def results_async(self, **_: object) -> list[object]:
        if self._error:
            raise self._error
        return list(self._answers)


async def test_answers_of_all_are_given_without_those_of_the_lost() -> None:
    assert await ask_all(Handle(1, None, 3), "method") == [1, None, 3]
    assert await ask_all(Handle(1, ActorDiedError()), "method", lost=(ActorDiedError,)) == [1]


@pytest.mark.parametrize("error", [TimeoutError(), RayServeException(), DeploymentUnavailableError("a")])
async def test_ray_that_does_not_answer_is_a_503(error: Exception) -> None:
    with pytest.raises(NoAnswerError):
        await ask_all(Handle(error=error), "method")


async def test_one_replica_that_does_not_answer_is_a_503() -> None:
    with pytest.raises(NoAnswerError):
        await ask_all(Handle(1, ActorUnavailableError("gone", b"0" * 16)), "method")


async def test_bug_in_a_replica_is_raised() -> None:
    with pytest.raises(RayTaskError):
        await ask_all(Handle(1, RayTaskError("f", "traceback", RuntimeError("sums differ"))), "method")
