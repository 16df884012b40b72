"""On several nodes (tests/cluster): one dies, one is cut off, the service is changed; no list is lost or wrong."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from deployments import INGRESS_DEPLOYMENT
from tests.cluster.load import Load, summary
from tests.cluster.network import refusal
from tests.cluster.nodes import RayCluster
from tests.integration.traffic import ListOfAnyModel

pytestmark = pytest.mark.slow

SEEDS = {"simulated": 0, "simulated-1": 1}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    """A head, two nodes for ingress replicas, two for engines."""
    if (why := refusal()) is not None:
        pytest.skip(why)
    with RayCluster(tmp_path_factory.mktemp("nodes"), ingresses=2, engines=2) as cluster:
        cluster.deploy(cluster.configuration())
        cluster.wait("every ingress knows every engine", cluster.complete)
        yield cluster


def test_nodes_that_die_or_are_cut_off_and_an_update_cost_no_list(nodes: RayCluster) -> None:
    """An update of the model ends, though each node for an ingress has one already; each then has one again."""
    lists = [ListOfAnyModel.of(number, 10 if number % 4 else 200, SEEDS) for number in range(8)]
    assert sorted(nodes.placed(INGRESS_DEPLOYMENT)) == ["ing1", "ing2"]
    with Load(nodes.urls(), lists, rate_per_s=3) as load:
        load.wait_for(4)
        nodes.kill("eng1")
        load.wait_for(8)
        nodes.start("eng1")
        nodes.wait("the engine is back", nodes.complete)
        nodes.cut("eng2")
        load.wait_for(20)
        nodes.heal("eng2")  # before Ray has given it up
        nodes.wait("the other one is back", nodes.complete)
        nodes.deploy(nodes.configuration(seed=1))
        nodes.wait("the update has ended", lambda: _one_on_each(nodes) and nodes.complete())
        load.wait_for(4)
    found = summary(load.outcomes)
    assert (found["lost"], found["wrong"]) == (0, 0), found
    assert found["sent_again"] + found["hedged"] >= 1
    assert load.outcomes[-1].model == "simulated-1"
    assert found["models"].keys() == set(SEEDS)


def _one_on_each(nodes: RayCluster) -> bool:
    return nodes.placed(INGRESS_DEPLOYMENT) == {"ing1": ["RUNNING"], "ing2": ["RUNNING"]}
