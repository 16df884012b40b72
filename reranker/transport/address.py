"""Where a replica takes shards, and the secret that an ingress must know."""

import secrets
import ssl
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

import orjson

from reranker.errors import ConfigurationError
from reranker.types import ServedModel

VERSION = 2
"""Of the frames. Raised when an older side could not understand a newer one."""


@dataclass(frozen=True, slots=True)
class ReplicaAddress:
    """Address of a replica; Ray carries it to the ingresses."""

    host: str
    port: int
    model: ServedModel  # of its engine
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)  # new in each life

    @property
    def hello(self) -> bytes:
        """What an ingress says first: the secret, in JSON."""
        return orjson.dumps(self.secret)

    def to_metadata(self) -> dict[str, Any]:
        address = {"host": self.host, "port": self.port, "secret": self.secret, "version": VERSION}
        return address | asdict(self.model) | {"model": self.model.identity}  # as older ingresses read it

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Self | None:
        """Read what Ray carried. None: the replica has no address, or speaks another version of the frames."""
        if metadata.get("version") != VERSION:
            return None
        said = {name: metadata.get(name, "") for name in ServedModel.__slots__}  # older replicas say the identity only
        model = ServedModel(**said | {"identity": metadata["model"]})
        return cls(metadata["host"], metadata["port"], model, metadata["secret"])


def tls_context(environment: Mapping[str, str], *, server: bool) -> ssl.SSLContext | None:
    """Make a context of Ray's variables ("TLS authentication" in its documentation). None: `RAY_USE_TLS` is not set.

    Both sides show a certificate, and each checks the other's authority. Names are not checked: Ray's certificates
    rarely have one that matches a pod's address, and a replica is known by its secret. ConfigurationError: a
    certificate is missing or invalid.
    """
    if environment.get("RAY_USE_TLS", "0").lower() not in {"1", "true"}:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH if server else ssl.Purpose.SERVER_AUTH)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(environment["RAY_TLS_SERVER_CERT"], environment["RAY_TLS_SERVER_KEY"])
        context.load_verify_locations(environment["RAY_TLS_CA_CERT"])
    except KeyError as error:
        raise ConfigurationError(f"RAY_USE_TLS is set, and {error.args[0]} is not") from None
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"a certificate of RAY_TLS_* cannot be used ({error})") from None
    return context
