"""TLS between ingress and replicas, where Ray's own connections have it: the same variables, the same certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

from reranker.errors import ConfigurationError

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
