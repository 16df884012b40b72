"""API keys: who is let in, what a file may hold, and that changing it needs no restart."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

import pytest

from deployments.http.access import Keyring, require_keys
from reranker.config import AccessConfig
from reranker.errors import ConfigurationError, UnauthorizedError
from reranker.types import ANONYMOUS, Caller

FILE = f"""\
search: key-of-search
batch:
  key: [old-key, new-key]
  priority: bulk
  max_in_flight: 2
  tokens_per_minute: 6000
operator:
  key: sha256:{hashlib.sha256(b"key-of-operator").hexdigest()}
  admin: true
"""


class Clock:
    """A clock that tests move."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    path.write_text(FILE)
    return path


def _keyring(file: Path | None, environment: str = "", clock: Clock | None = None) -> Keyring:
    return Keyring(AccessConfig(keys_file=str(file) if file else None), environment, clock or Clock())


def test_key_says_who_calls_and_what_they_may(file: Path) -> None:
    keys = _keyring(file)
    assert keys.needed
    assert keys.caller("Bearer key-of-search") == Caller("search")
    assert keys.caller("bearer  new-key ") == keys.caller("Bearer old-key") == Caller("batch", "bulk", 2, 6_000)
    assert keys.caller("Bearer key-of-operator") == Caller("operator", admin=True)


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "key-of-search",
        "Basic key-of-search",
        "Bearer key-of-searc",
        "Bearer KEY-OF-SEARCH",
    ],
)
def test_everything_else_is_refused(file: Path, authorization: str | None) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        _keyring(file).caller(authorization)
    assert "Authorization: Bearer KEY" in str(caught.value)
    assert "key-of" not in str(caught.value)


def test_missing_key_and_unknown_key_are_told_apart(file: Path) -> None:
    """One sentence tells what to send, the other that what was sent is wrong."""
    with pytest.raises(UnauthorizedError, match="is needed"):
        _keyring(file).caller(None)
    with pytest.raises(UnauthorizedError, match="not known"):
        _keyring(file).caller("Bearer \udce9")


def test_without_keys_everybody_is_let_in() -> None:
    keys = _keyring(None)
    assert not keys.needed
    assert keys.caller(None) == keys.caller("Bearer whatever") == ANONYMOUS


@pytest.mark.parametrize(
    ("environment", "key", "name"),
    [
        ("only-key", "only-key", "key-1"),
        ("first, second", "second", "key-2"),
        ("12345", "12345", "key-1"),
        ("team: its-key", "its-key", "team"),
        ("{team: {key: its-key, priority: bulk}}", "its-key", "team"),
    ],
)
def test_environment_may_hold_a_key_or_several_or_a_whole_file(environment: str, key: str, name: str) -> None:
    assert _keyring(None, environment).caller(f"Bearer {key}").name == name


def test_keys_of_file_and_environment_are_known_together(file: Path) -> None:
    keys = _keyring(file, "extra")
    assert (keys.caller("Bearer extra").name, keys.caller("Bearer key-of-search").name) == ("key-1", "search")


def test_changed_file_counts_without_a_restart(file: Path) -> None:
    clock = Clock()
    keys = _keyring(file, clock=clock)
    file.write_text("search: another-key\n")
    assert keys.caller("Bearer key-of-search").name == "search"  # looked at once a second
    clock.now_s += 1
    assert keys.caller("Bearer another-key").name == "search"
    with pytest.raises(UnauthorizedError):
        keys.caller("Bearer key-of-search")


def test_secret_mounted_by_kubernetes_changes_by_an_exchange_of_links(tmp_path: Path) -> None:
    """The file itself is never written again, and may have its predecessor's time and size."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.yaml").write_text(f"a: key-{name}\n")
        os.utime(tmp_path / name / "keys.yaml", (1, 1))
    (tmp_path / "data").symlink_to("one")
    clock = Clock()
    keys = _keyring(tmp_path / "data" / "keys.yaml", clock=clock)
    assert keys.caller("Bearer key-one").name == "a"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(tmp_path / "data")
    clock.now_s += 1
    assert keys.caller("Bearer key-two").name == "a"


@pytest.mark.parametrize("text", ["search: [", "search: {ky: a}", None])
def test_file_that_became_unreadable_leaves_the_keys_as_they_were(
    file: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A typing error in a secret must neither open the service nor close it."""
    clock = Clock()
    keys = _keyring(file, clock=clock)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    clock.now_s += 1
    assert keys.caller("Bearer key-of-search").name == "search"
    clock.now_s += 1
    assert keys.caller("Bearer key-of-search").name == "search"
    assert len([one for one in caplog.records if one.levelno == logging.ERROR]) == 1


def test_file_that_became_empty_locks_everybody_out(file: Path) -> None:
    clock = Clock()
    keys = _keyring(file, clock=clock)
    file.write_text("")
    clock.now_s += 1
    with pytest.raises(UnauthorizedError):
        keys.caller("Bearer key-of-search")
    with pytest.raises(UnauthorizedError):
        keys.caller(None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [", "is not YAML"),
        ("a: {key: secret-word, ky: 3}", "a.ky: Extra inputs"),
        ("a: {admin: true}", "a.key: Field required"),
        ("a: 12345", "a: put the key in quotes"),
        ("'a b': secret-word", "a b"),
        ("a: {key: secret-word, max_in_flight: 0}", "a.max_in_flight"),
        ("a: ' '", "a: the key is empty"),
        ("a: sha256:12", "64 hexadecimal digits"),
        ("a: sha256:secret-word", "64 hexadecimal digits"),
        ("a: secret-word\nb: secret-word", "b has the same key as a"),
    ],
)
def test_keys_file_that_cannot_be_used_stops_the_start_and_is_not_quoted(
    tmp_path: Path, text: str, problem: str
) -> None:
    (tmp_path / "keys.yaml").write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        _keyring(tmp_path / "keys.yaml")
    assert problem in str(caught.value)
    assert "secret-word" not in str(caught.value)


def test_missing_or_binary_file_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        _keyring(tmp_path / "nowhere.yaml")
    (tmp_path / "keys.yaml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        _keyring(tmp_path / "keys.yaml")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.com"])  # noqa: S104 - not bound
def test_public_address_without_keys_is_refused_unless_meant(file: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"access\.allow_anonymous: true"):
        require_keys(host, AccessConfig(), _keyring(None))
    require_keys(host, AccessConfig(allow_anonymous=True), _keyring(None))
    require_keys(host, AccessConfig(keys_file=str(file)), _keyring(file))
    require_keys(host, AccessConfig(), _keyring(None, "a-key"))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.9.9.9"])
def test_loopback_needs_no_keys(host: str) -> None:
    require_keys(host, AccessConfig(), _keyring(None))
