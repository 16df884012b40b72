"""An API server drops or refuses what it does not know; both are found out before it sees the manifests."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from deployments.checks import check
from tests.manifests.conftest import ROOT, built, objects, ray_service
from tests.manifests.validation import places, problems

# Maps whose keys are names that their author chooses.
FREE = {"labels", "annotations", "matchLabels", "selector", "requests", "limits", "data", "rayStartParams", "metadata"}


def test_overlay_builds_and_every_object_is_valid(overlay: str) -> None:
    assert [found for thing in objects(overlay) for found in problems(thing)] == []


def test_serve_configuration_of_overlay_is_checked_and_is_its_file(overlay: str) -> None:
    """One file says it; a copy by hand would be forgotten."""
    report = check(built(overlay))
    assert (report.configurations, report.findings) == (1, ())
    file = ROOT / "k8s" / "overlays" / overlay / "serve_config.yaml"
    assert ray_service(overlay)["spec"]["serveConfigV2"] == file.read_text()


def _renamed(thing: Any, path: tuple[str | int, ...]) -> Any:
    changed = copy.deepcopy(thing)
    part = changed
    for step in path[:-1]:
        part = part[step]
    part[f"{path[-1]}x"] = part.pop(path[-1])
    return changed


@pytest.mark.parametrize("kind", sorted({thing["kind"] for thing in objects("prod")}))
def test_typo_in_any_key_of_an_object_is_caught(kind: str) -> None:
    """Every key of one object of the kind, one after the other."""
    thing = next(one for one in objects("prod") if one["kind"] == kind)
    tried = [path for path in places(thing) if not FREE & set(path[:-1]) and path[-2:] != ("resources", "ingress")]
    assert tried
    assert [path for path in tried if not problems(_renamed(thing, path))] == []


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("RayService", ("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("RayService", ("spec", "upgradeStrategy", "type"), 1),
        ("PodDisruptionBudget", ("spec", "maxUnavailable"), [1]),
        ("PriorityClass", ("value",), "high"),
        ("NetworkPolicy", ("spec", "policyTypes"), "Ingress"),
        ("HTTPRoute", ("spec", "rules", 0, "timeouts", "request"), "2 minutes"),
        ("PodMonitor", ("spec", "podMetricsEndpoints", 0, "interval"), 15),
    ],
)
def test_value_of_a_wrong_type_is_caught(kind: str, path: tuple[str | int, ...], value: object) -> None:
    thing = next(one for one in objects("prod") if one["kind"] == kind)
    part = thing
    for step in path[:-1]:
        part = part[step]  # type: ignore[index]  # YAML: a place in a list is a number
    part[path[-1]] = value  # type: ignore[index]
    assert problems(thing)
