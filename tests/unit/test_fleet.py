"""What all replicas are asked: Ray's troubles become a 503 that says when to ask again, and a bug stays one."""

import asyncio
import time
import uuid
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments import fleet
from deployments.fleet import RayFleet, ask_all
from reranker.errors import NoAnswerError
from reranker.types import ServedModel


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


OWN = ServedModel(identity="own")


class Discovery:
    """A deployment's handle whose call waits until there is a replica."""

    def __init__(self) -> None:
        self.deployment_name = uuid.uuid4().hex  # what is known of one is kept by its name
        self.found = asyncio.Event()
        self.named_load = SimpleNamespace(remote=self.found.wait)


async def _yes() -> bool:
    return True


async def _no() -> bool:
    return False


async def test_ingress_that_has_met_no_engine_waits_for_one_that_serve_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """However late Serve lists it: a 503 while engines run is for nobody."""
    monkeypatch.setattr(fleet, "_MEETING_S", 0.05)
    met = RayFleet(cast(DeploymentHandle, Discovery()), OWN)
    meeting = asyncio.ensure_future(met.meet(_yes, time.monotonic() + 60))
    await asyncio.sleep(0.3)
    assert not meeting.done()
    met.placement.set_live(["a"], {"a": OWN})
    async with asyncio.timeout(5):
        await meeting
    met.placement.set_live([])


async def test_its_first_moments_begin_with_the_first_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process may have taken long to start; nobody has asked until then."""
    monkeypatch.setattr(fleet, "_MEETING_S", 0.3)
    met = RayFleet(cast(DeploymentHandle, Discovery()), OWN)
    await asyncio.sleep(0.4)
    meeting = asyncio.ensure_future(met.meet(_no, time.monotonic() + 60))
    await asyncio.sleep(0.1)
    assert not meeting.done()
    async with asyncio.timeout(5):
        await meeting


async def test_it_waits_no_longer_than_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "_MEETING_S", 0.05)
    met = RayFleet(cast(DeploymentHandle, Discovery()), OWN)
    async with asyncio.timeout(5):
        await met.meet(_yes, time.monotonic() + 0.2)
