"""What modern clients say of themselves with every request, read once for each way of saying it.

Invariant: what is known was read and checked in full before, in the same bytes. All that is left to check of a request
is then what stands outside of them; where that is not plainly in order, the request is read in full as well, which
finds out what is wrong with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mcp.shared.inbound import decode_header_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.gateway.exchange import ClientTraits
    from agentapi.gateway.incoming import Incoming

__all__ = ["Introductions"]

_CALL: Final = "tools/call"
_MAX_BYTES: Final = 4096


class Introductions:
    """Remembers the ``_meta`` of tool calls that were found to be good.

    Args:
        max_entries: Bound on what is remembered; all of it goes when that is reached.
    """

    def __init__(self, *, max_entries: int = 1024) -> None:
        self._max_entries = max_entries
        self._known: dict[bytes, ClientTraits] = {}

    def known(self, incoming: Incoming, headers: Sequence[tuple[bytes, bytes]]) -> ClientTraits | None:
        """Return what the client says of itself if that is known, and the rest of the call is plainly in order."""
        envelope = incoming.envelope
        client = self._known.get(_meta(incoming))
        fields = dict(headers)
        if client is None or envelope.method != _CALL or envelope.name is None or len(fields) != len(headers):
            return None
        name = fields.get(b"mcp-name")
        agrees = (
            fields.get(b"mcp-protocol-version") == client.revision.encode()
            and fields.get(b"mcp-method") == _CALL.encode()
            and name is not None
            and _decoded(name) == envelope.name
        )
        return client if agrees and envelope.has_plain_params else None

    def remember(self, incoming: Incoming, client: ClientTraits) -> None:
        """Remember what ``client`` said with a request that was found to be good."""
        meta = _meta(incoming)
        # A token for progress is another one each time.
        if incoming.method != _CALL or len(meta) > _MAX_BYTES or incoming.envelope.has_progress_token:
            return
        if len(self._known) >= self._max_entries:
            self._known.clear()
        self._known[meta] = client


def _decoded(name: bytes) -> str | None:
    """Return what a header says; what does not begin like an encoded word stands for itself."""
    text = name.decode("latin-1")
    return decode_header_value(text) if text.startswith("=?") else text


def _meta(incoming: Incoming) -> bytes:
    start, end = incoming.envelope.meta_range or (0, 0)
    return incoming.body[start:end]
