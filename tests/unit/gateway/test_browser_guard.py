from __future__ import annotations

import pytest

from agentapi.errors import ForbiddenError
from agentapi.gateway.browser_guard import BrowserGuard

GUARD = BrowserGuard("https://gw.example", origins=("https://app.example",), hosts=("Internal.svc",))
LOCAL = BrowserGuard("http://127.0.0.1:8000", allow_loopback=True)


def accepts(guard: BrowserGuard, *headers: tuple[str, str]) -> bool:
    try:
        guard.check([(name.encode(), value.encode("latin-1")) for name, value in headers])
    except ForbiddenError:
        return False
    return True


@pytest.mark.parametrize("host", ["gw.example", "GW.Example", "gw.example:8443", "internal.svc", "internal.svc:80"])
def test_the_gateways_own_names_are_accepted(host: str) -> None:
    assert accepts(GUARD, ("host", host))


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "gw.example.evil",
        "gw.example@evil.example",
        "evil.example@gw.example",
        "evil.example/gw.example",
        "gw.example, evil.example",
        "127.0.0.1",
        "localhost",
        "",
        ":80",
        "[::1",
        "gw.example:port",
        "gw.ex\xe4mple",
    ],
)
def test_another_name_is_refused(host: str) -> None:
    assert not accepts(GUARD, ("host", host))


def test_one_name_has_to_be_given_once() -> None:
    assert not accepts(GUARD)
    assert not accepts(GUARD, ("host", "gw.example"), ("host", "gw.example"))


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        ("https://gw.example", True),
        ("https://app.example", True),
        ("https://gw.example:443", False),
        ("http://gw.example", False),
        ("https://evil.example", False),
        ("null", False),
        ("http://localhost", False),
    ],
)
def test_an_origin_is_compared_exactly(origin: str, accepted: bool) -> None:
    assert accepts(GUARD, ("host", "gw.example"), ("origin", origin)) is accepted


def test_one_foreign_origin_among_several_is_enough() -> None:
    pair = ("origin", "https://gw.example"), ("origin", "https://evil.example")
    assert not accepts(GUARD, ("host", "gw.example"), *pair)
    assert not accepts(GUARD, ("host", "gw.example"), *pair[::-1])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:8000", "[::1]:8000", "127.1.2.3", "LOCALHOST:1"])
def test_development_goes_by_every_name_of_loopback(host: str) -> None:
    assert accepts(LOCAL, ("host", host))


@pytest.mark.parametrize(
    ("origin", "accepted"),
    [
        ("http://localhost:8000", True),
        ("http://[::1]:8000", True),
        ("http://localhost:3000", False),
        ("https://localhost:8000", False),
        ("http://localhost.evil.example:8000", False),
        ("http://localhost:99999", False),
        ("null", False),
    ],
)
def test_another_port_of_this_machine_is_another_origin(origin: str, accepted: bool) -> None:
    assert accepts(LOCAL, ("host", "localhost:8000"), ("origin", origin)) is accepted
