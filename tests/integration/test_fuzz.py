"""Whatever is sent, the service answers, in JSON, and never with a status its own schema does not know."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from reranker.dialects import COMPLETE, PATHS
from tests import fuzz
from tests.integration.conftest import ROOT, Cluster, Service, configuration

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hasty(cluster: Cluster) -> Service:
    """Whose engines take no time: what is slow is ours."""
    return cluster.serve("hasty", lambda _: configuration(2, simulated={"tokens_per_s": 1e8, "step_s": 0}))


async def test_ten_thousand_odd_and_broken_bodies_are_answered(hasty: Service) -> None:
    """To all paths of rankings. `python -m tests.fuzz` looks at the memory too."""
    findings = await fuzz.send(hasty.url, bodies=10_000, seed=6)
    assert findings.problems == []
    assert findings.statuses[200] > 1_000
    assert findings.statuses[400] > 1_000
    hasty.wait_until_idle()


def test_every_example_of_the_schema_works_when_pasted(simulated: Service) -> None:
    schema = httpx.get(f"{simulated.url}/openapi.json").json()
    shown = 0
    with httpx.Client(base_url=simulated.url, timeout=30) as client:
        for path, methods in schema["paths"].items():
            for body in _examples(methods.get("post", {})):
                response = client.post(path.replace("{model}", "reranker"), json=body)
                assert response.status_code == 200, (path, response.text)
                ignored = response.headers.get("x-reranker-ignored", "")
                assert ignored in ("", "model")  # that is the example's, and not of this service
                shown += 1
    assert shown > len(PATHS)


def _examples(operation: dict[str, Any]) -> list[Any]:  # Any: JSON
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return [one["value"] for one in content.get("examples", {}).values()]


def test_service_keeps_to_its_own_schema(simulated: Service, tmp_path: Path) -> None:
    """Schemathesis makes requests of the schema's own making, right and wrong ones; `make fuzz` runs it for longer.

    Of the three paths under a prefix, whose bodies are the same, one is enough.
    """
    others_under_prefix = "^(" + "|".join(COMPLETE) + ")/(v2/)?rerank$"
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(ROOT / "tools" / "schemathesis.toml"),
        "run", f"{simulated.url}/openapi.json", "--max-examples", "6", "--request-timeout", "30", "--seed", "6",
        "--exclude-path-regex", others_under_prefix,
    ]  # fmt: skip
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False)
    assert result.returncode == 0, result.stdout[-6_000:]
    simulated.wait_until_idle()
