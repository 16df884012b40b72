"""Where Ray may put ingress replicas, by the rules of Serve's own scheduler."""

from __future__ import annotations

import pytest
from ray.serve._private.deployment_scheduler import AvailableNodeResources, RequestedResources

from deployments.app import ingress_resources
from reranker.config import IngressConfig

CONFIG = IngressConfig(resources={"ingress": 0.5}, one_per_node=True)


def _fit(offered: dict[str, float], *replicas: dict[str, float]) -> bool:
    """Whether all of these fit on one node."""
    room = AvailableNodeResources(offered)
    for one in replicas:
        if not room.can_fit(RequestedResources(one)):
            return False
        room -= RequestedResources(one)
    return True


def test_two_of_one_version_never_share_a_node() -> None:
    one = ingress_resources(CONFIG)
    assert _fit({"ingress": 1}, one)
    assert not _fit({"ingress": 10}, one, one)


def test_one_of_a_new_version_starts_beside_the_old_wherever_there_is_one() -> None:
    """Also where nothing but the node's own size is changed, or nothing at all: each deployment of it is a version."""
    assert _fit({"ingress": 1}, ingress_resources(CONFIG), ingress_resources(CONFIG))


def test_they_run_only_where_their_resource_is() -> None:
    assert not _fit({}, ingress_resources(CONFIG))


@pytest.mark.parametrize("replicas", [1, 3])
def test_on_one_machine_there_may_be_several(replicas: int) -> None:
    assert _fit({}, *[ingress_resources(IngressConfig())] * replicas)
