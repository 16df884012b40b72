"""A model that scores nonsense takes no traffic, and whoever starts it reads why."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.broken_models import broken_copy, clear_yes_and_no, swap_yes_and_no
from tests.integration.conftest import ROOT, START_TIMEOUT_S, TLS, Service

RERANKER = str(Path(sys.executable).parent / "reranker")


def _check(model: str) -> subprocess.CompletedProcess[str]:
    command = [RERANKER, "check", "--model", model]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=START_TIMEOUT_S, check=False)


def test_check_passes_the_bundled_model() -> None:
    result = _check("demo")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("ok ") == 6
    assert result.stdout.splitlines()[-1].endswith("all ok")


def test_check_refuses_a_broken_model_with_its_cause(tmp_path: Path) -> None:
    """Other ways of being broken: tests/engine/test_startup_check.py."""
    result = _check(str(broken_copy(tmp_path, clear_yes_and_no)))
    assert result.returncode == 1
    assert "failed  spread" in result.stdout
    assert "likeliest cause: a head of zeros" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_service_with_a_broken_model_takes_no_traffic_says_why_and_ends(
    tmp_path: Path,
) -> None:
    """Serve starts the replica once more; neither may ever be healthy, and nobody waits for ever."""
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    config["applications"][0]["args"] = {"model": {"name": str(broken_copy(tmp_path, swap_yes_and_no))}}
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    service = Service(path, tmp_path / "service.log")
    statuses = set()
    try:
        deadline = time.monotonic() + START_TIMEOUT_S
        while service.process.poll() is None:
            assert time.monotonic() < deadline, service.log.read_text()[-4000:]
            with contextlib.suppress(httpx.HTTPError):
                statuses.add(httpx.get(f"{service.url}/health", timeout=30, verify=TLS).status_code)
            time.sleep(0.2)
    finally:
        service.stop()
    assert statuses == {503}
    assert service.process.returncode == 1
    log = service.log.read_text()
    assert "fails the start-up check 'separation'" in log
    assert "likeliest cause: yes and no are swapped in the head" in log
    last = log.splitlines()[-1]
    assert last.startswith("reranker: reranker cannot be deployed: the model fails the start-up check 'separation'")
    assert "reranker check" in last
