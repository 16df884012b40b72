"""Starting and stopping: nothing is left behind, and what cannot work says so at once."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from reranker.model.checkpoint import DEMO_MODEL
from tests.integration.conftest import ROOT, START_TIMEOUT_S, TLS, Service, configuration, free_port, started

RERANKER = str(Path(sys.executable).parent / "reranker")


@pytest.mark.slow
def test_stop_with_ctrl_c_leaves_no_process_behind(tmp_path: Path) -> None:
    """`stop` looks for what is left, here and in every other test; those stop their services with SIGTERM."""
    with started(configuration(simulated={}), tmp_path) as service:
        assert len(service.processes()) > 5
        assert service.stop(signal.SIGINT) == 0


@pytest.mark.slow
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


@pytest.mark.slow
def test_application_that_cannot_be_imported_ends_the_start(tmp_path: Path) -> None:
    """Ray Serve itself would wait for ever for somebody to deploy a better one."""
    config = configuration(replicas=1, simulated={})
    config["applications"].append({"name": "broken", "route_prefix": "/broken", "import_path": "no_such_module:app"})
    said = _refused(tmp_path, config)
    assert said.startswith("reranker: broken cannot be deployed: ModuleNotFoundError: No module named 'no_such_module'")
    assert "correct import_path" in said


@pytest.mark.slow
def test_start_shows_its_own_lines_and_logs_the_rest(tmp_path: Path) -> None:
    """At an IPv6 address."""
    config = tmp_path / "serve_config.yaml"
    config.write_text(yaml.safe_dump(configuration(replicas=1, simulated={}, ui=True)))
    port = free_port()
    with _started(tmp_path, "--config", str(config), "--host", "::1", "--port", str(port)) as (process, output):
        deadline = time.monotonic() + START_TIMEOUT_S
        while "Ctrl-C" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.2)
        body = {"query": "a", "documents": ["b"]}
        answer = httpx.post(f"http://[::1]:{port}/v1/rerank", json=body, timeout=30, verify=TLS)
        assert answer.status_code == 200
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=90) == 0
    lines = output.read_text().splitlines()
    assert all(re.match(r"Ray's|\[ *\d+ s\] |  \w+ +|Ctrl-C stops|Stopping", line) for line in lines), lines
    assert f"  playground  http://[::1]:{port}/ui" in lines
    assert "  model       demo" in lines
    [log] = (tmp_path / "cache" / "reranker" / "logs").iterdir()
    assert f"  log         {log}" in lines
    assert "Deployed app 'reranker'" in log.read_text() or "ServeReplica" in log.read_text()


@pytest.mark.slow
def test_damaged_weights_are_the_last_thing_said(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(DEMO_MODEL, model)
    os.truncate(model / "model.safetensors", 100_000)
    said = _refused(tmp_path, configuration(replicas=1, args={"model": {"name": str(model)}}))
    assert "model.safetensors is damaged" in said


@pytest.mark.slow
def test_too_little_memory_is_the_last_thing_said(tmp_path: Path) -> None:
    said = _refused(tmp_path, configuration(replicas=1, args={"engine": {"cpu_kv_cache_gib": 1_000_000}}))
    assert "engine.cpu_kv_cache_gib" in said


@pytest.mark.slow
def test_ray_that_cannot_start_is_the_last_thing_said(tmp_path: Path) -> None:
    said = _refused(tmp_path, configuration(replicas=1, simulated={}), RAY_TMPDIR="/proc/none")
    assert said.startswith("reranker: Ray cannot start: ")
    assert "memory, disk" in said


@contextlib.contextmanager
def _started(tmp_path: Path, *arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """`reranker serve` as a user sees it, its output in a file."""
    output = tmp_path / "output"
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache")} | environment
    with output.open("wb") as written:
        process = subprocess.Popen(
            [RERANKER, "serve", *arguments], stdout=written, stderr=subprocess.STDOUT, cwd=ROOT, env=environment
        )
    try:
        yield process, output
    finally:
        process.terminate()
        process.wait(timeout=90)


def _refused(tmp_path: Path, config: dict[str, Any], **environment: str) -> str:
    """The last line of a start that must fail."""
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config))
    arguments = ("--config", str(path), "--port", str(free_port()))
    with _started(tmp_path, *arguments, **environment) as (process, output):
        assert process.wait(timeout=START_TIMEOUT_S) == 1
        said = output.read_text()
    assert "Traceback" not in said
    return said.splitlines()[-1]


def test_whole_service_is_small(service: Service) -> None:
    """All processes together stay within 5 GiB, what they share counted once; docs/architecture.md has each."""
    total = sum(process.memory_full_info().pss for process in service.processes())
    assert total < 5 * 2**30
