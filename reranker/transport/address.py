"""Where a replica takes shards, and the word that opens the door."""

from __future__ import annotations

import hmac
import secrets
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from reranker.errors import ConfigurationError

VERSION = 2
"""Of the frames. Raised when an older side could not understand a newer one."""
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}
_USER_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Told by a replica, through Ray, to those that are to send it shards."""

    host: str
    port: int
    secret: str = field(repr=False)
    """Made by the replica, for this one life of it."""
    model: str = ""
    """Digest of what its engine holds: `reranker.model.checkpoint.model_identity`."""

    @classmethod
    def new(cls, host: str, port: int, model: str) -> Self:
        """With a secret that nobody knows yet."""
        return cls(host, port, secrets.token_hex(32), model)

    def opens(self, secret: object) -> bool:
        """Whether this is the secret, in a time that does not tell how near it comes."""
        return isinstance(secret, str) and hmac.compare_digest(secret.encode(), self.secret.encode())

    def as_metadata(self) -> dict[str, object]:
        """What Ray carries."""
        return {"host": self.host, "port": self.port, "secret": self.secret, "model": self.model, "version": VERSION}

    @classmethod
    def of_metadata(cls, metadata: Mapping[str, object]) -> Self | None:
        """Read what Ray carried. None: from a replica that speaks another version of the frames, or none."""
        if metadata.get("version") != VERSION:
            return None
        host, port, secret, model = (metadata[key] for key in ("host", "port", "secret", "model"))
        return cls(str(host), int(str(port)), str(secret), str(model))


def watch_peer(connection: socket.socket) -> None:
    """Have the kernel notice within seconds that the machine at the other end is gone without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)


_CERTIFICATE, _KEY, _AUTHORITY = "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT"


def tls_context(environment: Mapping[str, str], *, server: bool) -> ssl.SSLContext | None:
    """Make a context of Ray's settings: both sides show a certificate, and each checks the other's authority.

    Names are not checked: Ray's certificates mostly have none that a pod's address would match, and a replica is
    known by its secret.

    Args:
        environment: Variables; see Ray's documentation, "TLS authentication".
        server: Whether for the replica's side.

    Returns:
        None: `RAY_USE_TLS` is not set, so nothing is encrypted.

    Raises:
        ConfigurationError: A certificate is missing, or is none.
    """
    if environment.get("RAY_USE_TLS", "0").lower() not in {"1", "true"}:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(environment[_CERTIFICATE], environment[_KEY])
        context.load_verify_locations(environment[_AUTHORITY])
    except KeyError as error:
        raise ConfigurationError(f"RAY_USE_TLS is set, and {error.args[0]} is not") from None
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"a certificate of RAY_TLS_* cannot be used ({error})") from None
    return context
