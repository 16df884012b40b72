"""The examples work as they stand, each in the environment that its first lines ask for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.conftest import ROOT, Service

UV = str(Path(sys.executable).parent / "uv")
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))


def _run(service: Service, *command: str) -> str:
    environment = os.environ | {"RERANKER_URL": service.url}
    environment.pop("PYTHONPATH", None)
    result = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_curl_example_shows_every_dialect(service: Service) -> None:
    shown = _run(service, "examples/curl.sh")
    assert shown.count("POST ") == 6
    assert "documents[1]" in shown


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_puts_the_answer_first(service: Service, name: str) -> None:
    shown = _run(service, UV, "run", "-q", "--python", sys.executable, f"examples/{name}")
    assert "Beijing" in shown.splitlines()[0]
