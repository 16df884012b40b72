"""`k8s/drain.sh`, a worker's preStop, with stand-ins for Ray's command and the raylet's health."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import free_port
from tests.manifests.conftest import ROOT


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """`ray` notes what it is asked; the raylet lives as long as the file `node` is there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "ray").write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/asked\n[ ! -e {tmp_path}/refuses ]\n')
    (folder / "wget").write_text(f"#!/bin/bash\n[ -e {tmp_path}/node ] && echo success\n")
    for program in folder.iterdir():
        program.chmod(0o755)
    (tmp_path / "node").touch()
    return tmp_path


@pytest.fixture
def head() -> Iterator[socket.socket]:
    """Something that listens where the head's control store would."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def _drain(programs: Path, port: int, all_s: int, busy_s: int) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PATH": f"{programs / 'bin'}:{os.environ['PATH']}", "RAY_ADDRESS": f"127.0.0.1:{port}"}
    return subprocess.Popen(["bash", ROOT / "k8s" / "drain.sh", str(all_s), str(busy_s)], env=environment)


def _asked(programs: Path) -> list[str]:
    return (programs / "asked").read_text().splitlines() if (programs / "asked").exists() else []


def _until_asked(programs: Path, running: subprocess.Popen[bytes], times: int = 1) -> None:
    while len(_asked(programs)) < times:
        assert running.poll() is None, "it has ended"
        time.sleep(0.05)


def test_ray_is_told_once_and_the_end_of_its_node_waited_for(programs: Path, head: socket.socket) -> None:
    running = _drain(programs, head.getsockname()[1], 300, 150)
    _until_asked(programs, running)
    (programs / "node").unlink()
    assert running.wait(20) == 0
    [asked] = _asked(programs)
    assert "drain-node --address 127.0.0.1:" in asked
    assert 200 < int(asked.rpartition(" ")[2]) <= 300  # what is left of it


def test_head_that_starts_again_is_told_then(programs: Path) -> None:
    """A rolling upgrade of the nodes moves the head as well; SIGTERM at this moment would cut requests off."""
    port = free_port()
    running = _drain(programs, port, 300, 150)
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(2)
    with socket.create_server(("127.0.0.1", port)):
        _until_asked(programs, running)
        (programs / "node").unlink()
        assert running.wait(20) == 0


def test_refusal_is_asked_again(programs: Path, head: socket.socket) -> None:
    (programs / "refuses").touch()
    running = _drain(programs, head.getsockname()[1], 300, 150)
    _until_asked(programs, running, 2)
    (programs / "node").unlink()
    assert running.wait(20) == 0


def test_without_a_head_what_is_under_way_is_waited_for_and_no_longer(programs: Path) -> None:
    """A cluster that was replaced: nobody is left who could move a replica, and its GPUs are wanted elsewhere."""
    running = _drain(programs, free_port(), 300, 2)
    assert running.wait(30) == 0
    assert _asked(programs) == []


def test_drain_ends_in_time(programs: Path, head: socket.socket) -> None:
    assert _drain(programs, head.getsockname()[1], 2, 1).wait(30) == 0
