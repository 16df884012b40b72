"""One service, reached at the same address by `reranker serve`, its siblings and its playground; IPv6 too."""

import socket

import pytest

from deployments.http.address import bound_socket, configured_address, local_url, shown_address


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://127.0.0.1:8000"),  # noqa: S104 - not bound
        ("::", "http://[::1]:8000"),
        ("::1", "http://[::1]:8000"),
        ("fe80::1", "http://[fe80::1]:8000"),
        ("localhost", "http://localhost:8000"),
    ],
)
def test_url_is_one_that_this_machine_can_call(host: str, url: str) -> None:
    assert local_url(host, 8000) == url
    assert local_url(host, 8000, tls=True) == url.replace("http:", "https:")


def test_address_is_shown_as_in_a_url() -> None:
    assert shown_address("::", 80) == "[::]:80"
    assert shown_address("0.0.0.0", 80) == "0.0.0.0:80"  # noqa: S104 - not bound


def test_defaults_are_those_of_serve() -> None:
    assert configured_address({}) == ("0.0.0.0", 8000)  # noqa: S104 - not bound
    assert configured_address({"http_options": {"host": "::1", "port": 1}}) == ("::1", 1)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "localhost"])
def test_every_kind_of_address_can_be_bound(host: str) -> None:
    with bound_socket(host, 0) as bound:
        assert bound.family == (socket.AF_INET6 if ":" in host else socket.AF_INET)


def test_kernel_takes_little_of_what_a_client_does_not_read() -> None:
    """Connections have it from the socket that listens. What they do not read is ours to see, and to end."""
    with bound_socket("127.0.0.1", 0) as bound:
        bound.listen()
        with socket.create_connection(bound.getsockname()), bound.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == 128 * 1024


def test_address_in_use_is_refused() -> None:
    with bound_socket("::1", 0) as bound:
        bound.listen()
        with pytest.raises(OSError, match="in use"):
            bound_socket("::1", bound.getsockname()[1])
