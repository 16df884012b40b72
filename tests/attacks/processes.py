"""The service's processes: who listens on its port here and the replicas of its Ray session, or what /metrics says."""

from __future__ import annotations

import contextlib
import re
import socket
from pathlib import Path

import psutil

_REPLICA = re.compile(r"ServeReplica:([\w:-]+)")
_TOLD = re.compile(r"^(\w*?)(resident_memory_bytes|cpu_seconds_total)(\{.*?\})? (\S+)", re.MULTILINE)
_SESSION, _FOLDER = re.compile(r"^--session-name=(.+)"), re.compile(r"^--temp-dir=(.+)")


def is_here(host: str) -> bool:
    """Whether an address or a name is this machine's."""
    own = {one.address.partition("%")[0] for addresses in psutil.net_if_addrs().values() for one in addresses}
    try:
        return any(str(found[4][0]) in own for found in socket.getaddrinfo(host, None))
    except OSError:
        return False


def listeners(port: int) -> list[psutil.Process]:
    """Processes that listen on a port; none where they are on another machine, or another user's."""
    found = set()
    with contextlib.suppress(psutil.AccessDenied):
        for one in psutil.net_connections("tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr and one.laddr.port == port and one.pid:
                found.add(one.pid)
    processes = []
    for pid in found:
        with contextlib.suppress(psutil.Error):
            processes.append(psutil.Process(pid))
    return processes


def replicas(port: int) -> dict[int, psutil.Process]:
    """Every Serve replica of the session that listens on a port, by its id; only the listeners where it is no Serve."""
    found = {process.pid: process for process in listeners(port)}
    for process in list(found.values()):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            for child in parent.children() if parent is not None and "raylet" in parent.name() else ():
                with contextlib.suppress(psutil.Error):
                    if _REPLICA.search(" ".join(child.cmdline())):
                        found[child.pid] = child
    return found


def name_of(process: psutil.Process) -> str:
    """A replica's deployment, such as "Ingress"."""
    replica = _REPLICA.search(" ".join(process.cmdline()))
    return replica[1].rpartition(":")[2] if replica else process.name()


def log_folder(port: int) -> list[Path]:
    """Where the session of the process that listens on a port logs: its folder, and what its starter's output goes to.

    Empty where that is not known.
    """
    places: list[Path] = []
    with contextlib.suppress(psutil.Error, OSError, IndexError):
        raylet = listeners(port)[0].parent()
        if raylet is None:
            return []
        arguments = raylet.cmdline()
        session = [found[1] for one in arguments if (found := _SESSION.match(one))]
        folder = [found[1] for one in arguments if (found := _FOLDER.match(one))]
        if session and folder:
            places.append(Path(folder[0], session[0], "logs"))
        for ancestor in raylet.parents():
            output = Path(f"/proc/{ancestor.pid}/fd/1").resolve()
            if output.is_file() and output not in places:
                places.append(output)
    return places


def size_bytes(places: list[Path]) -> int:
    """Bytes of all files there."""
    total = 0
    for place in places:
        for path in place.rglob("*") if place.is_dir() else [place]:
            with contextlib.suppress(OSError):
                total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
    return total


def told(metrics: str) -> dict[str, tuple[int, float]]:
    """What Prometheus' text says of processes: bytes of memory and seconds of processor, by their labels.

    The names are those of Prometheus' clients, with whatever prefix: `process_resident_memory_bytes`.
    """
    found: dict[str, dict[str, float]] = {}
    for prefix, what, labels, value in _TOLD.findall(metrics):
        found.setdefault(f"{prefix.rstrip('_')}{labels}", {})[what] = float(value)
    return {
        name: (int(one["resident_memory_bytes"]), one.get("cpu_seconds_total", 0.0))
        for name, one in found.items()
        if "resident_memory_bytes" in one
    }
