"""`python -m tests.attacks` harms nobody: a minute of it in `make test`, all of it in `make test-slow`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import NARROW_KEY, ROOT, Service, configuration, started

OTHER_KEY = "key-of-the-other"
SEED = "6"


def _attack(service: Service, key: str, folder: Path, *arguments: str) -> None:
    """Attack it, and fail with what was out of bounds."""
    file = folder / "attacks.json"
    command = [
        sys.executable, "-m", "tests.attacks", "--url", service.url, "--key", key, "--other-key", OTHER_KEY,
        "--seed", SEED, "--json", str(file), *arguments,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, "\n".join(line for line in result.stdout.splitlines() if "FAULT" in line)
    attacks = json.loads(file.read_text())["attacks"]
    assert all(one["processes"] for one in attacks if not one["skipped"]), "the service's processes were not found"
    service.wait_until_idle()


def test_one_attack_of_each_kind_costs_what_it_may(narrow: Service, tmp_path: Path) -> None:
    """Its bounds of time are wide here, where other tests run besides."""
    _attack(narrow, NARROW_KEY, tmp_path, "--quick", "--loose", "10", "--give-back", "0")


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_no_attack_costs_more_than_it_may(tmp_path: Path) -> None:
    """Against a service as it is by default, with a playground and two engines, and ten minutes for its memory."""
    keys = tmp_path / "keys.yaml"
    keys.write_text(f"attacker: {{key: {NARROW_KEY}, admin: true}}\nother: {OTHER_KEY}\n")
    args = {"access": {"keys_file": str(keys)}}
    config = configuration(2, args, {"tokens_per_s": 40_000}, ui=True)
    with started(config, tmp_path, NARROW_KEY) as service:
        _attack(service, NARROW_KEY, tmp_path, "--loose", "2")
