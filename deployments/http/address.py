"""The address that a service listens on, IPv4 or IPv6, and its URL."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LISTENS = "0A"
_UNSENT_BYTES = 128 * 1024
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound


def configured_address(config: Mapping[str, Any]) -> tuple[str, int]:
    """Host and port of a Serve configuration; Serve's own defaults where it says nothing."""
    options = config.get("http_options") or {}
    return str(options.get("host") or "0.0.0.0"), int(options.get("port", 8000))  # noqa: S104 - a default of Serve's


def local_url(host: str, port: int, *, tls: bool = False) -> str:
    """The URL under which this machine reaches a service that listens there."""
    return f"{'https' if tls else 'http'}://{shown_address(_LOCAL.get(host, host), port)}"


def shown_address(host: str, port: int) -> str:
    """Host and port as a URL has them: `[::1]:8000`."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def bound_socket(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A TCP socket bound to an address; OSError: it is taken, or not this machine's. `::` takes IPv4 as well.

    `shared`: other sockets of this user may listen on the same address (SO_REUSEPORT).
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # Of what a client does not read, the kernel would take 4 MB for each connection, and nobody could see it.
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT_BYTES)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound


def listeners(port: int) -> int:
    """How many sockets of this machine listen on a port, on any address."""
    found = 0
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError):  # no IPv6, or no Linux
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                found += state == _LISTENS and int(local.rpartition(":")[2], 16) == port
    return found
