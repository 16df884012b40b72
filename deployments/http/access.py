"""API keys: who calls, and what they may. From a mounted file, read again when it changes, and from the environment.

Only digests are kept. A key is compared with every known one, whichever it is, so that time tells nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import PositiveInt, StringConstraints, TypeAdapter, ValidationError

from reranker.config import AccessConfig, Group
from reranker.errors import ConfigurationError, UnauthorizedError
from reranker.types import ANONYMOUS, Caller, Priority

logger = logging.getLogger(__name__)

ENVIRONMENT = "RERANKER_API_KEYS"
"""Variable with keys: a file's content, or one key, or several with commas between them."""
_DIGEST_PREFIX = "sha256:"
_DIGEST = re.compile(f"{_DIGEST_PREFIX}[0-9a-fA-F]{{64}}")
_LOOK_EVERY_S = 1.0


class KeySettings(Group):
    """One entry of a keys file."""

    key: str | tuple[str, ...]
    """The key, or `sha256:` and its hexadecimal digest; several while one is exchanged for another."""
    priority: Priority | None = None
    max_in_flight: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    admin: bool = False
    metrics: bool = False
    complete: bool = False


_Name = Annotated[str, StringConstraints(pattern=r"^[\w.-]{1,64}$")]
_ENTRIES: TypeAdapter[dict[str, KeySettings]] = TypeAdapter(dict[_Name, KeySettings])


class Keyring:
    """The keys that are known now."""

    def __init__(
        self, config: AccessConfig, environment: str = "", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the file that `config` names and what the environment's variable holds. No error quotes them."""
        self.open_metrics, self.cors_origins = config.open_metrics, config.cors_origins
        self._file = Path(config.keys_file) if config.keys_file else None
        self._clock, self._looked_s = clock, clock()
        self._from_environment = _parse(environment, f"the environment variable {ENVIRONMENT}")
        self._stamp = _stamp(self._file)
        self._known = self._read()

    @property
    def needed(self) -> bool:
        """Whether a request needs a key. A file that has become empty locks everybody out, not in."""
        return bool(self._known or self._file)

    def caller(self, authorization: str | None) -> Caller:
        """Say who calls, by the header of that name; raises UnauthorizedError."""
        self._look_again()
        if not self.needed:
            return ANONYMOUS
        scheme, _, key = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise UnauthorizedError(False)
        digest = _digest(key.strip())
        matching = [caller for known, caller in self._known.items() if hmac.compare_digest(known, digest)]
        if not matching:
            raise UnauthorizedError(True)
        return matching[0]

    def _look_again(self) -> None:
        """Read the file again if it has changed; what cannot be read leaves the keys as they were."""
        now_s = self._clock()
        if self._file is None or now_s - self._looked_s < _LOOK_EVERY_S:
            return
        self._looked_s = now_s
        stamp = _stamp(self._file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._known = self._read()
        except ConfigurationError as error:
            logger.error("the API keys stay as they were: %s", error)  # noqa: TRY400 - the trace says no more
        else:
            logger.info("%d API keys are known now", len(self._known))

    def _read(self) -> dict[bytes, Caller]:
        if self._file is None:
            return self._from_environment
        where = f"access.keys_file {self._file}"
        try:
            text = self._file.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"{where}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigurationError(f"{where}: it is not UTF-8") from None
        return self._from_environment | _parse(text, where)


def require_keys(host: str, config: AccessConfig, keys: Keyring) -> None:
    """Refuse to serve a public address to everybody by accident."""
    if not (keys.needed or config.allow_anonymous or is_loopback(host)):
        raise ConfigurationError(
            f"http_options.host is {host}, which other machines may reach, and there are no API keys. Give keys "
            f"(access.keys_file, or the environment variable {ENVIRONMENT}), or say that everybody may use the "
            "service: access.allow_anonymous: true"
        )


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _stamp(file: Path | None) -> object:
    try:
        status = os.stat(file or "")  # follows Kubernetes' links: a mounted secret changes by an exchange of these
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _parse(text: str, where: str) -> dict[bytes, Caller]:
    """Read the entries of a file or a variable, by their keys' digests."""
    try:
        loaded: Any = yaml.safe_load(text)  # Any: YAML
    except yaml.YAMLError:
        raise ConfigurationError(f"{where} is not YAML") from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        loaded = {f"key-{number}": key for number, key in enumerate(str(loaded).split(","), start=1)}
    for name, one in loaded.items():
        if isinstance(one, int | float):
            raise ConfigurationError(f"{where}: {name}: put the key in quotes; YAML reads a number")
    entries = {str(name): {"key": one} if isinstance(one, str | list) else one for name, one in loaded.items()}
    try:
        settings = _ENTRIES.validate_python(entries)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(str(part) for part in problem["loc"][:2])
        raise ConfigurationError(f"{where}: {place}: {problem['msg']}") from None
    known: dict[bytes, Caller] = {}
    for name, one in settings.items():
        caller = Caller(name, **one.model_dump(exclude={"key"}))
        for key in [one.key] if isinstance(one.key, str) else one.key:
            key = key.strip()
            if not key:
                raise ConfigurationError(f"{where}: {name}: the key is empty")
            if not key.startswith(_DIGEST_PREFIX):
                digest = _digest(key)
            elif _DIGEST.fullmatch(key):
                digest = bytes.fromhex(key.removeprefix(_DIGEST_PREFIX))
            else:
                raise ConfigurationError(f"{where}: {name}: {_DIGEST_PREFIX} must be followed by 64 hexadecimal digits")
            if digest in known:
                raise ConfigurationError(f"{where}: {name} has the same key as {known[digest].name}")
            known[digest] = caller
    return known
