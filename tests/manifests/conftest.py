"""Builds the overlays as `tools/manifests.sh` does, each once."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OVERLAYS = ("dev", "prod", "prod-4b", "prod-8b-tp2", "prod-two-models")


@functools.cache
def kustomized(folder: str) -> str:
    """What a folder of `k8s` builds, as text."""
    kubectl = subprocess.check_output([ROOT / "tools" / "kubectl.sh"], text=True).strip()
    return subprocess.check_output([kubectl, "kustomize", ROOT / "k8s" / folder], text=True)


def built(overlay: str) -> str:
    """What would be applied, as text."""
    return kustomized(f"overlays/{overlay}")


def objects(overlay: str) -> list[dict[str, Any]]:
    """What would be applied, one entry per object (Any: it is YAML)."""
    return list(yaml.safe_load_all(built(overlay)))


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    """Each overlay in turn."""
    name: str = request.param
    return name


def ray_service(overlay: str) -> dict[str, Any]:
    """The RayService of an overlay."""
    [found] = [one for one in objects(overlay) if one["kind"] == "RayService"]
    return found


def pod_templates(overlay: str) -> list[dict[str, Any]]:
    """Pod templates of the head and of every group of workers."""
    cluster = ray_service(overlay)["spec"]["rayClusterConfig"]
    return [group["template"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
