"""Starting and stopping: nothing is left behind, and what cannot work says so at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.integration.conftest import ROOT, START_TIMEOUT_S, Service, configuration, running

RERANKER = str(Path(sys.executable).parent / "reranker")


def test_stop_with_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    """`stop` looks for what is left, here and in every other test; those stop their services with SIGTERM."""
    with running(tmp_path, simulated={}) as service:
        assert len(service.processes()) > 5
        assert service.stop(signal.SIGINT) == 0


def test_stop_during_the_start_leaves_no_process_behind(tmp_path: Path) -> None:
    service = Service(ROOT / "serve_config.yaml", tmp_path / "service.log")
    deadline = time.monotonic() + 60
    while len(service.processes()) < 5 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(service.processes()) >= 5
    assert service.stop() == 0


def test_port_in_use_is_said_before_anything_starts(service: Service) -> None:
    command = [RERANKER, "serve", "--port", str(service.port)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert f"127.0.0.1:{service.port}" in result.stderr
    assert "Traceback" not in result.stderr


def test_unknown_model_is_said_before_anything_starts() -> None:
    result = subprocess.run(
        [RERANKER, "serve", "--model", "./no-such-folder"],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert "no-such-folder" in result.stderr
    assert "Traceback" not in result.stderr


def test_application_that_cannot_be_imported_ends_the_start(tmp_path: Path) -> None:
    """Ray Serve itself would wait for ever for somebody to deploy a better one."""
    config = configuration(replicas=1, simulated={})
    config["applications"].append({"name": "broken", "route_prefix": "/broken", "import_path": "no_such_module:app"})
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    service = Service(path, tmp_path / "service.log")
    try:
        assert service.process.wait(timeout=START_TIMEOUT_S) == 1
    finally:
        service.stop()
    log = service.log.read_text()
    assert "cannot be deployed: broken:" in log
    assert "no_such_module" in log
    assert log.rstrip().endswith("reranker: the service cannot be started; the reason is in the output above")


def test_whole_service_is_small(service: Service) -> None:
    """All processes together stay within 5 GiB, what they share counted once; docs/architecture.md has each."""
    total = sum(process.memory_full_info().pss for process in service.processes())
    assert total < 5 * 2**30
