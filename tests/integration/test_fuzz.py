"""Whatever is sent, the service answers, in JSON, and never with a status its own schema does not know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reranker.dialects import COMPLETE
from tests import fuzz
from tests.integration.conftest import ROOT, Service

pytestmark = pytest.mark.slow


async def test_odd_and_broken_bodies_are_answered(simulated: Service) -> None:
    """`python -m tests.fuzz` sends ten thousand, and looks at the memory too."""
    findings = await fuzz.send(simulated.url, bodies=400, seed=6)
    assert findings.problems == []
    assert findings.statuses[200] > 50
    assert findings.statuses[400] > 50
    simulated.wait_until_idle()


def test_service_keeps_to_its_own_schema(simulated: Service, tmp_path: Path) -> None:
    """Schemathesis makes requests of the schema's own making, right and wrong ones.

    `make fuzz` runs it for longer, and on the paths under a prefix too, whose bodies are those of others.
    """
    under_prefix = "^(" + "|".join(COMPLETE) + ")/"
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(ROOT / "tools" / "schemathesis.toml"),
        "run", f"{simulated.url}/openapi.json", "--max-examples", "6", "--request-timeout", "30", "--seed", "6",
        "--exclude-path-regex", under_prefix,
    ]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stdout[-6_000:]
    simulated.wait_until_idle()
