"""`python -m tests.attacks` harms nobody: a minute of it in `make test`, all of it in `make test-slow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import ROOT, Cluster, Service, configuration, started

KEY, OTHER_KEY = "key-of-the-attacker", "key-of-the-other"
SEED = "6"
LOOSE = "20"
"""Bounds of time are wide, as other programs use the machine besides: a test is to find what stalls for seconds. How
long things take, `make attack` measures."""


def _attacked(folder: Path) -> dict[str, Any]:
    """A service as it is by default, with keys, a playground, and two simulated engines of a large GPU."""
    keys = folder / "keys.yaml"
    keys.write_text(f"attacker: {{key: {KEY}, admin: true}}\nother: {OTHER_KEY}\n")
    return configuration(2, {"access": {"keys_file": str(keys)}}, {"tokens_per_s": 400_000}, ui=True)


def _attack(service: Service, folder: Path, *arguments: str) -> None:
    """Attack it, and fail with what was out of bounds."""
    file = folder / "attacks.json"
    command = [
        sys.executable, "-m", "tests.attacks", "--url", service.url, "--key", KEY, "--other-key", OTHER_KEY,
        "--seed", SEED, "--json", str(file), *arguments,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    faults = "\n".join(line for line in result.stdout.splitlines() if "FAULT" in line)
    assert result.returncode == 0, faults or result.stderr[-4_000:]
    attacks = json.loads(file.read_text())["attacks"]
    assert all(one["processes"] for one in attacks if not one["skipped"]), "the service's processes were not found"
    service.wait_until_idle()


@pytest.fixture(scope="module")
def attacked(cluster: Cluster) -> Service:
    """The last that is deployed (`SHARED`): nobody else meets what attacks may leave."""
    return cluster.serve("attacked", _attacked, KEY)


def test_one_attack_of_each_kind_costs_what_it_may(attacked: Service, tmp_path: Path) -> None:
    _attack(attacked, tmp_path, "--quick", "--loose", LOOSE, "--give-back", "0")


@pytest.mark.slow
@pytest.mark.xdist_group("attacks")
@pytest.mark.timeout(5_400)
def test_no_attack_costs_more_than_it_may(tmp_path: Path) -> None:
    """Against a service of its own. What all together leave of memory: docs/security.md."""
    with started(_attacked(tmp_path), tmp_path, KEY) as service:
        _attack(service, tmp_path, "--loose", LOOSE, "--give-back", "0")
