"""What the relay sends to an upstream: a head of its own making, and the client's body with what must differ spliced.

A head is made of values that were checked to be printable ASCII, so that none of them can end its line.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from agentapi.egress.http1 import is_field_value
from agentapi.errors import InvalidRequestError, UpstreamError
from agentapi.upstreams.credentials import with_query
from agentapi.upstreams.http_pool import PoolKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from agentapi.egress.dialer import Destination, Dialer
    from agentapi.gateway.incoming import Incoming
    from agentapi.gateway.items import Target
    from agentapi.principal import OrgId, UpstreamId, UserId
    from agentapi.upstreams.credentials import Credential
    from agentapi.upstreams.models import Upstream

__all__ = ["Wire", "Wires", "request_pieces"]

_PASSED: Final = frozenset({b"traceparent", b"tracestate", b"baggage"})
"""Headers of a client that pass as they are (W3C Trace Context and Baggage)."""
_TOGETHER: Final = 16 * 1024
"""Below this a request is written in one piece, which is one copy more and one packet less."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How one version of an upstream is reached with one version of a credential."""

    key: PoolKey
    destination: Destination = field(repr=False)
    start: bytes = field(repr=False)
    """The request line and the headers that every request has, the credential among them."""


class Wires:
    """The wires of the upstreams in use.

    Writing these lines takes longer than all the rest of a head, so the last ones are kept: one for each upstream and
    owner of a credential, so that the head of an older credential is gone once there is a newer one.

    Args:
        dialer: Checks URLs.
        max_entries: Bound on what is kept; the least recently used goes first.
    """

    def __init__(self, dialer: Dialer, *, max_entries: int = 1024) -> None:
        self._dialer = dialer
        self._max_entries = max_entries
        self._wires: OrderedDict[tuple[OrgId, UpstreamId, UserId | None], Wire] = OrderedDict()

    def of(self, upstream: Upstream, credential: Credential) -> Wire:
        """Return the wire of ``upstream`` that carries ``credential``.

        Raises:
            EgressRefusedError: Its URL may not be requested.
            UpstreamError: Its credential cannot be sent.
        """
        place = (upstream.org_id, upstream.id, credential.user_id)
        wire = self._wires.get(place)
        if wire is None or wire.key.version != upstream.version or wire.key.credential != credential.version:
            wire = self._wires[place] = self._made(upstream, credential)
            if len(self._wires) > self._max_entries:
                self._wires.popitem(last=False)
        self._wires.move_to_end(place)
        return wire

    def forget(self, upstream_id: UpstreamId, user_id: UserId) -> None:
        """Drop the wires with a credential of that user."""
        for place in [place for place in self._wires if place[1:] == (upstream_id, user_id)]:
            del self._wires[place]

    def _made(self, upstream: Upstream, credential: Credential) -> Wire:
        if upstream.endpoint is None:
            raise AssertionError(upstream.id)
        key = PoolKey(upstream.org_id, upstream.id, upstream.version, credential.user_id, credential.version)
        destination = self._dialer.destination(with_query(upstream.endpoint, credential))
        fields = {
            "Host": destination.authority.decode("ascii"),
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Accept-Encoding": "identity",
            **{name: value.get_secret_value() for name, value in credential.headers.items()},
        }
        lines = [f"{name}: {value}".encode() for name, value in fields.items()]
        if not all(map(is_field_value, [destination.target, *lines])):
            raise UpstreamError(f"The credential of upstream '{upstream.name}' cannot be sent in a header.")
        start = b"".join(line + b"\r\n" for line in (b"POST %b HTTP/1.1" % destination.target, *lines))
        return Wire(key, destination, start)


def request_pieces(
    wire: Wire, incoming: Incoming, target: Target, *, request_state: str | None, headers: Iterable[tuple[bytes, bytes]]
) -> list[bytes]:
    """Return the request to send.

    Args:
        wire: Where to.
        incoming: The client's message.
        target: What it is about.
        request_state: The upstream's own state, if the message carries one.
        headers: The client's; of those that repeat arguments of the tool, what they say is checked already.

    Raises:
        InvalidRequestError: A header of the client cannot be passed on.
    """
    pieces = _spliced(incoming, target, request_state)
    size = sum(map(len, pieces))
    envelope = incoming.envelope
    named = target.head(envelope.protocol_version or "", envelope.method or "")
    wanted = _PASSED | target.mirrored if target.mirrored else _PASSED
    passed = [_line(*pair) for pair in headers if pair[0] in wanted]
    whole = [wire.start, named, *passed, b"Content-Length: %d\r\n\r\n" % size, *pieces]
    return [b"".join(whole)] if size <= _TOGETHER else whole


def _line(name: bytes, value: bytes) -> bytes:
    if not is_field_value(value):
        raise InvalidRequestError("A header that would be passed on holds more than printable ASCII.")
    return b"%b: %b\r\n" % (name, value)


def _spliced(incoming: Incoming, target: Target, request_state: str | None) -> list[bytes]:
    body, envelope, by_uri = incoming.body, incoming.envelope, target.member == "uri"
    place, written = (envelope.uri_range, envelope.uri) if by_uri else (envelope.name_range, envelope.name)
    edits: list[tuple[tuple[int, int], bytes]] = []
    if place is None or written is None:
        raise InvalidRequestError(f"The params of the request have no {target.member}.")
    if written != target.name:
        edits.append((place, target.name_json))
    if envelope.request_state_range is not None and request_state is not None:
        edits.append((envelope.request_state_range, json.dumps(request_state).encode()))
    if not edits:
        return [body]
    pieces: list[bytes] = []
    done = 0
    for (start, end), text in sorted(edits):
        pieces += (body[done:start], text)
        done = end
    return [*pieces, body[done:]]
